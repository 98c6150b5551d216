"""Images of four bands with 16 bits go through training, test and prediction, with the values of the training."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.helpers.rasters import copy_as_tiffs
from tests.helpers.runs import read_checkpoint, short_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiffs(shapes, tmp_path_factory):
    """The shapes data set as TIFFs of four bands with 16 bits."""
    return copy_as_tiffs(shapes, tmp_path_factory.mktemp("tiffs"))


@pytest.fixture
def train(python, tools, tiffs, tmp_path):
    """Trains a config for two iterations. Returns the work directory."""

    def run(config, *arguments):
        bands = ["--bands", "4,3,2,1", "--draw-bands", "3,2,1"]
        data = ["--data-root", tiffs, "--work-dir", tmp_path / "run", "--device", "cpu"]
        process = python(tools.train, config, *data, *arguments, *bands, *short_run(2))
        assert "Bands 4,3,2,1 of 8 training images: mean (" in process.stdout
        stem = read_checkpoint(tmp_path / "run/iter_2.pth")["state_dict"]["backbone.patch_embed.proj.0.0.weight"]
        assert stem.shape[1] == 4
        return tmp_path / "run"

    return run


def assert_drawn(directory, count):
    drawings = list(directory.rglob("*.jpg"))
    assert len(drawings) == count
    assert all(np.asarray(Image.open(path)).std() > 30 for path in drawings)


def test_a_detector_of_bands_is_trained_tested_and_predicts(train, python, tools, tiffs, tmp_path):
    work_dir = train(tools.shapes)
    # The config of the run contains the bands and the values.
    process = python(tools.test, work_dir, "--show-dir", tmp_path / "shown", "--device", "cpu")
    assert "Bands" not in process.stdout
    assert_drawn(tmp_path / "shown", 4)
    inputs = [tiffs / "val2017", "--out", tmp_path / "found", "--device", "cpu"]
    python("-m", "xcit_dense", "predict", work_dir, *inputs)
    assert len(json.loads((tmp_path / "found/images.json").read_text())["images"]) == 4
    assert_drawn(tmp_path / "found/pictures", 4)


def test_a_segmentor_of_bands_is_trained_and_tested(train, python, tools, tmp_path):
    work_dir = train(tools.segmentation["sem_fpn_xcit_n12_p8_shapes"], "--classes", "auto", "--ignore-zero")
    python(tools.test, work_dir, "--out", tmp_path / "metrics.json", "--device", "cpu")
    assert "mIoU" in json.loads((tmp_path / "metrics.json").read_text())
