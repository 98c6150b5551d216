"""Published and trained weights in a backbone."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from xcit_dense.models.state_dict import Report, translate
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve


def load_weights(backbone: nn.Module, checkpoint: str | Path) -> Report:
    """Loads weights of any published dialect into an :class:`xcit_dense.XCiT`.

    Args:
        backbone: Where to.
        checkpoint: A ``.pth`` or ``.safetensors`` file, an http(s) address, ``xcit://NAME`` or NAME alone with a name
            of :data:`xcit_dense.weights.zoo.ZOO`, or ``timm://NAME``. Of a detector or segmentor, the backbone is
            taken.

    Returns:
        What was loaded, left out and missing.

    Raises:
        UserError: No such file, not an XCiT checkpoint, or another variant's; the message names the likely one. The
            backbone is left as it was.
    """
    path = resolve(checkpoint)
    weights = read_weights(path)
    with naming(path):
        weights, report = translate(weights, "", backbone.state_dict())
        backbone.load_state_dict(weights)
    return report
