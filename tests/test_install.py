"""What a user gets from ``pip install``: the wheel, and a start of Python that stays silent."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STARTUP = ["_xcit_dense_startup.py", "xcit_dense.pth"]


def run(*command, cwd, **options):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**environment, **options},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy of its tree, with the tools at hand or with those of the registry."""
    directory = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "data", "work_dirs", "docs")
    for entry in ("xcit_dense", "startup", "tests", "tools", "configs"):
        ignore = unwanted if entry != "xcit_dense" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / entry, directory / "tree" / entry, ignore=ignore)
    for entry in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / entry, directory / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", directory]
    if importlib.util.find_spec("wheel"):
        command.append("--no-build-isolation")
    process = run(*command, directory / "tree", cwd=directory)
    if process.returncode and "--no-build-isolation" not in command:
        pytest.skip(f"no `wheel` here, and the registry's could not be had: {process.stderr.strip()[-200:]}")
    assert process.returncode == 0, process.stderr
    (path,) = directory.glob("xcit_dense-*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """Python of a fresh environment that holds the wheel and nothing that it needs."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    python = next(path for path in (directory / "bin/python", directory / "Scripts/python.exe") if path.exists())
    process = run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel, cwd=python.parent)
    assert process.returncode == 0, process.stderr
    return python


def silent(python, *arguments):
    process = run(python, *arguments, cwd=python.parent)
    return (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_the_wheel_holds_the_package_and_the_start_up_files_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "xcit_dense").rglob("*.py")}
    assert names == package | {"xcit_dense/py.typed", *STARTUP}


def test_the_wheel_requires_no_mm_library(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert {line.split()[1].split(">")[0].split("<")[0] for line in required} == {
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "safetensors",
        "packaging",
    }
    assert {line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")} == {
        "mm",
        "openmmlab",
        "dev",
    }


@pytest.mark.parametrize("options", [[], ["-I"], ["-W", "error"]], ids=["plain", "isolated", "warnings"])
def test_python_starts_silently(bare, options):
    assert silent(bare, *options, "-c", "pass")


def test_the_start_up_file_waits_for_mmcv_alone_and_imports_nothing(bare):
    code = (
        "import sys; print([type(f).__name__ if not isinstance(f, type) else f.__name__ for f in sys.meta_path][-1]);"
    )
    process = run(
        bare, "-c", code + "print(sorted(m for m in sys.modules if 'xcit' in m or 'torch' in m))", cwd=bare.parent
    )
    assert process.stdout.split("\n")[:2] == ["_Waiting", "['_xcit_dense_startup']"]
    assert silent(
        bare, "-c", "import importlib.util as u; assert u.find_spec('mmcv') is u.find_spec('nothing') is None"
    )


def test_the_stand_in_serves_an_mmcv_without_operators(bare, tmp_path):
    """Without xcit_dense or torch having been imported."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    code = "import sys, mmcv._ext; print(mmcv._ext.nms.__name__, 'torch' in sys.modules, 'xcit_dense' in sys.modules)"
    process = run(bare, "-c", code, PYTHONPATH=str(tmp_path), cwd=bare.parent)
    assert process.stdout == "nms False False\n", process.stderr


def test_python_starts_silently_after_the_package_is_gone(bare):
    """Runs last of those that need the package."""
    site = Path(
        run(bare, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=bare.parent).stdout.strip()
    )
    left = [(site / name, (site / name).read_text()) for name in STARTUP]
    process = run(bare, "-m", "pip", "uninstall", "--yes", "--quiet", "xcit_dense", cwd=bare.parent)
    assert process.returncode == 0, process.stderr
    assert not [path for path, _ in left if path.exists()]
    assert silent(bare, "-c", "pass")
    for path, text in reversed(left):  # as a broken or partial removal leaves them
        path.write_text(text)
        assert silent(bare, "-c", "pass")
    (tmp := site / "mmcv").mkdir()
    (tmp / "__init__.py").touch()
    assert "No module named 'mmcv._ext'" in run(bare, "-c", "import mmcv._ext", cwd=bare.parent).stderr
