"""The command predict runs an exported model where only the extra ``export`` is installed."""

import importlib.metadata
import json

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.helpers.exported import Detector, Labels, Segmentor, write_exported
from tests.helpers.models import raises_user_error
from xcit_dense.inference.exported import ExportedModel

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PREDICT = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refusal())
from xcit_dense.cli.main import main
main(["predict", {model!r}, {images!r}, "--out", {out!r}, *{more!r}])
"""


def required(name, extras=()):
    """The installed distributions that a distribution requires, itself included."""
    found, todo = set(), [(name, frozenset(extras))]
    while todo:
        one = todo.pop()
        try:
            requirements = importlib.metadata.requires(one[0]) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(one)
        for requirement in map(Requirement, requirements):
            markers = [{"extra": extra} for extra in ("", *one[1])]
            if requirement.marker is None or any(map(requirement.marker.evaluate, markers)):
                following = canonicalize_name(requirement.name), frozenset(requirement.extras)
                todo += [] if following in found else [following]
    return {name for name, _ in found}


def refused(*extras):
    """The installed modules that the package with some of its extras does not require."""
    allowed = required("xcit-dense", extras)
    modules = importlib.metadata.packages_distributions()
    return {
        module
        for module, distributions in modules.items()
        if not module.startswith("_") and not {canonicalize_name(name) for name in distributions} & allowed
    }


@pytest.mark.parametrize(
    ("task", "model", "outputs", "results"),
    [
        ("segmentation", Segmentor(), ("logits",), "labels"),
        ("detection", Detector(), ("boxes", "scores", "labels", "masks"), "results.json"),
    ],
)
def test_predict_needs_only_what_the_extra_export_installs(task, model, outputs, results, python, tmp_path):
    others = refused("export")
    assert {"mmengine", "yapf"} <= others or "mmengine" not in importlib.metadata.packages_distributions()
    path = write_exported(task, model, outputs, tmp_path / "model.onnx")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "images" / "a.png")
    options = {"model": str(path), "images": str(tmp_path / "images"), "out": str(tmp_path / "out")}
    python("-c", PREDICT.format(refused=others, more=(), **options))
    assert [path.stem for path in (tmp_path / "out" / "pictures").iterdir()] == ["a"]
    found = tmp_path / "out" / results
    if task == "segmentation":
        assert (np.asarray(Image.open(found / "a.png")) == 1).all()
    else:
        (one,) = json.loads(found.read_text())
        assert one["bbox"] == pytest.approx([0, 0, 32, 32])


@pytest.mark.parametrize(
    ("task", "model", "outputs", "results"),
    [
        ("segmentation", Segmentor(), ("logits",), "labels/a.tif"),
        ("detection", Detector(), ("boxes", "scores", "labels", "masks"), "objects/a.geojson"),
    ],
)
def test_windows_need_only_what_the_extras_export_and_large_install(task, model, outputs, results, python, tmp_path):
    pytest.importorskip("rasterio", reason="the extra [large] is not installed")
    path = write_exported(task, model, outputs, tmp_path / "model.onnx")
    Image.new("RGB", (100, 80), (200, 200, 200)).save(tmp_path / "a.png")
    options = {"model": str(path), "images": str(tmp_path / "a.png"), "out": str(tmp_path / "out")}
    python("-c", PREDICT.format(refused=refused("export", "large"), more=("--window", "64"), **options))
    assert (tmp_path / "out" / results).is_file()
    assert (tmp_path / "out/previews/a.jpg").is_file()


def test_predict_without_opencv_names_the_extra(refusal, tmp_path):
    options = {"model": "model.onnx", "images": str(tmp_path), "out": str(tmp_path / "out")}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert "pip install 'xcit-dense[export]'" in refusal("-c", PREDICT.format(refused={"cv2"}, more=(), **options))


def test_labels_get_the_size_of_the_original_image(tmp_path):
    model = ExportedModel(write_exported("segmentation", Labels(), ("labels",), tmp_path / "model.onnx"))
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 45:] = 255
    (found,) = model.predict([image])
    np.testing.assert_array_equal(found.labels, image[..., 0] // 255)


def test_an_openvino_file_runs_as_an_onnx_file_does(tmp_path):
    pytest.importorskip("openvino")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for model, task, outputs in (
        (Segmentor(), "segmentation", ("logits",)),
        (Detector(), "detection", ("boxes", "scores", "labels", "masks")),
    ):
        paths = [write_exported(task, model, outputs, tmp_path / f"{task}{suffix}") for suffix in (".onnx", ".xml")]
        one, other = [ExportedModel(path).predict([image])[0] for path in paths]
        for name in ("labels",) if task == "segmentation" else ("xyxy", "confidence", "class_id", "mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_an_openvino_file_without_its_weights_is_refused(tmp_path):
    pytest.importorskip("openvino")
    path = write_exported("segmentation", Segmentor(), ("logits",), tmp_path / "model.xml")
    path.with_suffix(".bin").unlink()
    with raises_user_error("model.bin", "copy that file next to it"):
        ExportedModel(path)


def test_a_pt2_file_is_refused_with_the_formats_that_run(tmp_path):
    with raises_user_error("torch.export.load", ".onnx or .xml"):
        ExportedModel(tmp_path / "model.pt2")
