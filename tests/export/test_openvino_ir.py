"""OpenVINO runs what ONNX Runtime runs."""

import numpy as np
import pytest

from xcit_dense.export.metadata import Metadata
from xcit_dense.export.openvino_ir import write_openvino

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")


def test_boxes_whose_number_of_coordinates_is_computed_are_suppressed(tmp_path):
    graph = onnx.parser.parse_model(
        """
        <ir_version: 9, opset_import: ["" : 20]>
        boxes_of_pixels (float[B, C, H, W] images) => (int64[K, 3] kept)
        <int64 four = {4}, int64[1] first = {0}, int64[2] start = {1, -1}, int64 many = {10}, float limit = {0.5}> {
            size = Size (images)
            larger = Mul (size, four)
            computed = Div (larger, size)
            sides = Unsqueeze (computed, first)
            shape = Concat <axis = 0> (start, sides)
            boxes = Reshape (images, shape)
            axis = Constant <value = int64[1] {2}> ()
            best = ReduceMax <keepdims = 0> (boxes, axis)
            one = Constant <value = int64[1] {1}> ()
            scores = Unsqueeze (best, one)
            kept = NonMaxSuppression (boxes, scores, many, limit)
        }
        """
    )
    onnx.save(graph, tmp_path / "model.onnx")
    numbers = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "normalise": "inside", "stride": 4}
    write_openvino(tmp_path / "model.onnx", Metadata("detection", ("kept",), **numbers), tmp_path / "model.xml")
    compiled = openvino.Core().compile_model(tmp_path / "model.xml", "CPU")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    (expected,) = session.run(None, {"images": images})
    assert len(expected) > 1
    found = compiled(images)[0]
    np.testing.assert_array_equal(found[: len(expected)], expected)
