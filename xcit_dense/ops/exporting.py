"""Whether the model is being exported to a graph that has to serve all image sizes."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Returns whether ``torch.export`` or one of PyTorch's ONNX exporters records the model.

    A recorded branch serves all later images. So a module that chooses by the size of an image must take one choice
    here that is valid for all sizes. ``torch.compile`` does not count, because it records a further graph if a size
    needs one.

    Example:
        >>> from xcit_dense.ops.exporting import is_exporting
        >>> is_exporting()
        False
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        return torch.onnx.is_in_onnx_export()
    # PyTorch 2.6 does not have the function.
    asked = getattr(torch.compiler, "is_exporting", None)
    return asked is not None and asked()
