"""How processes are started: what fits is taken, what does not is refused by one sentence."""

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config import checks


@pytest.fixture
def variables(monkeypatch):
    """Sets environment variables, and none other that a launcher sets."""
    for names, _ in checks._LAUNCHERS.values():
        for name in (*names, "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)

    def set_to(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "LOCAL_RANK": "1"}


def check(launcher, **more):
    checks.check_launcher(Config({"launcher": launcher, **more}))


def test_a_single_process_needs_no_launcher(variables):
    check("none")
    checks.check_launcher(Config({}))


def test_processes_of_torchrun_are_taken(variables):
    variables(TORCHELASTIC_RUN_ID="none", **TORCHRUN)
    if not torch.cuda.is_available():
        check("pytorch")


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("pytorch", ["RANK", "torchrun", "--launcher none"]),
        ("slurm", ["SLURM_PROCID", "srun", "--launcher none"]),
        ("mpi", ["OMPI_COMM_WORLD_RANK", "mpirun", "--launcher none"]),
    ],
)
def test_a_launcher_that_started_nothing_is_refused(variables, launcher, words):
    with raises_user_error(f"--launcher {launcher}", *words):
        check(launcher)


def test_processes_of_torchrun_that_would_each_run_alone_are_refused(variables):
    variables(TORCHELASTIC_RUN_ID="none", **TORCHRUN)
    with raises_user_error("2 processes", "--launcher pytorch"):
        check("none")


def test_more_processes_than_gpus_are_refused(variables, monkeypatch):
    monkeypatch.setattr(checks, "get_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    variables(**TORCHRUN)
    with raises_user_error("Process 1", "finds 1 GPUs", "--gpus-per-node"):
        check("pytorch")


def test_shards_of_a_single_process_are_refused(variables):
    with raises_user_error("XCiTFSDPStrategy", "torchrun", "--launcher pytorch"):
        check("none", strategy={"type": "XCiTFSDPStrategy"})


LEAVE = """
import atexit, sys, torch
from xcit_dense.mm.runtime.launch import leave
atexit.register(print, "last words")
leave()
print("alone", end=" ")
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
print("together", end=" ")
leave(3)
print("still there")
"""


@pytest.mark.slow
def test_a_process_of_several_leaves_with_all_that_it_has_said(python, tmp_path):
    assert python("-c", LEAVE, tmp_path / "meeting", status=3).stdout == "alone together last words\n"
