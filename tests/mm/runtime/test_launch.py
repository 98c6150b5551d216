"""How runs start and end: launchers are checked, and a run without a GPU gets a config of its own."""

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_launcher
from xcit_dense.mm.runtime.launch import without_gpus

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_NODELIST": "a", "SLURM_LOCALID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.fixture
def variables(monkeypatch):
    """Removes the environment variables of launchers, and sets others."""
    for name in (*TORCHRUN, *SLURM, *OPEN_MPI, "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def set_to(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.fixture
def gpus(monkeypatch):
    """Sets the number of GPUs that the libraries report."""

    def set_to(count):
        monkeypatch.setattr("xcit_dense.mm.config.checks.get_device", lambda: "cuda" if count else "cpu")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_to


def check(launcher, **more):
    check_launcher(Config({"launcher": launcher, **more}))


def test_a_single_process_does_not_need_a_launcher(variables):
    check("none")
    check_launcher(Config({}))


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize(
    ("launcher", "environment"),
    [("pytorch", TORCHRUN), ("slurm", SLURM), ("mpi", {**OPEN_MPI, "MASTER_ADDR": "localhost"})],
)
def test_processes_of_a_launcher_are_accepted_without_gpus_and_with_one_each(
    variables, gpus, launcher, environment, count
):
    gpus(count)
    variables(**{"TORCHELASTIC_RUN_ID": "none", **environment})
    check(launcher)


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ("pytorch", ["RANK", "torchrun", "--launcher none"]),
        ("slurm", ["SLURM_PROCID", "srun", "--launcher none"]),
        ("mpi", ["OMPI_COMM_WORLD_RANK", "mpirun", "--launcher none"]),
    ],
)
def test_a_launcher_that_has_not_started_the_process_is_rejected(variables, launcher, words):
    with raises_user_error(f"--launcher {launcher}", *words):
        check(launcher)


def test_processes_of_torchrun_without_the_option_are_rejected(variables):
    variables(TORCHELASTIC_RUN_ID="none", **TORCHRUN)
    with raises_user_error("2 processes", "--launcher pytorch"):
        check("none")


def test_more_processes_than_gpus_are_rejected(variables, gpus):
    gpus(1)
    variables(**TORCHRUN)
    with raises_user_error("Process 1", "finds 1 GPUs", "--gpus-per-node"):
        check("pytorch")


def test_a_single_process_cannot_distribute_a_model(variables):
    with raises_user_error("XCiTFSDPStrategy", "torchrun", "--launcher pytorch"):
        check("none", strategy={"type": "XCiTFSDPStrategy"})


def test_a_run_without_gpus_changes_a_copy_of_its_config():
    norm = {"type": "SyncBN", "requires_grad": True}
    config = Config({"model": {"backbone": {"norm_cfg": norm}}, "env_cfg": {"dist_cfg": {"backend": "nccl"}}})
    before = config.to_dict()
    changed = without_gpus(config)
    assert config.to_dict() == before
    assert changed.model.backbone.norm_cfg == {"type": "BN", "requires_grad": True}
    assert changed.env_cfg.dist_cfg.backend == "gloo"
    assert changed.model_wrapper_cfg.device_ids is None


def test_the_users_own_backend_and_wrapper_stay():
    config = Config({"env_cfg": {"dist_cfg": {"backend": "mpi"}}, "model_wrapper_cfg": {"type": "Mine"}})
    changed = without_gpus(config)
    assert changed.env_cfg.dist_cfg.backend == "mpi"
    assert changed.model_wrapper_cfg.type == "Mine"


LEAVE = """
import atexit, sys, torch
from xcit_dense.mm.runtime.launch import leave
atexit.register(print, "last words")
leave()
print("single", end=" ")
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
print("together", end=" ")
leave(3)
print("still there")
"""


@pytest.mark.slow
def test_a_process_of_several_prints_everything_before_it_ends(python, tmp_path):
    assert python("-c", LEAVE, tmp_path / "meeting", status=3).stdout == "single together last words\n"
