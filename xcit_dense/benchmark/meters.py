"""What a call costs: seconds, bytes and multiply-adds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xcit_dense.benchmark.options import Options, Size
from xcit_dense.models.xca import XCA, Form
from xcit_dense.variants import get_variant


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds of a call."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def count_peak_bytes(run: Callable[[], object]) -> int:
    """What CUDA's allocator held at most in a call, beyond what it held before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def count_saved_bytes(model: nn.Module, image: Tensor) -> int:
    """Bytes that a forward pass saves for the backward pass, counted once a storage.

    The image and autocast's copies of weights are among them, the model's own parameters and buffers are not.
    """
    own = {value.untyped_storage().data_ptr() for value in chain(model.parameters(), model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # kept, for their addresses not to be given anew

    def pack(value: Tensor) -> None:
        storage = value.untyped_storage()
        saved[storage.data_ptr()] = storage

    with saved_tensors_hooks(pack, lambda nothing: nothing):
        model(image)
    return sum(storage.nbytes() for address, storage in saved.items() if address not in own)


def count_multiply_adds(model: Callable[[Tensor], object], x: Tensor) -> int:
    """Multiply-adds of the matrix products and convolutions of a forward pass."""
    # PyTorch's table lacks the fused attention of the CPU; this backend is made of products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(x)
    return counter.get_total_flops() // 2


def count_attention(options: Options, size: Size) -> dict[str, int]:
    """Multiply-adds of the attention of all blocks, in either form."""
    shape = get_variant(options.variant)
    tokens = math.prod(-(-side // shape.patch_size) for side in size)
    with torch.device("meta"):
        xca, x = XCA(shape.embed_dim, shape.num_heads), torch.empty(options.batch, tokens, shape.embed_dim)
    return {form: shape.depth * count_multiply_adds(partial(xca, form=form), x) for form in get_args(Form)}
