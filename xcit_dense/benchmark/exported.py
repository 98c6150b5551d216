"""Contenders that a runtime of exported models computes: ONNX Runtime and OpenVINO, in fp32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xcit_dense.export.graph import OPSET, check_exporter, quiet, to_onnx
from xcit_dense.export.runtimes import Runtime, import_runtime, open_onnx, open_openvino

Array = npt.NDArray[np.float32]
Session = Callable[[Array], list[Array]]

OUTPUTS = ("stride_4", "stride_8", "stride_16", "stride_32")


class Exported(nn.Module):
    """A backbone that is exported to ONNX, and computed by a runtime.

    Args:
        model: The backbone, in evaluation mode.
        runtime: ``'onnxruntime'`` or ``'openvino'``.
        any_size: Whether one graph serves all images, as in the files that ``xcit-dense export`` writes. Otherwise the
            graph is made for the first images, which gives a runtime more to optimise.

    Raises:
        MissingLibraryError: The runtime is not installed.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, any_size: bool) -> None:
        super().__init__()
        check_runtime(runtime)
        self.model = model
        self.runtime = runtime
        self.any_size = any_size
        self.session: Session | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes maps at strides 4, 8, 16 and 32 of images (B, 3, H, W)."""
        if self.session is None:
            self.session = self._open(images)
        return tuple(map(torch.from_numpy, self.session(images.numpy())))

    def _open(self, images: Tensor) -> Session:
        # The images of inference mode cannot be recorded.
        with torch.inference_mode(False):
            graph = to_onnx(self.model, 32, OUTPUTS) if self.any_size else _of_one_size(self.model, images.clone())
        content = graph.SerializeToString()
        threads = torch.get_num_threads()
        return (
            _open_onnxruntime(content, threads) if self.runtime == "onnxruntime" else _open_openvino(content, threads)
        )


def check_runtime(runtime: Runtime) -> None:
    """Checks that a runtime is installed.

    Raises:
        MissingLibraryError: The runtime is not installed, or a library that exports is not installed.
    """
    check_exporter()
    import_runtime(runtime)


def _of_one_size(model: nn.Module, images: Tensor) -> Any:
    """Returns the graph for images of one size, an ``onnx.ModelProto``."""
    with torch.no_grad(), quiet():
        exported = torch.onnx.export(model, (images,), dynamo=True, opset_version=OPSET, verbose=False)
    assert exported is not None
    return exported.model_proto


def _open_onnxruntime(content: bytes, threads: int) -> Session:
    session = open_onnx(content, threads)
    (name,) = (one.name for one in session.get_inputs())

    def run(images: Array) -> list[Array]:
        found: list[Array] = session.run(None, {name: images})
        return found

    return run


def _open_openvino(content: bytes, threads: int) -> Session:
    _, compiled = open_openvino(content, threads)
    request = compiled.create_infer_request()

    def run(images: Array) -> list[Array]:
        # The request overwrites its own arrays at the next call.
        return [output.copy() for output in request.infer([images]).values()]

    return run
