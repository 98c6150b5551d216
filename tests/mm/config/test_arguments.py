"""Options of the command line that the config's parts do not know."""

from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.load import load_config

SHAPES = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("optim_wrapper.optimizer.lrr", "'lr'"),
        ("optimizer.lrr", "'optim_wrapper.optimizer.lr'"),
        ("optimizer.lr", "'optim_wrapper.optimizer.lr'"),
        ("max_iters", "'train_cfg.max_iters'"),
        ("work_dirs", "'work_dir'"),
        ("train_dataloader.batchsize", "'batch_size'"),
        ("train_dataloader.sampler.shufle", "'shuffle'"),
        ("train_dataloader.dataset.pipeline.1.with_masks", "'with_mask'"),
        ("model.backbone.drop_path_rat", "'drop_path_rate'"),
        ("model.test_cfg.rcnn.score_th", "'score_thr'"),
        ("default_hooks.checkpoint.save_bst", "'save_best'"),
        ("param_scheduler.0.endd", "'end'"),
        ("train_cfg.val_intervall", "'val_interval'"),
        ("val_evaluator.metrics", "'metric'"),
    ],
)
def test_an_option_that_is_misspelt_in_any_part_is_refused_with_the_nearest_key(option, near):
    with raises_user_error(f"--cfg-options {option}", "Did you mean", near):
        load_config(SHAPES, {option: 1})


def test_an_option_that_resembles_nothing_is_refused_with_the_keys_that_exist():
    with raises_user_error("model.roi_head.bbox_head.foo", "There are", "num_classes"):
        load_config(SHAPES, {"model.roi_head.bbox_head.foo": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone.drop_path_rate": 0.1},
        {"model.roi_head.bbox_head.with_avg_pool": True},
        {"train_dataloader.pin_memory": True},
        {"train_dataloader.dataset.indices": 2},
        {"default_hooks.checkpoint.save_best": "auto"},
        {"default_hooks.early.type": "EarlyStoppingHook"},
        {"optim_wrapper.optimizer.type": "SGD", "optim_wrapper.optimizer.momentum": 0.9},
        {"model.backbone.init_cfg.type": "Pretrained", "model.backbone.init_cfg.checkpoint": "small_12_p16_224"},
        {"param_scheduler.0.convert_to_iter_based": True},
        {"custom_hooks.0.priority": "LOW"},
        {"randomness.seed": 0},
        {"strategy.type": "XCiTFSDPStrategy"},
        {"find_unused_parameters": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_a_class_accepts_is_taken(options):
    config = load_config(SHAPES, options)
    for name, value in options.items():
        node = config
        for key in name.split("."):
            node = node[int(key)] if isinstance(node, list) else node[key]
        assert node == value
