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


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_bands_are_trained_tested_and_predicted(python, tools, tiffs, tmp_path, task):
    config = tools.shapes if task == "detection" else tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]
    data = [config, "--data-root", tiffs, "--device", "cpu"]
    bands = ["--bands", "4,3,2,1", "--draw-bands", "3,2,1"]
    trained = python(tools.train, *data, *bands, "--work-dir", tmp_path / "run", *short_run(2)).stdout
    assert "Bands 4,3,2,1 of 8 training images: mean (" in trained
    checkpoint = read_checkpoint(tmp_path / "run/iter_2.pth")
    assert checkpoint["state_dict"]["backbone.patch_embed.proj.0.0.weight"].shape[1] == 4

    # The config of the run contains the bands and the values.
    out = tmp_path / "metrics.json"
    tested = python(tools.test, tmp_path / "run", "--out", out, "--show-dir", tmp_path / "shown", "--device", "cpu")
    assert "images measured" not in tested.stdout
    assert json.loads(out.read_text())
    images = tiffs / ("val2017" if task == "detection" else "images/validation")
    python("-m", "xcit_dense", "predict", tmp_path / "run", images, "--out", tmp_path / "found", "--device", "cpu")
    drawings = [*(tmp_path / "shown").rglob("*.jpg"), *(tmp_path / "found/pictures").rglob("*.jpg")]
    assert len(drawings) == 8
    assert all(np.asarray(Image.open(path)).std() > 30 for path in drawings)
