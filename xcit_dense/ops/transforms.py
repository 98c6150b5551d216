"""Whether PyTorch follows the operators of a call: a transform, a compiler or a trace."""

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


def is_traced() -> bool:
    """Returns whether a compiler, a trace or a transform follows the operators, and decides itself what to keep.

    Example:
        >>> from xcit_dense.ops.transforms import is_traced
        >>> is_traced()
        False
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return True
    return is_transformed()
