"""Trainings are killed or stopped and then resumed, with the commands that a user runs."""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from importlib import import_module

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.helpers.runs import read_checkpoint, read_training_log
from xcit_dense.weights.work_dir import last_intact_checkpoint

pytestmark = pytest.mark.slow

# Epochs have four steps, and each epoch has another order. The shapes configs count iterations.
EPOCHS = """
_base_ = {base!r}
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2, val_interval=2)
train_dataloader = dict(sampler=dict(type="DefaultSampler", shuffle=True))
log_processor = dict(by_epoch=True)
"""
OPTIONS = {
    "model.backbone.variant": None,
    "model.backbone.patch_size": 16,
    "model.backbone.embed_dim": 32,
    "model.backbone.depth": 4,
    "model.backbone.num_heads": 2,
    "model.backbone.out_indices": "[0,1,2,3]",
    "model.neck.in_channels": "[32,32,32,32]",
    "default_hooks.checkpoint.interval": 3,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 2,
    "randomness.seed": 0,
}


@HOOKS.register_module()
class PauseAfterStep(Hook):
    """Pauses after each logged step, so that a test sees a step before the training ends."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        time.sleep(0.5)


@pytest.fixture(scope="module")
def command(tools, shapes, tmp_path_factory):
    """Command lines of trainings of eight steps, Mask R-CNN by epochs and Semantic FPN by iterations."""
    epochs = tmp_path_factory.mktemp("config") / "epochs.py"
    epochs.write_text(EPOCHS.format(base=str(tools.shapes)))
    segmentation = tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]
    tasks = {
        "detection": (epochs, OPTIONS),
        "segmentation": (segmentation, {**OPTIONS, "train_cfg.max_iters": 8, "train_cfg.val_interval": 8}),
    }

    def line(task, work_dir, **more):
        config, options = tasks[task]
        options = {**options, **more}
        line = [tools.train, config, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu", "--resume"]
        return [*map(str, line), "--cfg-options", *(f"{name}={value}" for name, value in options.items())]

    return line


@pytest.fixture(scope="module")
def begin(command, fork, tmp_path_factory):
    """Starts or resumes a training in a child of this process. This process has imported the libraries already."""
    for library in ("mmdet", "mmseg"):
        for part in ("datasets", "models", "evaluation", "visualization"):
            import_module(f"{library}.{part}")
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def start(task, work_dir, **options):
        def run():
            sys.argv = command(task, work_dir, **options)
            os.chdir(elsewhere)
            runpy.run_path(sys.argv[0], run_name="__main__")

        return fork(run, work_dir.with_suffix(".txt"))

    return start


@pytest.fixture(scope="module")
def undisturbed(begin, tmp_path_factory):
    """The log of an uninterrupted training."""

    def train(task):
        work_dir = tmp_path_factory.mktemp("undisturbed") / "work"
        child = begin(task, work_dir)
        assert child.wait() == 0, child.output.read_text()[-3000:]
        return read_training_log(work_dir)

    return {task: train(task) for task in ("detection", "segmentation")}


def check_losses(got, expected):
    """Each logged step, also a step repeated after a resume, has the losses of the uninterrupted training."""
    assert [record["step"] for record in expected] == list(range(1, 9))
    for ours in got:
        theirs = expected[ours["step"] - 1]
        for name in theirs.keys() - {"time", "data_time", "memory"}:
            assert ours[name] == theirs[name], (ours["step"], name)


def wait_for_step(work_dir, records, step, process):
    """Waits until a process has logged a step."""
    while not any(record["step"] == step for record in records(work_dir)):
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, f"ended before step {step}"
        time.sleep(0.01)


def test_a_detector_killed_in_an_epoch_continues_with_the_losses_of_an_uninterrupted_one(
    command, undisturbed, python, tmp_path
):
    """A separate process and its workers are killed at a random step near the checkpoint of step 6."""
    work_dir = tmp_path / "work"
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command("detection", work_dir)], stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for_step(work_dir, read_training_log, random.choice((5, 6, 7)), process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    saved = last_intact_checkpoint(work_dir)
    assert saved.name in ("iter_3.pth", "iter_6.pth")
    before = len(read_training_log(work_dir))
    python(*command("detection", work_dir))
    got = read_training_log(work_dir)
    assert got[before]["step"] == {"iter_3.pth": 4, "iter_6.pth": 7}[saved.name]
    assert got[-1]["step"] == 8
    check_losses(got, undisturbed["detection"])
    assert not list(work_dir.glob("*.part"))


@pytest.fixture(scope="module")
def stopped(begin, tmp_path_factory):
    """SIGTERM stops a segmentor and its workers, twice, in step 4 or 5."""
    work_dir = tmp_path_factory.mktemp("stopped") / "work"
    child = begin("segmentation", work_dir, **{"default_hooks.pause.type": "PauseAfterStep"})
    wait_for_step(work_dir, read_training_log, 4, child)
    for _ in range(2):
        os.killpg(child.pid, signal.SIGTERM)
    return work_dir, child.wait(), child.output.read_text()


def test_a_stopped_segmentor_saves_and_prints_how_to_continue(stopped):
    work_dir, status, output = stopped
    assert status == 128 + signal.SIGTERM, output[-3000:]
    assert f"No intact checkpoint in {work_dir} to continue from; training begins." in output
    (line,) = [line for line in output.splitlines() if "Stopped by SIGTERM" in line]
    saved = last_intact_checkpoint(work_dir)
    assert f"{saved}; continue with --resume." in line
    assert "Traceback" not in output
    assert read_checkpoint(saved)["meta"]["iter"] == read_training_log(work_dir)[-1]["step"] >= 4


def test_a_stopped_segmentor_continues_with_the_losses_of_an_uninterrupted_training(stopped, begin, undisturbed):
    """A truncated file next to the checkpoint, as other tools leave it, is ignored."""
    work_dir, *_ = stopped
    saved = last_intact_checkpoint(work_dir)
    (work_dir / "iter_9.pth").write_bytes(saved.read_bytes()[:100_000])
    (work_dir / "last_checkpoint").write_text(str(work_dir / "iter_9.pth"))
    child = begin("segmentation", work_dir)
    assert child.wait() == 0, child.output.read_text()[-3000:]
    got = read_training_log(work_dir)
    assert [record["step"] for record in got] == list(range(1, 9)), "a step was lost, or done twice"
    check_losses(got, undisturbed["segmentation"])
    assert not (work_dir / "interrupted.pth").exists()
