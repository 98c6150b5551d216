"""Loads published and trained weights into a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xcit_dense.models.backbone import Backbone
from xcit_dense.models.coat import CoaT
from xcit_dense.models.loading import Report
from xcit_dense.models.token_pyramid import TokenPyramid
from xcit_dense.models.xcit import XCiT
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

BACKBONES: tuple[type[Backbone], ...] = (XCiT, CoaT, TokenPyramid)
"""The backbones that a file without a config can belong to."""


def find_class(weights: Mapping[str, Any]) -> type[Backbone]:
    """Finds the class of the backbone in a checkpoint by the names of its entries.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Returns:
        The class, or :class:`xcit_dense.XCiT` if the entries are those of no backbone.
    """
    for kind in BACKBONES:
        if kind.find_roots(weights):
            return kind
    return XCiT


def load_weights(backbone: Backbone, checkpoint: str | Path, adapt: bool = False) -> Report:
    """Loads weights into a backbone: XCiT, TokenPyramid or CoaT. The names of all published checkpoints are understood.

    Args:
        backbone: The backbone.
        checkpoint: A ``.pth`` or ``.safetensors`` file, a work directory, an http address, ``xcit://NAME`` or NAME with
            a name of :func:`xcit_dense.list_weights`, or ``timm://NAME`` (see
            :func:`xcit_dense.weights.resolve.resolve`). From a detector or segmentor, the backbone is taken.
        adapt: Whether the weights of the stem are adapted if the backbone has another number of input channels
            (:func:`xcit_dense.models.loading.adapt_channels`). Otherwise such a checkpoint is refused.

    Returns:
        A report of what was loaded, left out and missing.

    Raises:
        UserError: The checkpoint does not exist, does not contain such a backbone, or contains another variant. The
            message names the likely variant. The backbone does not change.

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
        adapted, change = backbone.adapt_input(weights) if adapt else (weights, "")
        translated, report = backbone.translate(adapted)
        backbone.load_state_dict(translated)
    return replace(report, adapted=", ".join(filter(None, (change, report.adapted))))
