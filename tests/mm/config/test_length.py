"""The length of a training: the schedule keeps its form."""

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmengine.config import Config

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.length import set_length
from xcit_dense.mm.config.load import load_config


def schedule(config, *names):
    return [{name: one[name] for name in names if name in one} for one in config.param_scheduler]


def test_a_third_of_the_epochs_gives_the_published_short_schedule():
    config, short = load_config("mask_rcnn_xcit_s12"), load_config("mask_rcnn_xcit_s12_1x")
    set_length(config, epochs=12)
    assert config.train_cfg == short.train_cfg
    names = ("type", "begin", "end")
    assert schedule(config, *names) == schedule(short, *names)
    assert config.param_scheduler[1].milestones == [9, 11]


def test_half_of_the_iterations_gives_the_published_half_schedule():
    """The published recipe keeps the length of the warm-up; here the warm-up keeps its share."""
    config, half = load_config("upernet_xcit_s12"), load_config("sem_fpn_xcit_s12")
    set_length(config, iterations=80000)
    assert config.train_cfg.max_iters == half.train_cfg.max_iters == 80000
    assert config.param_scheduler[1] == half.param_scheduler[1]
    assert config.param_scheduler[0].end == 750


def test_a_short_training_validates_and_saves_at_its_end():
    config = load_config("sem_fpn_xcit_n12_p8_shapes")
    set_length(config, iterations=7)
    assert (config.train_cfg.max_iters, config.train_cfg.val_interval) == (7, 7)
    assert config.default_hooks.checkpoint.interval == 7


def test_a_warm_up_that_would_have_a_single_step_is_left_out():
    """With a single step, MMEngine's warm-up would leave the rate at its start for the complete training."""
    config = load_config("sem_fpn_xcit_n12_p8_shapes")
    set_length(config, iterations=20)
    assert schedule(config, "type", "begin", "end") == [{"type": "CosineAnnealingLR", "begin": 1, "end": 20}]


def test_what_changes_in_the_last_epochs_moves_with_the_end():
    config = load_config("rtmdet_xcit_s12")
    set_length(config, epochs=10)
    assert config.train_cfg.dynamic_intervals == [(9, 1)]
    assert [hook.switch_epoch for hook in config.custom_hooks if "switch_epoch" in hook] == [9]
    cosine = config.param_scheduler[1]
    assert (cosine.begin, cosine.end, cosine.T_max) == (5, 10, 5)


def test_a_warm_up_in_iterations_stays_in_a_training_of_epochs():
    config = load_config("mask_rcnn_xcit_s12")
    set_length(config, epochs=72)
    assert [one.end for one in config.param_scheduler] == [501, 72]


@pytest.mark.parametrize(
    ("name", "length", "words"),
    [
        ("mask_rcnn_xcit_s12", {"iterations": 100}, ["counts its training in epochs", "--epochs N"]),
        ("sem_fpn_xcit_s12", {"epochs": 3}, ["--epochs 3", "counts its training in iterations", "--iterations N"]),
        ("mask_rcnn_xcit_s12", {"epochs": 0}, ["--epochs 0", "1 or more"]),
        ("mask_rcnn_xcit_s12", {"epochs": 1, "iterations": 1}, ["exclude each other"]),
    ],
)
def test_a_length_that_does_not_fit_is_refused(name, length, words):
    with raises_user_error(*words):
        set_length(load_config(name), **length)


def test_no_length_changes_nothing():
    config = load_config("mask_rcnn_xcit_s12")
    before = config.to_dict()
    set_length(config)
    assert config.to_dict() == before
    with raises_user_error("--epochs 3"):
        set_length(Config({}), epochs=3)
