"""Exported models predict windows as they predict complete images."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("rasterio", reason="rasterio is not installed")
pytest.importorskip("shapely", reason="shapely is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")

import rasterio

from tests.helpers.exported import Detector, Labels, Segmentor, write_exported
from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.cli.main import main
from xcit_dense.inference.exported import ExportedModel
from xcit_dense.inference.windows.exported import ExportedWindowEngine
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.labels import read_names


class OneLogit(torch.nn.Module):
    """A high logit where an image is bright."""

    def forward(self, images):
        return images.mean(dim=1, keepdim=True) / 10 - 10  # (B, 1, H, W)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Exported models, by a word."""
    directory = tmp_path_factory.mktemp("exported")
    masks = ("boxes", "scores", "labels", "masks")
    return {
        "logits": write_exported("segmentation", Segmentor(), ("logits",), directory / "logits.onnx"),
        "labels": write_exported("segmentation", Labels(), ("labels",), directory / "labels.onnx"),
        "one": write_exported("segmentation", OneLogit(), ("logits",), directory / "one.onnx"),
        "objects": write_exported("detection", Detector(), masks, directory / "objects.onnx"),
    }


def predict(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    return ended.value.code


def test_the_label_map_is_that_of_the_complete_image(paths, tmp_path):
    pixels = noise(150, 200, 3, "uint8", 255, seed=1) + np.uint8(60)
    image = write_geotiff(tmp_path / "big.tif", pixels)
    options = ("--window", 64, "--overlap", 16, "--batch", 3, "--scores")
    assert predict(paths["logits"], image, *options, "--out", tmp_path / "out") == 0
    expected = pixels.astype(np.float32).mean(axis=2) > 100
    assert 0.1 < expected.mean() < 0.9
    with rasterio.open(tmp_path / "out/labels/big.tif") as file, rasterio.open(image) as original:
        assert (file.read(1) == expected).all()
        assert (file.crs, file.transform) == (original.crs, original.transform)
        assert file.colormap(1)[1][:3] == (255, 255, 0)
    assert read_names(tmp_path / "out/labels/big.tif") == ["dark", "bright"]
    with rasterio.open(tmp_path / "out/scores/big.tif") as file:
        assert ((file.read(2) > 0.5) == expected).mean() > 0.999
        np.testing.assert_allclose(file.read().sum(axis=0), 1, atol=2e-3)
    assert (tmp_path / "out/previews/big.jpg").exists()


def test_the_objects_of_each_window_are_at_their_place(paths, tmp_path):
    image = write_geotiff(tmp_path / "big.tif", noise(64, 128, 3, "uint8", 255), place=False)
    assert predict(paths["objects"], image, "--window", 64, "--overlap", 0, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert sorted(one["bbox"] for one in found) == [[0, 0, 32, 32], [64, 0, 32, 32]]
    assert (
        json.loads((tmp_path / "out/objects/big.geojson").read_text())["features"][0]["properties"]["class"] == "dark"
    )


@pytest.mark.parametrize("scale", [0.5, 2])
def test_the_model_sees_a_scaled_window_and_the_scores_have_the_size_of_the_window(paths, scale):
    window = np.zeros((64, 96, 3), np.uint8)
    window[:, 48:] = 255
    (scores,) = ExportedWindowEngine(ExportedModel(paths["logits"]), scale).score([window])
    assert scores.shape == (2, 64, 96)
    labels = scores.argmax(axis=0)
    assert (labels[:, :46] == 0).all()
    assert (labels[:, 50:] == 1).all()
    (found,) = ExportedWindowEngine(ExportedModel(paths["objects"]), scale).find([window[:, :64]])
    np.testing.assert_allclose(found.boxes, [[0, 0, 32, 32]], atol=1e-4)
    assert found.masks.shape == (1, 64, 64)


def test_one_logit_gives_two_classes_and_the_threshold_of_the_export(paths):
    engine = ExportedWindowEngine(ExportedModel(paths["one"]))
    window = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (scores,) = engine.score([window])
    expected = 1 / (1 + np.exp(10 - window.mean(axis=2) / 10))
    np.testing.assert_allclose(scores, [1 - expected, expected], atol=1e-4)
    assert engine.threshold == 0.5
    assert ExportedWindowEngine(ExportedModel(paths["logits"])).threshold is None


def test_a_model_that_returns_labels_is_refused_before_an_image_is_read(paths, tmp_path):
    image = write_geotiff(tmp_path / "big.tif", noise(64, 64, 3, "uint8", 255))
    with raises_user_error("labels.onnx returns labels", "without --output labels"):
        ExportedWindowEngine(ExportedModel(paths["labels"]))
    assert "returns labels" in predict(paths["labels"], image, "--window", 64, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_of_a_detector_are_refused(paths, tmp_path):
    image = write_geotiff(tmp_path / "big.tif", noise(64, 64, 3, "uint8", 255))
    code = predict(paths["objects"], image, "--window", 64, "--scores", "--out", tmp_path / "out")
    assert "this model is a detector" in code
    assert not (tmp_path / "out").exists()


def test_an_image_of_other_bands_is_named_with_what_helps(paths):
    engine = ExportedWindowEngine(ExportedModel(paths["logits"]))
    assert tuple(engine.choose_bands(ArraySource(np.zeros((9, 9, 1), np.uint8)))) == (1, 1, 1)
    with raises_user_error("3 bands of uint16", "predict with the checkpoint and --bands"):
        engine.choose_bands(ArraySource(np.zeros((9, 9, 3), np.uint16)))


def test_a_run_goes_on_only_with_the_same_file_and_the_same_scale(paths):
    fingerprints = [
        ExportedWindowEngine(ExportedModel(paths[name]), scale).fingerprint
        for name, scale in (("logits", 1), ("logits", 1), ("one", 1), ("logits", 0.5))
    ]
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0]["model"] != fingerprints[2]["model"]
    assert fingerprints[0] != fingerprints[3]
