"""The class of each position of maps of logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def find_labels(maps: Iterable[Tensor]) -> Tensor:
    """Finds the class with the largest logit at each position, from the map of one class after the other.

    The maps of all classes need not be in memory together.

    Args:
        maps: Logits (H, W) of each class. At least one map.

    Returns:
        Class indices (H, W), int64. The first of equal logits wins, as in ``Tensor.argmax``. NaN is not larger than any
        number.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.labels import find_labels
        >>> find_labels(torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]]))
        tensor([[1, 0]])
    """
    remaining = iter(maps)
    best = next(remaining).clone()  # (H, W)
    labels = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
    for index, logits in enumerate(remaining, 1):
        labels.masked_fill_(logits > best, index)
        torch.maximum(best, logits, out=best)
    return labels.long()
