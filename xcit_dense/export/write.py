"""Exported models as files. The suffix chooses the format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.export import SUFFIXES
from xcit_dense.export.graph import check_sizes, record, to_onnx
from xcit_dense.export.metadata import Metadata
from xcit_dense.export.openvino_ir import write_openvino
from xcit_dense.export.precision import halve, quantise
from xcit_dense.export.runtimes import import_runtime
from xcit_dense.utils.files import atomic_write

METADATA_FILE = "metadata.json"
"""The name of the metadata in a .pt2 file."""

DType = Literal["fp32", "fp16"]
Calibrate = Callable[[Path], Iterator[npt.NDArray[np.float32]]]
"""Takes the path of the fp32 model. Yields its inputs, (1, 3, H, W)."""


def check_out(path: Path, dtype: DType = "fp32", int8: bool = False) -> None:
    """Checks that a file of this name and number format can be written, before work is done for it.

    Args:
        path: The file.
        dtype: The floating-point format of the weights.
        int8: Whether products are quantized to 8 bits.

    Raises:
        UserError: The suffix is unknown, or the format does not have this number format.
        MissingLibraryError: A library that writes the format is not installed.

    Example:
        >>> from pathlib import Path
        >>> check_out(Path("model.onx"))
        Traceback (most recent call last):
        ...
        xcit_dense.errors.UserError: No suffix is called '.onx'. Did you mean '.onnx'? Valid names: .onnx, .pt2, .xml.
    """
    suffix = path.suffix
    if suffix not in SUFFIXES:
        raise UserError(did_you_mean("suffix", suffix or str(path), SUFFIXES))
    if path.is_dir():
        raise UserError(f"{path} is a directory; name a file that ends in {suffix}.")
    if suffix == ".pt2" and (dtype != "fp32" or int8):
        raise UserError(f"{path}: a .pt2 file is written in fp32 only; write a file that ends in .onnx or .xml.")
    if int8 and dtype != "fp32":
        raise UserError(f"int8 and {dtype} exclude each other; leave one of them out.")
    if suffix == ".xml":
        import_runtime("openvino")


def write_model(
    model: nn.Module, metadata: Metadata, path: Path, *, dtype: DType = "fp32", calibrate: Calibrate | None = None
) -> None:
    """Exports a model and writes the file atomically.

    Args:
        model: A module in evaluation mode that takes images (B, 3, H, W), and returns as many tensors as
            ``metadata.outputs`` has names.
        metadata: What the file says about the model.
        path: The file: ``.onnx``, ``.pt2``, or ``.xml`` (with its weights next to it, in a file that ends in ``.bin``).
        dtype: The floating-point format of the weights.
        calibrate: Yields images, from whose values the ranges of 8-bit numbers follow. None does not quantize.

    Raises:
        UserError: A part of the model cannot be exported, or the file cannot be written.
        MissingLibraryError: A library that writes the format is not installed.

    Example:
        >>> from pathlib import Path
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.export.metadata import Metadata
        >>> backbone = XCiT(patch_size=16, embed_dim=16, depth=4, num_heads=2).eval()
        >>> names = ("stride_4", "stride_8", "stride_16", "stride_32")
        >>> metadata = Metadata("features", names, (0.0,) * 3, (1.0,) * 3, "outside", stride=32)
        >>> write_model(backbone, metadata, Path("model.pt2"))
        >>> Path("model.pt2").exists()
        True
    """
    check_out(path, dtype, calibrate is not None)
    if path.suffix == ".pt2":
        program = record(model, metadata.stride, only_multiples=True)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it contains paths of the source code
        with atomic_write(path) as part:
            torch.export.save(program, part, extra_files={METADATA_FILE: _as_json(metadata)})
        return
    graph = to_onnx(model, metadata.stride, metadata.outputs)
    check_sizes(graph, model, metadata.stride)
    for name, text in metadata.to_text().items():
        graph.metadata_props.add(key=name, value=text)
    with tempfile.TemporaryDirectory() as directory:
        if calibrate is not None:
            draft = Path(directory, "fp32.onnx")
            _save(graph, draft)
            graph = quantise(graph, calibrate(draft))
        if path.suffix == ".onnx":
            graph = halve(graph) if dtype == "fp16" else graph
            _drop_notes(graph)
            with atomic_write(path) as part:
                _save(graph, part)
        else:
            draft = Path(directory, "model.onnx")
            _save(graph, draft)
            write_openvino(draft, metadata, path, compress=dtype == "fp16")


def _as_json(metadata: Metadata) -> str:
    entries = ",\n".join(f'"{name}": {text}' for name, text in metadata.to_text().items())
    return f"{{{entries}}}\n"


def _save(graph: Any, path: Path) -> None:
    import onnx

    onnx.save(graph, path)


def _drop_notes(graph: Any) -> None:
    """Removes what PyTorch's exporter notes about each node: its class, and the lines and paths of the source code."""
    for node in graph.graph.node:
        del node.metadata_props[:]
