"""The result of ``pip install``: the wheel, its command outside the clone, and a silent start of Python."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
STARTUP = ["_xcit_dense_startup.py", "xcit_dense.pth"]


def run(*command, cwd, **options):
    """Runs a command outside the clone, with more environment variables."""
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
    """The wheel, built from a copy of the clone with the build tools that are installed or from the registry."""
    directory = tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "data", "work_dirs", "docs")
    for entry in ("xcit_dense", "startup", "tests", "tools", "configs"):
        ignore = unwanted if entry != "xcit_dense" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / entry, directory / "tree" / entry, ignore=ignore)
    for entry in ("setup.py", "pyproject.toml", "README.md", "model-index.yml"):
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


def pip(python, *arguments):
    """Runs pip of this environment for another one, because the installation of pip takes longer than most tests."""
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
    return run(*command, *arguments, cwd=python.parent)


def make_environment(directory, wheel):
    """Makes a fresh environment with the wheel and without its requirements; returns its Python."""
    venv.create(directory)
    python = next(path for path in (directory / "bin/python", directory / "Scripts/python.exe") if path.exists())
    process = pip(python, "install", "--no-deps", "--no-index", wheel)
    assert process.returncode == 0, process.stderr
    return python


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """Python of a new environment that has only the wheel."""
    return make_environment(tmp_path_factory.mktemp("venv"), wheel)


@pytest.fixture(scope="module")
def complete(wheel, tmp_path_factory):
    """Python of a fresh environment that has the wheel, and the libraries of this environment."""
    for name in ("mmdet", "mmseg", "pycocotools", "shapely"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    python = make_environment(tmp_path_factory.mktemp("venv"), wheel)
    # A path in a .pth file, unlike a site directory, does not run the .pth files there: xcit_dense is the wheel's.
    (site_packages(python) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


def site_packages(python):
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(python, "-c", code, cwd=python.parent).stdout.strip())


def xcit_dense(python, *arguments, cwd, status=0):
    """Runs the installed command; returns what it prints."""
    process = run(python.parent / "xcit-dense", *arguments, cwd=cwd, OMP_NUM_THREADS="1")
    assert process.returncode == status, (process.stdout + process.stderr)[-3000:]
    return process.stdout + process.stderr


def silent(python, *arguments):
    process = run(python, *arguments, cwd=python.parent)
    return (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_the_wheel_has_exactly_the_package_the_configs_and_the_start_up_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "xcit_dense").rglob("*.py")}
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*") if path.suffix in (".py", ".yml")}
    mim = {f"xcit_dense/.mim/{name}" for name in configs | {"model-index.yml"}}
    assert names == package | mim | {"xcit_dense/py.typed", *STARTUP}


def test_mim_finds_every_config_and_its_weights_in_the_wheel(bare):
    directory = site_packages(bare) / "xcit_dense/.mim"
    index = yaml.safe_load((directory / "model-index.yml").read_text())
    models = [model for name in index["Import"] for model in yaml.safe_load((directory / name).read_text())["Models"]]
    assert len(models) > 20
    for model in models:
        assert (directory / model["Config"]).is_file()
        assert model["Weights"].startswith("https://")


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["zoo"]], ids=" ".join)
def test_the_help_is_shown_without_any_library(bare, tmp_path, command):
    assert xcit_dense(bare, *command, "--help", cwd=tmp_path).startswith(" ".join(["usage: xcit-dense", *command]))


def test_the_zoo_is_shown_without_any_library(bare, tmp_path):
    assert "coco/small_12_p16" in xcit_dense(bare, "zoo", "coco", cwd=tmp_path)


def test_a_config_is_copied_without_any_library(bare, tmp_path):
    xcit_dense(bare, "config", "mask_rcnn_xcit_s12", "--copy", ".", cwd=tmp_path)
    for copy in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert copy.read_bytes() == (ROOT / copy.relative_to(tmp_path)).read_bytes()
    assert (tmp_path / "configs/detection/mask_rcnn_xcit_s12.py").is_file()


def test_a_name_with_a_typo_is_refused_with_near_names(bare, tmp_path):
    text = xcit_dense(bare, "train", "mask_rcn_xcit_s12", cwd=tmp_path, status=1)
    assert "error: No config at mask_rcn_xcit_s12" in text
    assert "mask_rcnn_xcit_s12" in text.replace("at mask_rcn_xcit_s12", "")


@pytest.fixture(scope="module")
def walked(complete, tmp_path_factory):
    """The steps of a user in an empty directory: data, a short training of a copied config, a test, predictions."""
    directory = tmp_path_factory.mktemp("elsewhere")
    short = ["--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=2"]
    short += ["default_hooks.checkpoint.interval=2"]
    commands = [
        ["shapes", "data/shapes", "--train", "8", "--val", "4", "--size", "96"],
        ["train", "mask_rcnn_xcit_n12_p8_shapes", "--device", "cpu", "--work-dir", "work", *short],
        ["test", "work", "--device", "cpu", "--out", "metrics.json"],
        ["predict", "work", "data/shapes/val2017", "--device", "cpu", "--out", "found"],
        ["config", "sem_fpn_xcit_n12_p8_shapes", "--copy", "."],
        ["config", "configs/segmentation/sem_fpn_xcit_n12_p8_shapes.py"],
    ]
    return directory, [xcit_dense(complete, *command, cwd=directory) for command in commands]


def test_the_wheel_itself_is_imported(complete, tmp_path):
    process = run(complete, "-c", "import xcit_dense; print(xcit_dense.__file__)", cwd=tmp_path)
    assert Path(process.stdout.strip()).is_relative_to(site_packages(complete))


def test_a_training_a_test_and_predictions_work_by_name_in_an_empty_directory(walked):
    directory, _ = walked
    assert (directory / "work/iter_2.pth").is_file()
    assert "coco/segm_mAP" in json.loads((directory / "metrics.json").read_text())
    assert len(list((directory / "found/pictures").iterdir())) == 4


def test_a_copied_config_is_read_where_it_was_copied_to(walked):
    assert "EncoderDecoder" in walked[1][-1]


def test_mmengine_finds_a_config_of_the_wheel_by_the_name_of_the_package(complete, tmp_path):
    code = (
        "import xcit_dense.mm\n"
        "from mmengine.hub import get_config\n"
        "config = get_config('xcit_dense::detection/mask_rcnn_xcit_s12.py', pretrained=True)\n"
        "print(config.model.backbone.variant, config.model_path)"
    )
    process = run(complete, "-c", code, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    variant, address = process.stdout.split()[-2:]
    assert variant == "small_12_p16"
    assert address.endswith("maskrcnn_xcit_small_12_p16.pth")


def test_opencv_works_where_libgl_cannot_be_loaded(complete, tmp_path):
    """As on a server without a display: the builds of OpenCV with windows need libGL."""
    (tmp_path / "libGL.so.1").write_text("not a library")
    process = run(complete, "-c", "import cv2; print(cv2.__version__)", cwd=tmp_path, LD_LIBRARY_PATH=str(tmp_path))
    assert process.returncode == 0, process.stderr


def test_the_wheel_does_not_require_an_mm_library(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert {line.split()[1].split(">")[0].split("<")[0] for line in required} == {
        "torch",
        "torchvision",
        "timm",
        "huggingface_hub",
        "numpy",
        "safetensors",
        "packaging",
    }
    assert {line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-Extra: ")} == {
        "mm",
        "openmmlab",
        "bands",
        "large",
        "slides",
        "export",
        "openvino",
        "serve",
        "smp",
        "transformers",
        "lightning",
        "supervision",
        "docs",
        "dev",
    }


@pytest.mark.parametrize("options", [[], ["-I"], ["-W", "error"]], ids=["plain", "isolated", "warnings"])
def test_python_starts_silently(bare, options):
    assert silent(bare, *options, "-c", "pass")


def test_the_start_up_file_waits_for_mmcv_without_importing_a_library(bare):
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
    """Neither xcit_dense nor torch is imported."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    code = "import sys, mmcv._ext; print(mmcv._ext.nms.__name__, 'torch' in sys.modules, 'xcit_dense' in sys.modules)"
    process = run(bare, "-c", code, PYTHONPATH=str(tmp_path), cwd=bare.parent)
    assert process.stdout == "nms False False\n", process.stderr


def test_python_starts_silently_after_the_package_is_gone(bare):
    """Must be the last test that uses ``bare``."""
    site = site_packages(bare)
    left = [(site / name, (site / name).read_text()) for name in STARTUP]
    process = pip(bare, "uninstall", "--yes", "xcit_dense")
    assert process.returncode == 0, process.stderr
    assert not [path for path, _ in left if path.exists()]
    site.mkdir(exist_ok=True)  # pip has removed the empty directory
    assert silent(bare, "-c", "pass")
    for path, text in reversed(left):  # a broken or partial removal may leave them
        path.write_text(text)
        assert silent(bare, "-c", "pass")
    (tmp := site / "mmcv").mkdir()
    (tmp / "__init__.py").touch()
    assert "No module named 'mmcv._ext'" in run(bare, "-c", "import mmcv._ext", cwd=bare.parent).stderr
