"""ONNX graphs in fewer bits: fp16 by ONNX Runtime's converter, int8 by its static quantizer.

Sums over all tokens of an image need fp32. So the attention of XCiT stays as it is; its products with weights are a
small part of a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.export.graph import quiet
from xcit_dense.export.metadata import INPUT

_FP32 = ("XCA", "FactorizedAttention")
"""Classes whose operations stay in fp32."""

_QUANTIZED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that are quantized."""

_LARGE = 2**31
"""Above the size of all weights."""


def halve(graph: Any) -> Any:
    """Converts weights and operations to fp16. Inputs and outputs stay in fp32.

    Args:
        graph: An ``onnx.ModelProto``.

    Returns:
        Another ``onnx.ModelProto``.

    Raises:
        MissingLibraryError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise _missing() from error
    with quiet():
        return convert_float_to_float16(graph, keep_io_types=True, node_block_list=_of_classes(graph, _FP32))


def quantise(graph: Any, inputs: Iterable[npt.NDArray[np.float32]]) -> Any:
    """Quantizes products with weights to 8 bits.

    Args:
        graph: An ``onnx.ModelProto`` in fp32.
        inputs: Inputs (1, 3, H, W), from whose values the ranges of the 8-bit numbers follow.

    Returns:
        Another ``onnx.ModelProto``.

    Raises:
        UserError: There are no inputs.
        MissingLibraryError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    except ImportError as error:
        raise _missing() from error
    import onnx
    from onnxscript import optimizer

    inputs = iter(inputs)
    first = next(inputs, None)
    if first is None:
        raise UserError("int8 needs images for calibration, and there are none; name a directory with images.")

    remaining = chain([first], inputs)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            images = next(remaining, None)
            return None if images is None else {INPUT: images}

    with tempfile.TemporaryDirectory() as directory, quiet():
        source, target = Path(directory, "fp32.onnx"), Path(directory, "int8.onnx")
        # The quantizer leaves a weight in fp32 if the graph computes it from constants, for example by a scale.
        graph = optimizer.optimize(graph, input_size_limit=_LARGE, output_size_limit=_LARGE)
        onnx.save(graph, source)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=_of_classes(graph, _FP32),
        )
        return onnx.load(target)


def _of_classes(graph: Any, classes: Iterable[str]) -> list[str]:
    """Returns the names of the nodes that modules of some classes made. PyTorch's exporter notes the classes."""
    suffixes = tuple(f".{name}" for name in classes)
    names = []
    for node in graph.graph.node:
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.class_hierarchy" and any(
                part.strip(" '\"[]").endswith(suffixes) for part in entry.value.split(",")
            ):
                names.append(node.name)
    return names


def _missing() -> MissingLibraryError:
    return MissingLibraryError("fp16 and int8 need onnxruntime; write pip install 'xcit-dense[export]'.")
