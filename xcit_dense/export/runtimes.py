"""Runtimes that compute exported models on the CPU: ONNX Runtime and OpenVINO. This module does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from xcit_dense.errors import MissingLibraryError

Runtime = Literal["onnxruntime", "openvino"]
"""The modules of the runtimes."""

_FILES = {"onnxruntime": "A .onnx file", "openvino": "A .xml file"}


def import_runtime(runtime: Runtime) -> Any:
    """Imports a runtime.

    Args:
        runtime: The name of the module.

    Raises:
        MissingLibraryError: The runtime is not installed.
    """
    try:
        return import_module(runtime)
    except ImportError as error:
        raise MissingLibraryError(
            f"{_FILES[runtime]} needs {runtime}; write pip install {runtime}, or to export models too, pip install "
            "'xcit-dense[export,openvino]'."
        ) from error


def open_onnx(
    model: Path | bytes, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Any:
    """Opens an ONNX model with ONNX Runtime.

    Args:
        model: The file, or its content.
        threads: The number of threads of the CPU. None lets the runtime choose.
        providers: What ONNX Runtime computes with.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        MissingLibraryError: ONNX Runtime is not installed.
    """
    onnxruntime = import_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=providers)


def open_openvino(model: Path | bytes, threads: int | None = None) -> tuple[Any, Any]:
    """Opens a model with OpenVINO, in fp32.

    Args:
        model: The file, or the content of an ONNX file.
        threads: The number of threads of the CPU. None lets the runtime choose.

    Returns:
        The model and the compiled model.

    Raises:
        MissingLibraryError: OpenVINO is not installed.
    """
    core = import_runtime("openvino").Core()
    # Otherwise OpenVINO computes in bf16 where the processor can.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    read = core.read_model(model)
    return read, core.compile_model(read, "CPU", options)
