"""Each backbone learns the embedded data set at a tiny size, under a detector and a segmentor."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    path
    for path in sorted([*CONFIGS.glob("detection/*_shapes.py"), *CONFIGS.glob("segmentation/*_shapes.py")])
    if "_xcit_" not in path.stem  # tests/tools/test_train_and_test.py trains these
]


def test_each_backbone_has_a_tiny_config_for_detection_and_segmentation(read):
    backbones = {(path.parent.name, read(path).model.backbone.variant.partition("_")[0]) for path in TINY}
    assert backbones == {(task, name) for task in ("detection", "segmentation") for name in ("beit", "cait", "coat")}
    assert all(read(path).model.backbone.get("init_cfg") is None for path in TINY)


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_the_loss_of_the_classes_falls_and_every_parameter_learns(path, shapes):
    # The losses of boxes and masks rise at first, because better proposals contain more objects.
    losses_of_classes = {"loss_rpn_cls", "loss_cls", "decode.loss_ce"}
    config = load_config(path, {"optim_wrapper.optimizer.lr": 5e-4}, data_root=str(shapes))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
        optim = build_optim_wrapper(model, config.optim_wrapper)
        dataset = DATASETS.build(config.train_dataloader.dataset)
        batch = pseudo_collate([dataset[0], dataset[1]])
        before = {name: value.detach().clone() for name, value in model.backbone.named_parameters()}
        model.train()
        steps = [model.train_step(batch, optim) for _ in range(8)]
    losses = [sum(step[name].item() for name in losses_of_classes & step.keys()) for step in steps]
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0], losses
    still = [name for name, value in model.backbone.named_parameters() if torch.equal(value, before[name])]
    assert not still, "parameters that did not learn"
