"""Loads published and trained weights into a backbone."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from xcit_dense.models.state_dict import Report, translate
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve


def load_weights(backbone: nn.Module, checkpoint: str | Path) -> Report:
    """Loads weights into an :class:`xcit_dense.XCiT`. The names of all published checkpoints are understood.

    Args:
        backbone: The backbone.
        checkpoint: A ``.pth`` or ``.safetensors`` file, a work directory, an http address, ``xcit://NAME`` or NAME with
            a name of :func:`xcit_dense.list_weights`, or ``timm://NAME`` (see
            :func:`xcit_dense.weights.resolve.resolve`). From a detector or segmentor, the backbone is taken.

    Returns:
        A report of what was loaded, left out and missing.

    Raises:
        UserError: The checkpoint does not exist, does not contain an XCiT, or contains another variant. The message
            names the likely variant. The backbone does not change.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from xcit_dense import XCiT, load_weights
        >>> shape = dict(patch_size=16, embed_dim=16, depth=4, num_heads=2)
        >>> path = Path(tempfile.mkdtemp(), "trained.pth")
        >>> torch.save({"state_dict": XCiT(**shape).state_dict()}, path)
        >>> print(load_weights(XCiT(**shape), path))
        145 entries of the backbone
    """
    path = resolve(checkpoint)
    weights = read_weights(path)
    with naming(path):
        weights, report = translate(weights, "", backbone.state_dict())
        backbone.load_state_dict(weights)
    return report
