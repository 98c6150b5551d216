"""A model as one graph for all batches and image sizes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.export.metadata import INPUT, Normalise
from xcit_dense.export.runtimes import import_runtime, open_onnx

OPSET = 20
"""The version of ONNX's operators: the first one that has GELU as an operator."""

_OTHER = 1, 5, 3
"""Images, rows of strides and columns of strides of the example that the graph is checked with."""

_SAMPLE = 2, 4, 6
"""Images, rows of strides and columns of strides of the example that is recorded."""

_TOLERANCE = 1e-2
_CHANGED = "The exported graph is not valid for images of another size than the recorded one:"
_REPORT = "a layer of the model fixes the size, so export a model with another head, or only the backbone."


class Normalised(nn.Module):
    """A model that takes RGB images.

    Args:
        model: A module that takes normalised images (B, 3, H, W).
        mean: The mean of each channel of the images, red first, for pixel values from 0 to 255.
        std: The standard deviation of each channel.
        normalise: ``'inside'``: the images have pixel values from 0 to 255. ``'outside'``: they are normalised already.
        bgr: Whether the model takes channels in the order blue, green, red.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from xcit_dense.export.graph import Normalised
        >>> model = Normalised(nn.Identity(), mean=(100, 100, 100), std=(50, 50, 50), normalise="inside")
        >>> model(torch.full((1, 3, 1, 1), 200.0)).flatten()
        tensor([2., 2., 2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: nn.Module, mean: Sequence[float], std: Sequence[float], normalise: Normalise, bgr: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.inside = normalise == "inside"
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        """Runs the model on images (B, 3, H, W), RGB."""
        if self.inside:
            images = (images - self.mean) / self.std
        return self.model(images.flip(1) if self.bgr else images)


def record(model: nn.Module, stride: int, only_multiples: bool) -> torch.export.ExportedProgram:
    """Records a model with ``torch.export``.

    Args:
        model: A module in evaluation mode that takes images (B, 3, H, W).
        stride: The largest stride of the model.
        only_multiples: Whether the graph takes only images whose sides are multiples of the stride.

    Raises:
        UserError: A part of the model cannot be exported.
    """
    batch, rows, columns = _SAMPLE
    images = torch.zeros(batch, 3, rows * stride, columns * stride)
    axes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    if only_multiples:
        # The comparisons of sizes in PyTorch's graph then have one answer. Otherwise, the graph would refuse images
        # whose sizes have another answer than the example.
        axes[2] = stride * torch.export.Dim("rows", min=2)
        axes[3] = stride * torch.export.Dim("columns", min=2)
    with torch.no_grad(), quiet():
        return torch.export.export(model, (images,), dynamic_shapes=(axes,), strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings of the libraries that export: about outdated calls of their own, and steps they leave out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def to_onnx(model: nn.Module, stride: int, outputs: Sequence[str]) -> Any:
    """Records a model and translates the graph to ONNX.

    Args:
        model: A module in evaluation mode that takes images (B, 3, H, W).
        stride: The largest stride of the model.
        outputs: The names of the outputs.

    Returns:
        An ``onnx.ModelProto``.

    Raises:
        UserError: A part of the model cannot be exported.
        MissingLibraryError: onnx or onnxscript is not installed.
    """
    check_exporter()
    program = record(model, stride, only_multiples=False)
    with quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=list(outputs), opset_version=OPSET, verbose=False
        )
    assert exported is not None
    return exported.model_proto


def check_exporter() -> None:
    """Checks that the libraries that export to ONNX are installed.

    Raises:
        MissingLibraryError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError("ONNX needs onnx and onnxscript; write pip install 'xcit-dense[export]'.") from error


def check_sizes(graph: Any, model: nn.Module, stride: int) -> None:
    """Checks that a graph agrees with its model at another size than the recorded one.

    A layer that computes with sizes as Python numbers fixes them in the graph without a warning.

    Args:
        graph: An ``onnx.ModelProto``.
        model: The model that was recorded.
        stride: The largest stride of the model.

    Raises:
        UserError: The outputs differ.
        MissingLibraryError: onnxruntime is not installed.
    """
    import_runtime("onnxruntime")
    batch, rows, columns = _OTHER
    images = torch.linspace(0, 255, batch * 3 * rows * columns * stride**2).view(
        batch, 3, rows * stride, columns * stride
    )
    with torch.no_grad():
        expected = model(images)
    expected = [expected] if isinstance(expected, Tensor) else expected
    try:
        found = open_onnx(graph.SerializeToString()).run(None, {INPUT: images.numpy()})
    except Exception as error:
        raise UserError(f"{_CHANGED} ONNX Runtime fails: {error}; {_REPORT}") from error
    for name, one, other in zip((output.name for output in graph.graph.output), found, expected):
        if one.shape != tuple(other.shape):
            raise UserError(f"{_CHANGED} {name} has the shape {one.shape}, not {tuple(other.shape)}; {_REPORT}")
        # Equal scores may change their order, so only the sorted values are compared.
        values, own = torch.from_numpy(one).flatten().float().sort()[0], other.flatten().float().sort()[0]
        scale = own.abs().max().clamp_min(1e-6)
        if ((values - own).abs().max() / scale).item() > _TOLERANCE:
            raise UserError(f"{_CHANGED} {name} differs from the model's; {_REPORT}")
