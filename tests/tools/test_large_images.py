"""A large image, from chips to a model: the commands of docs/large_images.md, as they are written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")

ROOT = Path(__file__).parents[2]


def commands(title):
    """The commands of a section of the page."""
    page = (ROOT / "docs/large_images.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", sections[title], re.M | re.S))


def run(directory, *command):
    """Runs a command as a user does. Returns the exit status and what it prints."""
    variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        command, cwd=directory, env={**os.environ, **variables, "PATH": path}, capture_output=True, text=True
    )
    return process.returncode, process.stdout + process.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory and the output of the commands that cut chips and train on them."""
    directory = tmp_path_factory.mktemp("page")
    status, output = run(directory, "bash", "-e", "-c", commands("Training chips"))
    assert status == 0, output[-3000:]
    return directory, output


def read(path):
    with rasterio.open(path) as file:
        return file.read(1), file.transform, file.crs


@pytest.mark.slow
def test_the_chips_of_the_page_are_cut_and_trained_on(trained):
    directory, output = trained
    assert "48 chips for training, 16 for validation" in output
    assert "Classes: 5 (background, circle, square, triangle, star)" in output
    assert (directory / "work_dirs/chips/iter_4.pth").exists()


@pytest.mark.slow
def test_the_model_of_the_page_maps_the_image_by_windows_and_a_complete_run_does_not_go_on(trained):
    directory, _ = trained
    status, output = run(directory, "bash", "-e", "-c", commands("Windows"))
    assert status == 0, output[-3000:]
    labels, *place = read(directory / "mapped/labels/map.tif")
    assert labels.shape == (1024, 1024)
    assert labels.max() < 5
    assert place == list(read(directory / "map/map.tif")[1:])
    assert (directory / "mapped/previews/map.jpg").exists()
    status, output = run(directory, "bash", "-e", "-c", f"{commands('Windows').strip()} --resume")
    assert status == 1
    assert "mapped is complete, so --resume has nothing to do" in output


@pytest.mark.slow
def test_the_model_of_the_page_maps_the_complete_image(trained):
    directory, _ = trained
    status, output = run(directory, "bash", "-e", "-c", commands("Labels of the complete image"))
    assert status == 0, output[-3000:]
    assert "map.tif: 1024 x 1024 pixels" in output
    labels, *place = read(directory / "streamed/labels/map.tif")
    assert labels.max() < 5
    assert place == list(read(directory / "map/map.tif")[1:])
