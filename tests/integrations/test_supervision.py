"""Predictions as detections of supervision."""

import numpy as np
import pytest

pytest.importorskip("supervision", reason="supervision is not installed")
import supervision as sv

from tests.helpers.predictions import CLASSES, IMAGE, detection, segmentation
from xcit_dense.predictions import Segmentation


def test_a_detection_keeps_its_arrays_in_supervision():
    found = detection()
    got = found.to_supervision()
    assert isinstance(got, sv.Detections)
    for name in ("xyxy", "confidence", "class_id", "mask"):
        assert np.array_equal(getattr(got, name), getattr(found, name)), name
    assert got["class_name"].tolist() == found.names
    assert sv.BoxAnnotator().annotate(IMAGE.copy(), got).shape == IMAGE.shape
    assert detection(masks=False).to_supervision().mask is None
    assert len(found.keep(1).to_supervision()) == 0


def test_a_segmentation_becomes_one_mask_for_each_class():
    found = segmentation()
    got = found.to_supervision()
    assert (got.class_id.tolist(), got["class_name"].tolist()) == ([0, 2], ["cat", "bird"])
    assert np.array_equal(got.mask[1], found.labels == 2)
    assert got.xyxy[1].tolist() == [20, 10, 59, 29]
    assert sv.MaskAnnotator().annotate(IMAGE.copy(), got).shape == IMAGE.shape


def test_a_segmentation_without_a_class_becomes_an_empty_detection():
    nothing = Segmentation(labels=np.full((40, 60), 255), image=IMAGE, classes=CLASSES)
    assert len(nothing.to_supervision()) == 0
