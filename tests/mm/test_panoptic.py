"""The panoptic config reads COCO's panoptic layout, trains, predicts and is evaluated on the embedded data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.structures import PixelData

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.panoptic import rgb2id
from xcit_dense.datasets.shapes import CLASSES
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.evaluators import check_evaluators
from xcit_dense.mm.config.load import load_config

STUFF = "background"
CONFIG = Path(__file__).parents[2] / "configs/detection/mask2former_xcit_s12_panoptic.py"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
THINGS = len(CLASSES)
SMALL = {
    "model.backbone.variant": "nano_12_p16",
    "model.backbone.init_cfg": None,
    "model.backbone.norm_cfg.type": "BN",
    "model.data_preprocessor.batch_augments": None,
    "model.panoptic_head.in_channels": [128] * 4,
    "model.panoptic_head.num_things_classes": THINGS,
    "model.panoptic_head.num_stuff_classes": 1,
    "model.panoptic_head.num_queries": 10,
    "model.panoptic_head.loss_cls.class_weight": [1.0] * (THINGS + 1) + [0.1],
    "model.panoptic_head.pixel_decoder.encoder.num_layers": 1,
    "model.panoptic_head.transformer_decoder.num_layers": 1,
    "model.panoptic_fusion_head.num_things_classes": THINGS,
    "model.panoptic_fusion_head.num_stuff_classes": 1,
    "model.train_cfg.num_points": 256,
    "model.test_cfg.max_per_image": 5,
    "model.test_cfg.object_mask_thr": 0.0,
    "train_dataloader.dataset.pipeline.3.scale": (64, 64),
    "train_dataloader.dataset.pipeline.3.ratio_range": (1.0, 1.5),
    "train_dataloader.dataset.pipeline.4.crop_size": (64, 64),
    "val_dataloader.dataset.pipeline.1.scale": (64, 64),
    "test_dataloader.dataset.pipeline.1.scale": (64, 64),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def config(shapes):
    config = load_config(CONFIG, SMALL, str(shapes))
    names = {"classes": (*CLASSES, STUFF), "thing_classes": CLASSES, "stuff_classes": (STUFF,)}
    for loader in LOADERS:
        config[loader].dataset.metainfo = names
    return config


def test_the_config_passes_the_check_with_its_data(config, shapes):
    check_config(config, weights=False)
    for evaluator in config.val_evaluator:
        assert Path(evaluator.ann_file).parent == shapes / "annotations"
    assert Path(config.val_evaluator[0].seg_prefix) == shapes / "annotations/panoptic_val2017"


def test_the_panoptic_metric_must_read_the_file_of_the_data_set(config, shapes):
    config.val_evaluator[0].ann_file = str(shapes / "annotations/panoptic_train2017.json")
    with raises_user_error("val_evaluator reads", "panoptic_train2017.json"):
        check_evaluators(config, ("val_dataloader",))
    config.val_evaluator[1].ann_file = "gone.json"
    with raises_user_error("val_evaluator reads"):
        check_evaluators(config, ("val_dataloader",))


def test_a_step_trains_the_backbone_and_a_prediction_labels_every_pixel(config):
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    optim = build_optim_wrapper(model, config.optim_wrapper)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    sample = dataset[0]["data_samples"]
    # The shapes are things, and the background is stuff.
    assert sample.gt_instances.labels.max() < THINGS
    assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) <= {*range(THINGS + 1), 255}
    assert (sample.gt_sem_seg.sem_seg == THINGS).any()
    before = model.backbone.blocks[0].attn.qkv.weight.detach().clone()
    losses = model.train().train_step(pseudo_collate([dataset[0], dataset[1]]), optim)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert not torch.equal(model.backbone.blocks[0].attn.qkv.weight, before)
    tests = DATASETS.build(config.test_dataloader.dataset)
    with torch.no_grad():
        (found,) = model.eval().test_step(pseudo_collate([tests[0]]))
    segments = found.pred_panoptic_seg.sem_seg
    assert tuple(segments.shape[-2:]) == found.ori_shape
    assert len(found.pred_instances) <= 5


@pytest.fixture
def evaluate(config):
    """Evaluates panoptic label maps of the validation images, made from the ground truth by a function."""
    from mmdet.evaluation import INSTANCE_OFFSET

    dataset = DATASETS.build(config.val_dataloader.dataset)

    def evaluate(change):
        metric = METRICS.build(config.val_evaluator[0])
        metric.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            sample = dataset[index]["data_samples"]
            truth = rgb2id(np.asarray(Image.open(dataset.get_data_info(index)["seg_map_path"])))
            segments = np.zeros_like(truth)
            for number, segment in enumerate(dataset.get_data_info(index)["segments_info"]):
                segments[truth == segment["id"]] = segment["category"] + number * INSTANCE_OFFSET
            sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(change(segments))[None])
            metric.process({}, [sample.to_dict()])
        return metric.evaluate(len(dataset))

    return evaluate


def test_the_ground_truth_itself_has_a_panoptic_quality_of_100(evaluate):
    found = evaluate(lambda segments: segments)
    assert found["coco_panoptic/PQ"] == found["coco_panoptic/PQ_th"] == found["coco_panoptic/PQ_st"] == 100


def test_without_objects_the_stuff_keeps_its_matches(evaluate):
    found = evaluate(lambda segments: np.full_like(segments, THINGS))  # all is background
    assert found["coco_panoptic/PQ_th"] == 0
    assert found["coco_panoptic/RQ_st"] == 100  # more than half of each image is background
    assert 50 < found["coco_panoptic/SQ_st"] < 100
