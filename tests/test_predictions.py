"""Predictions: their arrays, their drawings, and their conversions."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from tests.helpers.predictions import CLASSES, IMAGE, PALETTE, detection, segmentation
from xcit_dense.media.results import make_categories, make_results
from xcit_dense.predictions import Segmentation
from xcit_dense.visualization.draw import draw_instances, draw_label_map


def test_predictions_do_not_import_torch(python):
    code = "import sys, xcit_dense.predictions; print(*sys.modules)"
    loaded = python("-c", code).stdout.split()
    assert "xcit_dense.predictions" in loaded
    assert not {"torch", "torchvision", "timm", "mmengine", "mmcv", "supervision", "pycocotools"} & set(loaded)


def test_a_detection_names_its_objects_and_keeps_those_with_high_scores():
    found = detection()
    assert found.names == ["dog", "cat", "dog"]
    kept = found.keep(0.5)
    assert kept.names == ["dog", "dog"]
    assert kept.confidence.tolist() == [np.float32(0.9), 0.5]
    assert np.array_equal(kept.mask, found.mask[[0, 2]])
    assert (kept.image is found.image, kept.source, kept.palette) == (True, "photos/a.jpg", PALETTE)
    assert detection(masks=False).keep(0.95).xyxy.shape == (0, 4)


def test_predictions_print_what_they_contain():
    assert repr(detection()) == "Detection(photos/a.jpg, 60 x 40: 2 dog, cat)"
    assert repr(detection().keep(1)) == "Detection(photos/a.jpg, 60 x 40: nothing)"
    assert repr(segmentation()) == "Segmentation(clip.mp4 frame 7, 60 x 40: cat, bird)"


@pytest.mark.parametrize("make", [detection, segmentation])
def test_a_prediction_draws_and_saves_what_the_drawing_functions_draw(make, tmp_path):
    found = make()
    expected = (
        draw_instances(IMAGE, found.instances, CLASSES, PALETTE)
        if make is detection
        else draw_label_map(IMAGE, found.labels, CLASSES, PALETTE)
    )
    assert np.array_equal(found.plot(), expected)
    assert found.save(tmp_path / "new/a.png") == tmp_path / "new/a.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/a.png")), expected)
    found.save(str(tmp_path / "new/a.jpg"))
    difference = np.asarray(Image.open(tmp_path / "new/a.jpg"), int) - expected
    assert abs(difference).mean() < 8
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found._repr_png_()))), expected)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.jpg", "a.png"]


def test_a_drawing_of_an_unknown_format_is_refused(tmp_path):
    with raises_user_error("'a.gif'", ".jpg or .png"):
        detection().save(tmp_path / "a.gif")
    with raises_user_error("'a.jpg'", ".png"):
        segmentation().save_labels(tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_class_indices_are_saved_exactly(tmp_path):
    found = segmentation()
    assert np.array_equal(np.asarray(Image.open(found.save_labels(tmp_path / "a.png"))), found.labels)
    many = Segmentation(labels=np.full((2, 3), 300), image=IMAGE[:2, :3], classes=[str(name) for name in range(301)])
    assert np.asarray(Image.open(many.save_labels(tmp_path / "b.png"))).tolist() == [[300] * 3] * 2
    assert many.names == ["300"]


def test_a_detection_in_cocos_format_has_the_results_of_the_command_line():
    coding = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    found = detection()
    results = found.to_coco(image_id=5)
    assert [result.pop("image_id") for result in results] == [5, 5, 5]
    assert results == make_results(found.instances, make_categories(CLASSES))
    assert np.array_equal(coding.decode(results[1]["segmentation"]), found.mask[1])


def test_a_segmentation_in_cocos_format_has_the_pixels_of_each_class():
    coding = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    found = segmentation()
    results = found.to_coco(image_id=3)
    assert [(result["image_id"], result["category_id"]) for result in results] == [(3, 1), (3, 3)]
    for result, index in zip(results, (0, 2)):
        assert np.array_equal(coding.decode(result["segmentation"]), found.labels == index)


def test_without_supervision_the_error_has_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with raises_user_error("pip install 'xcit-dense[supervision]'"):
        detection().to_supervision()
