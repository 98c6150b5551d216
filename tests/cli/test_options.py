"""The options that the command lines share, and their errors."""

import argparse
import functools
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
from tests.helpers.models import raises_user_error
from xcit_dense.cli.options import add_bands, add_run_options, choose_device, make_config, read_config_options, start_mm
from xcit_dense.cli.positionals import read_config_argument

SHAPES = Path(__file__).parents[2] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Restores the environment variables that a run sets for its libraries."""
    for name in ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


def parse(*arguments):
    """Parses the options that trainings and tests share."""
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    add_bands(parser, trains=True)
    return parser.parse_args(list(map(str, arguments)))


def configure(*arguments, data_root):
    """Makes the config of a training that a command line describes."""
    args = parse("--data-root", data_root, *arguments)
    return make_config(args, read_config_argument([str(SHAPES)]), ("train_dataloader",))


@pytest.fixture
def configured(shapes):
    """Makes the config that a command line describes, on the shapes data set."""
    return functools.partial(configure, data_root=shapes)


def test_options_have_the_types_of_their_values():
    args = parse("--cfg-options", "a.b=1", "a.c=[(1,2)]", "d=None", "e=x", "f=0.5", "g=True")
    options = read_config_options(args.cfg_options)
    assert options == {
        "a.b": 1,
        "a.c": [(1, 2)],
        "d": None,
        "e": "x",
        "f": 0.5,
        "g": True,
    }


def test_every_option_is_optional():
    args = parse()
    assert (args.data_root, args.work_dir, read_config_options(args.cfg_options)) == (None, None, {})
    assert (args.launcher, args.device) == ("none", "auto")


@pytest.mark.parametrize("option", ["--local-rank", "--local_rank"])
def test_the_launchers_rank_reaches_the_libraries(configured, option):
    configured(f"{option}=3")
    assert os.environ["LOCAL_RANK"] == "3"


def test_a_rank_in_the_environment_wins(configured, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "5")
    configured("--local-rank=3")
    assert os.environ["LOCAL_RANK"] == "5"


def test_cpu_hides_the_gpus_before_the_libraries_look():
    start_mm(parse("--device", "cpu").device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_auto_leaves_the_gpus_visible():
    start_mm(parse().device)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("present", [True, False])
def test_cuda_is_refused_only_without_a_gpu(monkeypatch, present):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    if present:
        choose_device("cuda")
    else:
        with raises_user_error("--device cuda", torch.__version__, "--device cpu"):
            choose_device("cuda")


def test_an_unknown_device_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--device", "tpu")
    assert caught.value.code == 2
    assert "'tpu'" in capsys.readouterr().err


def test_the_work_directory_is_named_after_the_config(configured):
    assert configured().work_dir == f"work_dirs/{SHAPES.stem}"
    assert configured("--cfg-options", "work_dir=mine").work_dir == "mine"
    assert configured("--work-dir", "yours", "--cfg-options", "work_dir=mine").work_dir == "yours"


def test_the_launcher_reaches_the_runner(configured, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert configured("--launcher", "pytorch").launcher == "pytorch"
    assert configured().launcher == "none"


def test_slurm_sets_the_local_rank(configured, monkeypatch):
    for name, value in {"PROCID": "9", "NTASKS": "16", "NODELIST": "node[1-2]", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    configured("--launcher", "slurm")
    assert os.environ["LOCAL_RANK"] == "0"


def test_a_launcher_that_did_not_start_this_process_is_refused(configured):
    with raises_user_error("--launcher pytorch", "torchrun"):
        configured("--launcher", "pytorch")


def test_the_config_is_checked(tmp_path):
    with raises_user_error("No data directory", tmp_path / "gone"):
        configure(data_root=tmp_path / "gone")
