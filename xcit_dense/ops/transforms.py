"""Whether a transform of PyTorch is at work: ``torch.func`` or forward-mode differentiation."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Returns whether the call is inside of ``vmap``, ``jvp``, ``grad``, or another transform.

    Inside of a transform only PyTorch's ordinary operators work, and no memory format. A value that is computed in
    here must not be kept for a later call, because its tensor belongs to the transform.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.transforms import is_transformed
        >>> is_transformed()
        False
        >>> torch.func.vmap(lambda x: x * is_transformed())(torch.ones(2))
        tensor([1., 1.])
    """
    # torch.autograd.Function asks the first question itself. PyTorch has no public names for the two.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
