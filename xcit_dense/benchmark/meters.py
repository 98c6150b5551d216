"""The cost of a call in seconds, bytes and multiply-adds."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import profile
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xcit_dense.benchmark.options import Options, Size
from xcit_dense.models.xca import XCA, Form
from xcit_dense.variants import get_variant


def clock(run: Callable[[], object], device: str) -> float:
    """Returns the seconds of a call."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def count_peak_bytes(run: Callable[[], object], device: str) -> int:
    """Returns the largest number of bytes that PyTorch's allocator held in a call, minus the bytes before the call.

    On the CPU, PyTorch's profiler reports each allocation. Memory that libraries allocate for themselves is not in it.

    Args:
        run: The call.
        device: ``'cpu'`` or ``'cuda'``.

    Example:
        >>> import torch
        >>> from xcit_dense.benchmark.meters import count_peak_bytes
        >>> x = torch.ones(2**20)
        >>> count_peak_bytes(lambda: x.exp().sum(), "cpu") // x.nbytes
        1
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    # torch.profiler.profile makes a Python object of each operation, which takes longer than the call.
    with profile(profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    sizes = [event["args"]["Bytes"] for event in sorted(changes, key=lambda event: event["ts"])]
    return max(accumulate(sizes, initial=0))


def count_saved_bytes(model: nn.Module, *arguments: object, **options: object) -> int:
    """Counts the bytes that a forward pass saves for the backward pass. Each storage counts once.

    The count contains the image and autocast's copies of weights. It does not contain parameters and buffers.

    Args:
        model: The model.
        *arguments: What the model takes.
        **options: What the model takes by name.
    """
    own = {value.untyped_storage().data_ptr() for value in chain(model.parameters(), model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # kept, so that an address is not used again

    def pack(value: Tensor) -> None:
        storage = value.untyped_storage()
        saved[storage.data_ptr()] = storage

    with saved_tensors_hooks(pack, lambda nothing: nothing):
        model(*arguments, **options)
    return sum(storage.nbytes() for address, storage in saved.items() if address not in own)


def count_multiply_adds(model: Callable[[Tensor], object], x: Tensor) -> int:
    """Counts the multiply-adds of the matrix products and convolutions of a forward pass.

    Example:
        >>> import torch
        >>> from xcit_dense.benchmark.meters import count_multiply_adds
        >>> count_multiply_adds(torch.nn.Linear(8, 4), torch.ones(2, 8))
        64
    """
    # PyTorch does not count the fused attention of the CPU. This backend consists of matrix products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(x)
    return counter.get_total_flops() // 2


def count_attention(options: Options, size: Size) -> dict[str, int]:
    """Counts the multiply-adds of the attention of all blocks, by form."""
    shape = get_variant(options.variant)
    tokens = math.prod(-(-side // shape.patch_size) for side in size)
    with torch.device("meta"):
        xca, x = XCA(shape.embed_dim, shape.num_heads), torch.empty(options.batch, tokens, shape.embed_dim)
    return {form: shape.depth * count_multiply_adds(partial(xca, form=form), x) for form in get_args(Form)}
