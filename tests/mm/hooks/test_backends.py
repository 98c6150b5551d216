"""TensorBoard and Weights & Biases show runs that use the config lines of docs/training.md."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_config

ROOT = Path(__file__).parents[3]
LOSS = "loss_of_this_test"  # a name that the configs do not use


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """The config of docs/training.md, as its reader writes it."""
    (lines,) = re.findall(r"```python\n(_base_ = .*?vis_backends.*?)```", (ROOT / "docs/training.md").read_text(), re.S)
    path = tmp_path_factory.mktemp("leaf") / "watched.py"
    path.write_text(lines.replace("/path/to/xcit_dense", str(ROOT)))
    return Config.fromfile(path)


@pytest.fixture
def log(documented, tmp_path, monkeypatch):
    """Logs the config and two losses to a back end, as a run does. Returns the directory."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    def to(kind):
        back_ends = [item for item in documented.visualizer.vis_backends if item.type == kind]
        changes = {"vis_backends": back_ends, "save_dir": str(tmp_path), "name": tmp_path.name}
        with DefaultScope.overwrite_default_scope("mmdet"):
            visualizer = VISUALIZERS.build({**documented.visualizer, **changes})
        visualizer.add_config(documented)
        for step, loss in enumerate((0.5, 0.25)):
            visualizer.add_scalars({LOSS: loss}, step=step)
        visualizer.close()
        return tmp_path

    return to


def test_the_documented_config_keeps_the_log_that_the_learning_curve_is_drawn_from(documented):
    kinds = [item.type for item in documented.visualizer.vis_backends]
    assert kinds == ["LocalVisBackend", "TensorboardVisBackend", "WandbVisBackend"]
    assert documented.visualizer.type == "DetLocalVisualizer"


def test_a_back_end_that_is_not_installed_is_refused_before_the_run(documented, monkeypatch):
    monkeypatch.setattr(
        "xcit_dense.mm.config.requirements.find_spec", lambda name: None if name == "tensorboard" else find_spec(name)
    )
    with raises_user_error("TensorboardVisBackend", "pip install tensorboard"):
        check_config(documented)


def test_tensorboard_gets_the_losses(log):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = log("TensorboardVisBackend").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars(LOSS)] == [(0, 0.5), (1, 0.25)]


@pytest.mark.slow
def test_wandb_gets_the_losses_offline(log):
    pytest.importorskip("wandb", reason="wandb is not installed")
    (path,) = log("WandbVisBackend").rglob("offline-run-*/run-*.wandb")
    assert LOSS.encode() in path.read_bytes()
