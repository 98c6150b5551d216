"""Fixtures of the tests of the tools: short runs on the small shapes data set, with the commands of a user."""

import functools
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers import forked
from tests.helpers.runs import short_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools():
    """Paths of the command lines and configs."""
    return SimpleNamespace(
        train=ROOT / "tools/train.py",
        test=ROOT / "tools/test.py",
        shapes=ROOT / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py",
        s12=ROOT / "configs/detection/mask_rcnn_xcit_s12.py",
        segmentation={
            name: ROOT / f"configs/segmentation/{name}.py"
            for head in ("sem_fpn", "upernet")
            for name in (f"{head}_xcit_n12", f"{head}_xcit_n12_p8_shapes")
        },
    )


@pytest.fixture(scope="session")
def python(python, tmp_path_factory):
    """Runs Python as a user does.

    A training or a test runs in a forked process, which saves the import of the MM libraries. Commands of most pages,
    the libraries' own scripts, the installed wheel and the demos start a new interpreter.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments, status=0, cwd=elsewhere, **environment):
        is_run = arguments[0] in (ROOT / "tools/train.py", ROOT / "tools/test.py")
        if not is_run or environment or importlib.util.find_spec("mmdet") is None:
            return python(*arguments, status=status, cwd=cwd, **environment)
        process = forked.run(arguments, cwd, tmp_path_factory.mktemp("output"))
        assert process.returncode == status, (process.stdout + process.stderr)[-3000:]
        return process

    return run


@pytest.fixture(scope="session")
def train(python, tools, shapes, tmp_path_factory):
    """Trains a shapes config for four iterations; gives the work directory and the output of the run."""

    @functools.cache
    def run(config):
        work_dir = tmp_path_factory.mktemp("runs") / "trained"
        command = [tools.train, config, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
        process = python(*command, *short_run(4))
        return SimpleNamespace(
            work_dir=work_dir, checkpoint=work_dir / "iter_4.pth", output=process.stdout + process.stderr
        )

    return run


@pytest.fixture(scope="session")
def trained(train, tools):
    """A training of Mask R-CNN of four iterations: its work directory and its output."""
    return train(tools.shapes)
