"""Runs are killed, stopped or lack disk space. They are child processes, forked after the imports of this process."""

import json
import os
import random
import resource
import select
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner, runner

from xcit_dense.errors import UserError
from xcit_dense.mm.hooks import checkpointing
from xcit_dense.weights.work_dir import last_intact_checkpoint

STEPS = 24


class Noisy(BaseModel):
    """A model with every source of random numbers: dropout uses PyTorch, the targets use NumPy and Python."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, inputs, note=None, mode="tensor"):
        got = self.layers(torch.stack(list(inputs)))
        if mode == "loss":
            return {"loss": (got - np.random.rand() - random.random()).square().mean()}
        return list(got)


class Augmented(list):
    """Eight samples with noise from each source of random numbers."""

    def __getitem__(self, index):
        noise = torch.rand(8) + np.random.rand() + random.random()
        return {"inputs": torch.full((8,), float(index)) / 8 + noise}


class Counted(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(torch.rand(1).item())

    def compute_metrics(self, results):
        return {"seen": len(results)}


class Losses(Hook):
    """Writes the loss of each step after the step, and then calls `at_step`."""

    priority = "HIGH"

    def __init__(self, path, at_step):
        self.path, self.at_step = path, at_step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with self.path.open("a") as file:
            file.write(json.dumps([runner.iter + 1, outputs["loss"].item()]) + "\n")
        self.at_step(runner.iter + 1)


def train(
    work_dir,
    at_step=lambda step: None,
    by_epoch=False,
    workers=0,
    seed=0,
    steps=STEPS,
    optimizer=None,
    hooks=(),
    load_from=None,
    **checkpoint,
):
    """Starts or resumes a training, as tools/train.py does."""
    last = load_from or last_intact_checkpoint(work_dir)
    loader = {
        "dataset": Augmented([None] * 8),
        "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": True},
        "collate_fn": {"type": "pseudo_collate"},
        "batch_size": 2,
        "num_workers": workers,
        "persistent_workers": workers > 0,
    }
    schedule = {"max_epochs": steps // 4, "val_interval": 2} if by_epoch else {"max_iters": steps, "val_interval": 6}
    checkpoint = {
        "type": "AtomicCheckpointHook",
        "interval": 1 if by_epoch else 3,
        "by_epoch": by_epoch,
        "max_keep_ckpts": 2,
        **checkpoint,
    }
    training = Runner(
        model=Noisy(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"by_epoch": by_epoch, **schedule},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 0.01}, **(optimizer or {})},
        param_scheduler={"type": "LinearLR", "by_epoch": False, "start_factor": 0.1, "end": STEPS},
        val_dataloader={**loader, "num_workers": 0, "persistent_workers": False, "sampler": {"type": "DefaultSampler"}},
        val_cfg={},
        val_evaluator=[Counted(prefix="")],
        default_hooks={"checkpoint": checkpoint, "logger": {"type": "LoggerHook", "interval": 1}},
        custom_hooks=[Losses(work_dir / "losses.txt", at_step), {"type": "ReproducibleHook"}, *hooks],
        load_from=last and str(last),
        resume=last is not None,
        randomness={"seed": seed},
        env_cfg={"dist_cfg": {"backend": "gloo"}},
        log_level="WARNING",
        experiment_name=f"{work_dir.name}-{time.monotonic_ns()}",
    )
    training.train()


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Saves a second in each child: imports matplotlib once, and skips the versions of compilers and git."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_log_env", lambda *_: None)
        patch.setattr(runner, "get_git_hash", lambda: "")
        yield


@pytest.fixture
def start(tmp_path, fork):
    """Starts a child process that runs a task and writes its output to a file."""

    def run_task(task):
        try:
            task()
        except UserError as error:  # as the tools do
            sys.exit(f"error: {error}")

    return lambda task: fork(partial(run_task, task), tmp_path / "output.txt")


@pytest.fixture
def run(start):
    """Runs a task in a child to its end; gives its exit status."""
    return lambda task: start(task).wait()


def lines(work_dir):
    """Steps and their losses, some of them repeated."""
    return [json.loads(line) for line in (work_dir / "losses.txt").read_text().splitlines()]


def losses(work_dir):
    """The loss of each step. A repeated step has its last loss."""
    return dict(lines(work_dir))


def read(path):
    return torch.load(path, weights_only=False)


def check_files(work_dir):
    """Every file with the name of a checkpoint is a checkpoint."""
    for path in work_dir.glob("*.pth"):
        assert read(path)["optimizer"]["state"], path
    return last_intact_checkpoint(work_dir)


@pytest.fixture
def undisturbed(tmp_path, run):
    """Losses of an uninterrupted training."""

    def train_once(**options):
        work_dir = tmp_path / "undisturbed"
        work_dir.mkdir()
        assert run(lambda: train(work_dir, **options)) == 0, (tmp_path / "output.txt").read_text()
        found = losses(work_dir)
        assert list(found) == list(range(1, STEPS + 1))
        return found

    return train_once


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die_at(work_dir, step, pause):
    """Kills the training a time after a step: in the next step, in its data, or while its checkpoint is written."""

    def set_alarm(number):
        if number == step:
            signal.signal(signal.SIGALRM, lambda *_: kill())
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + pause)

    train(work_dir, set_alarm)


def train_and_die_while_writing(work_dir, fraction):
    """Kills the training when this fraction of a checkpoint is written."""

    def put(self, obj, filepath):
        with Path(filepath).open("wb") as file:
            file.write(obj[: int(len(obj) * fraction)])
            file.flush()
            kill()

    LocalBackend.put = put
    train(work_dir)


def train_and_die_before(work_dir, name):
    """Kills the training after it wrote a temporary file and before it renamed the file to a name with `name` in it."""
    replace = Path.replace
    Path.replace = lambda part, path: kill() if name in path.name else replace(part, path)
    train(work_dir)


# Killed


@pytest.mark.slow
def test_a_run_killed_ten_times_continues_from_the_last_intact_checkpoint_with_the_same_losses(
    tmp_path, start, run, undisturbed
):
    expected = undisturbed()
    work_dir = tmp_path / "killed"
    work_dir.mkdir()
    (work_dir / "losses.txt").touch()
    chance = random.Random(0)
    began = []
    for attempt in range(10):
        last = check_files(work_dir)
        saved = read(last)["meta"]["iter"] if last else 0
        so_far = len(lines(work_dir))
        moments = [
            partial(train_and_die_at, work_dir, saved + 1 + chance.randrange(3), chance.random() / 50),
            partial(train_and_die_while_writing, work_dir, chance.random()),
            partial(train_and_die_before, work_dir, "last_checkpoint"),
            partial(train_and_die_before, work_dir, ".pth"),
        ]
        assert run(moments[attempt % 4]) == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
        began.append(lines(work_dir)[so_far][0])
        assert began[-1] == saved + 1
    assert run(lambda: train(work_dir)) == 0
    assert len(set(began)) > 2, "it never came far"
    assert losses(work_dir) == expected
    assert read(check_files(work_dir))["meta"]["iter"] == STEPS
    assert not list(work_dir.glob("*.part")), "left by a killed run"


def test_workers_of_a_killed_run_end_too(tmp_path, start):
    """Workers end although a pipe is full and its reader is dead."""

    def die():
        get = Augmented.__getitem__
        Augmented.__getitem__ = lambda self, index: {**get(self, index), "note": bytes(200_000)}
        train(tmp_path, lambda step: step == 2 and kill(), workers=2)

    ours, theirs = os.pipe()
    child = start(die)
    os.close(theirs)
    assert child.wait() == -signal.SIGKILL
    ended, *_ = select.select([ours], [], [], 60)  # when all processes closed the other end
    os.close(ours)
    if not ended:
        os.killpg(child.pid, signal.SIGKILL)
    assert ended


def with_averages_and_loss_scale(work_dir, at_step=lambda step: None):
    """Trains in mixed precision as on a GPU. The loss scale grows every five steps, and a hook averages the weights."""
    amp_optimizer_wrapper.is_cuda_available = lambda: True
    amp_optimizer_wrapper.GradScaler = partial(torch.amp.GradScaler, "cpu")
    scale = {"init_scale": 8.0, "growth_interval": 5}
    averages = {"type": "EMAHook", "momentum": 0.1}
    precision = {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": scale}
    train(work_dir, at_step, optimizer=precision, hooks=[averages])


def test_a_resumed_run_ends_with_the_state_of_an_undisturbed_one(tmp_path, run):
    """The optimizer, schedule, loss scale and averaged weights are also equal, bit by bit."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert run(partial(with_averages_and_loss_scale, undisturbed)) == 0, (tmp_path / "output.txt").read_text()
    assert run(partial(with_averages_and_loss_scale, killed, lambda step: step == 14 and kill())) == -signal.SIGKILL
    assert run(partial(with_averages_and_loss_scale, killed)) == 0
    assert [step for step, _ in lines(killed)][14:] == list(range(13, STEPS + 1))
    got, expected = (read(path / f"iter_{STEPS}.pth") for path in (killed, undisturbed))
    assert expected["optimizer"]["loss_scaler"]["scale"] == 8 * 2**4
    weight = "layers.0.weight"
    assert not torch.equal(expected["state_dict"][weight], expected["ema_state_dict"][f"module.{weight}"])
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        torch.testing.assert_close(got[part], expected[part], rtol=0, atol=0)
    assert got["param_schedulers"] == expected["param_schedulers"]


def test_a_file_with_only_weights_cannot_be_resumed(tmp_path, run):
    torch.save({"state_dict": Noisy().state_dict()}, tmp_path / "weights.pth")
    assert run(lambda: train(tmp_path, load_from=tmp_path / "weights.pth")) == 1
    (line,) = [line for line in (tmp_path / "output.txt").read_text().splitlines() if "error: " in line]
    assert f"{tmp_path / 'weights.pth'} does not contain the state of a training" in line
    assert f"load_from={tmp_path / 'weights.pth'}" in line


@pytest.mark.parametrize("options", [{"workers": 2}, {"by_epoch": True}, {"by_epoch": True, "workers": 1}], ids=str)
def test_a_run_stopped_in_the_middle_continues_with_the_same_losses(tmp_path, run, undisturbed, options):
    expected = undisturbed(**options)
    work_dir = tmp_path / "stopped"
    work_dir.mkdir()

    def stop(step):
        if step == 5:  # an epoch has four steps
            os.killpg(0, signal.SIGTERM)  # the workers too, as some schedulers do

    assert run(lambda: train(work_dir, stop, **options)) == 128 + signal.SIGTERM
    assert list(losses(work_dir)) == [1, 2, 3, 4, 5]
    assert last_intact_checkpoint(work_dir) == work_dir / "interrupted.pth"
    assert run(lambda: train(work_dir, **options)) == 0
    assert losses(work_dir) == expected
    assert not (work_dir / "interrupted.pth").exists(), "kept next to a later one"


def test_a_run_without_a_seed_continues_with_the_seed_of_its_checkpoint(tmp_path, run):
    """An epoch has each sample once, before and after the interruption."""
    work_dir = tmp_path / "unseeded"
    work_dir.mkdir()
    seen = []

    def stop(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def note():
        get = Augmented.__getitem__
        Augmented.__getitem__ = lambda self, index: (print(f"sample {index}"), get(self, index))[1]
        train(work_dir, stop, by_epoch=True, seed=None, steps=4)

    assert run(note) == 143
    assert run(note) == 0
    lines = (tmp_path / "output.txt").read_text().splitlines()
    seen = [line for line in lines if line.startswith("sample ")][:8]
    assert sorted(seen) == [f"sample {index}" for index in range(8)]


# Stopped by a signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_end_of_the_step_and_prints_the_checkpoint(tmp_path, run, number):
    def stop(step):
        if step == 4:
            os.kill(os.getpid(), number)

    assert run(lambda: train(tmp_path, stop)) == 128 + number
    text = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if "Stopped by" in line]
    assert number.name in line
    assert str(tmp_path / "interrupted.pth") in line
    assert "--resume" in line
    assert read(check_files(tmp_path))["meta"]["iter"] == 4


@pytest.mark.parametrize("first", [4, 6], ids=["its own checkpoint", "a regular one"])
def test_signals_while_a_checkpoint_is_written_leave_it_intact(tmp_path, run, first):
    def signalled():
        def put(self, obj, filepath):
            with Path(filepath).open("wb") as file:
                for half in (obj[:1000], obj[1000:]):
                    file.write(half)
                    file.flush()
                    for _ in range(2):
                        os.kill(os.getpid(), signal.SIGTERM)

        def stop(step):
            if step == first:
                LocalBackend.put = put
                if step % 3:
                    os.kill(os.getpid(), signal.SIGTERM)

        train(tmp_path, stop)

    assert run(signalled) == 143
    assert read(check_files(tmp_path))["meta"]["iter"] == first


def test_a_step_with_a_regular_checkpoint_is_saved_once(tmp_path, run):
    assert run(lambda: train(tmp_path, lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM))) == 143
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_3.pth"]


def test_a_validation_is_left_at_once_if_all_is_saved(tmp_path, run):
    def stop_in_validation():
        process = Counted.process
        Counted.process = lambda self, *args: (os.kill(os.getpid(), signal.SIGTERM), process(self, *args))
        Counted.compute_metrics = None
        train(tmp_path)

    assert run(stop_in_validation) == 143
    assert check_files(tmp_path) == tmp_path / "iter_6.pth"


def test_a_second_control_c_does_not_wait(tmp_path, run):
    def interrupt(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    assert run(lambda: train(tmp_path, interrupt)) == 1
    assert "KeyboardInterrupt" in (tmp_path / "output.txt").read_text()
    assert last_intact_checkpoint(tmp_path) is None


def test_signals_have_their_earlier_handlers_after_the_training(tmp_path, run):
    def check():
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        train(tmp_path, steps=4)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

    assert run(check) == 0, (tmp_path / "output.txt").read_text()


@pytest.fixture
def run_two(tmp_path, start):
    """Runs a task in two processes of one run, with the rank as argument. Returns the exit statuses."""

    def run(task):
        def process(rank):
            os.environ.update(RANK=str(rank), WORLD_SIZE="2")
            torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
            task(rank)

        meeting = f"file://{tmp_path}/meeting-{time.monotonic_ns()}"
        children = [start(partial(process, rank)) for rank in range(2)]
        return [child.wait() for child in children]

    return run


def test_all_processes_stop_if_one_gets_a_signal_and_resume_together(tmp_path, run_two):
    def task(rank, work_dir, step=None):
        def write(self, obj, filepath):
            assert rank == 0, "only the first writes"
            put(self, obj, filepath)

        def stop(number):
            if (rank, number) == (1, step):  # the second, which does not save
                os.kill(os.getpid(), signal.SIGTERM)

        put, LocalBackend.put = LocalBackend.put, write
        train(work_dir, stop)

    work_dir, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    work_dir.mkdir()
    undisturbed.mkdir()
    assert run_two(partial(task, work_dir=work_dir, step=4)) == [143, 143], (tmp_path / "output.txt").read_text()
    assert read(check_files(work_dir))["meta"]["iter"] == 4
    assert run_two(partial(task, work_dir=work_dir)) == [0, 0]
    assert run_two(partial(task, work_dir=undisturbed)) == [0, 0]
    got, expected = (read(path / f"iter_{STEPS}.pth") for path in (work_dir, undisturbed))
    torch.testing.assert_close(got["state_dict"], expected["state_dict"], rtol=0, atol=0)


# A full disk


def test_a_full_disk_is_reported_and_leaves_the_last_intact_checkpoint(tmp_path, run):
    """A limit on the size of files makes a write fail in the middle, as a full disk does."""

    def fill(step):
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    assert run(lambda: train(tmp_path, fill, max_keep_ckpts=1)) == 1
    text = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if "error: " in line]
    assert f"{tmp_path / 'iter_6.pth'} could not be written" in line
    assert "--resume" in line
    assert [path.name for path in tmp_path.iterdir() if "pth" in path.name] == ["iter_3.pth"]
    assert check_files(tmp_path) == tmp_path / "iter_3.pth"
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_3.pth")


def test_a_full_disk_ends_all_processes_with_the_same_sentence(tmp_path, run_two):
    def fill(rank):
        def limit(step):
            if (rank, step) == (0, 5):
                resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

        train(tmp_path, limit)

    assert run_two(fill) == [1, 1]
    text = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in text
    assert text.count(f"error: {tmp_path / 'iter_6.pth'} could not be written: File too large") == 2
    assert check_files(tmp_path) == tmp_path / "iter_3.pth"


# What is kept


def test_old_checkpoints_are_removed_when_the_new_checkpoint_is_complete(tmp_path, run):
    assert run(lambda: train(tmp_path)) == 0
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_21.pth", "iter_24.pth"}


def test_the_best_checkpoint_stays_until_the_next_is_complete(tmp_path, run):
    def killed():
        Counted.compute_metrics = lambda self, results: {"acc": time.monotonic()}  # ever better
        save = checkpointing.save_atomic

        def save_or_die(inner, out_dir, filename, *args, **options):
            if filename == "best_acc_iter_12.pth":
                kill()
            save(inner, out_dir, filename, *args, **options)

        checkpointing.save_atomic = save_or_die
        train(tmp_path, save_best="acc")

    assert run(killed) == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
    assert [path.name for path in tmp_path.glob("best*")] == ["best_acc_iter_6.pth"]
    assert last_intact_checkpoint(tmp_path).name == "iter_12.pth"


def test_a_run_killed_before_it_removed_the_oldest_removes_it_when_it_resumes(tmp_path, run):
    def killed():
        LocalBackend.remove = lambda *_: kill()
        train(tmp_path)

    assert run(killed) == -signal.SIGKILL
    assert (tmp_path / "iter_3.pth").exists()
    assert run(lambda: train(tmp_path)) == 0
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_21.pth", "iter_24.pth"}
