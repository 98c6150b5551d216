"""Loops of a training, and worker processes of data loaders."""

from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmengine.config import Config

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.loops import check_loops, settle_workers

SHAPES = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
LOADERS = ("train_dataloader", "val_dataloader")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"type": "IterBasedTrainLoop", "max_epochs": 3}, ["max_epochs is 3", "counts iterations", "max_iters"]),
        ({"type": "mmengine.EpochBasedTrainLoop", "max_iters": 3}, ["max_iters is 3", "epochs", "max_epochs"]),
        ({"by_epoch": True, "max_iters": 3}, ["max_iters is 3", "counts epochs"]),
        ({"by_epoch": False, "max_epochs": 3}, ["max_epochs is 3", "counts iterations"]),
        ({"type": "IterBasedTrainLoop"}, ["no max_iters"]),
        ({"type": "EpochBasedLoop", "max_epochs": 3}, ["'EpochBasedLoop' is not registered", "EpochBasedTrainLoop"]),
    ],
)
def test_a_loop_with_the_length_of_another_loop_is_refused(settings, words):
    with raises_user_error("train_cfg", *words):
        check_loops(Config({"default_scope": "mmdet", "train_cfg": settings}), LOADERS)


@pytest.mark.parametrize("settings", [{"by_epoch": True, "max_epochs": 1}, {"by_epoch": False, "max_iters": 1}])
def test_a_loop_with_its_own_length_is_accepted(settings):
    check_loops(Config({"default_scope": "mmdet", "train_cfg": settings}), LOADERS)


def test_a_validation_without_one_of_its_parts_is_refused():
    with raises_user_error("val_dataloader and val_evaluator", "no val_cfg"):
        check_loops(load_config(SHAPES, {"val_cfg": None}), LOADERS)
    check_loops(load_config(SHAPES, {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}), LOADERS)


def test_settings_of_workers_are_removed_from_a_loader_without_workers():
    options = {"train_dataloader.persistent_workers": True, "val_dataloader.prefetch_factor": 2}
    config = load_config(SHAPES, options)
    first, second = settle_workers(config)
    assert "train_dataloader.persistent_workers is set to False" in first
    assert "val_dataloader.prefetch_factor is set to None" in second
    assert not config.train_dataloader.persistent_workers
    assert settle_workers(config) == []


def test_settings_of_workers_stay_where_there_are_workers():
    options = {"train_dataloader.persistent_workers": True, "train_dataloader.num_workers": 1}
    config = load_config(SHAPES, options)
    assert settle_workers(config) == []
    assert config.train_dataloader.persistent_workers
