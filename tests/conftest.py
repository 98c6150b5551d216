"""Fixtures that tests of several folders share."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Few examples, the same in each run. `pytest --hypothesis-profile=search` draws many examples, new ones in each run.
settings.register_profile("stable", deadline=None, max_examples=20, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("stable")


# The files that run for the longest time, the longest first.
LONGEST = (
    "tests/tools/test_train_and_test.py",
    "tests/mm/inference/test_predict.py",
    "tests/tools/test_distributed.py",
    "tests/tools/test_custom_data.py",
    "tests/tools/test_library_scripts.py",
    "tests/tools/test_segmentation.py",
    "tests/test_long_runs.py",
    "tests/test_install.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Moves long files to the front, in the order of `LONGEST`, then the other files with slow tests.

    A process runs all tests of a file. If a long file came last, one process would run it while the others wait. So
    the files that come last are short.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item):
        name = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        if item.path in slow and name in LONGEST:
            return LONGEST.index(name)
        return len(LONGEST) + (item.path not in slow)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared():
    """The directory of example images, which the project does not contain."""
    path = Path(os.environ.get("XCIT_DENSE_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no example images at {path}; set XCIT_DENSE_SHARED to their directory")
    return path


@pytest.fixture(scope="session")
def reference():
    """Reads a JSON file of the reference directory by its name."""
    from tests.helpers.reference import read_reference

    return read_reference


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A small data set of shapes: 8 training and 4 held-out images of 96 pixels."""
    pytest.importorskip("pycocotools", reason="the shapes data set needs pycocotools")
    pytest.importorskip("shapely", reason="the shapes data set needs shapely")
    from xcit_dense.datasets.shapes import write_shapes

    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=4, size=96)


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """Runs Python as a user does: in a new process, in a directory outside the project."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(*arguments, status=0, cwd=elsewhere, **environment):
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
        )
        assert process.returncode == status, (process.stdout + process.stderr)[-3000:]
        return process

    return run


@pytest.fixture
def refusal(python):
    """Runs Python, expects it to fail with one sentence, without a traceback, and returns the sentence."""

    def run(*arguments, **options):
        process = python(*arguments, status=1, **options)
        output = process.stdout + process.stderr
        assert "Traceback" not in output
        assert output.count("error: ") == 1
        sentence = process.stderr.rstrip().splitlines()[-1]
        assert sentence.startswith("error: ")
        return sentence.removeprefix("error: ")

    return run


class Child:
    """A forked process that runs a task and ends. It has a session of its own, and the imports of this process.

    Args:
        task: The function to run.
        output: A file; the output of the process is appended.
    """

    def __init__(self, task, output):
        self.output = output
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            torch.set_num_threads(1)
            with output.open("a", buffering=1) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout = sys.stderr = file
                status = self._do(task)
        finally:
            os._exit(status)

    @staticmethod
    def _do(task):
        try:
            task()
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code)
                return 1
            return error.code or 0
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def wait(self, seconds=120):
        """Waits for the end; returns the exit status, negative for a signal."""
        for _ in range(seconds * 100):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"did not end: {self.output.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def fork():
    """The class :class:`Child`: starts a process with a task."""
    return Child


@pytest.fixture
def memory():
    """A function that measures the memory of this process, in MB."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("only Linux has /proc/self/statm")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def measure():
        trim(0)  # returns memory that earlier tests have freed, which would hide a leak
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20

    return measure


@pytest.fixture
def without(tmp_path):
    """Makes the environment variables of a process in which some libraries cannot be found."""

    def hide(*libraries):
        (tmp_path / "sitecustomize.py").write_text(
            f"""
import sys
from importlib.machinery import PathFinder


class Rest(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {libraries} else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Rest
"""
        )
        return {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))}

    return hide
