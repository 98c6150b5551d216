"""ONNX files as OpenVINO's intermediate representation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xcit_dense.export.metadata import INPUT, RT_INFO, Metadata
from xcit_dense.export.runtimes import import_runtime
from xcit_dense.utils.files import atomic_write


def write_openvino(source: Path, metadata: Metadata, path: Path, compress: bool = False) -> None:
    """Converts an ONNX file.

    Args:
        source: The ONNX file.
        metadata: What the new file says about the model.
        path: The file to write, which ends in ``.xml``. Its weights are written next to it, to a file that ends in
            ``.bin``.
        compress: Whether weights are stored in fp16.

    Raises:
        MissingLibraryError: OpenVINO is not installed.
    """
    openvino = import_runtime("openvino")
    model = openvino.convert_model(source)
    _state_coordinates(model)
    for name, text in metadata.to_text().items():
        model.set_rt_info(text, [RT_INFO, name])
    assert model.input(0).any_name == INPUT
    # The weights are written first, so that a new .xml file never meets old weights.
    with atomic_write(path) as part, atomic_write(path.with_suffix(".bin")) as part_of_weights:
        openvino.save_model(model, part, compress_to_fp16=compress)
        part.with_suffix(".bin").replace(part_of_weights)


def _state_coordinates(model: Any) -> None:
    """States that boxes have four coordinates.

    The graph may compute this number from the size of the images. OpenVINO does not suppress boxes with an unknown
    number of coordinates.
    """
    from openvino import opset13

    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "NonMaxSuppression":
            shape = opset13.constant(np.array([0, -1, 4]))  # 0 keeps the size
            boxes = opset13.reshape(operation.input_value(0), shape, special_zero=True)
            operation.input(0).replace_source_output(boxes.output(0))
