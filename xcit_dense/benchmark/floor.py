"""The floor: the time of the matrix products of a step, without anything else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xcit_dense.benchmark.meters import clock
from xcit_dense.benchmark.options import DTYPES, Options, Size
from xcit_dense.variants import get_variant


class MatrixProduct(NamedTuple):
    """``batch`` products of (rows x inner) and (inner x columns)."""

    batch: int
    rows: int
    inner: int
    columns: int


def list_products(options: Options, size: Size) -> Counter[MatrixProduct]:
    """Counts the matrix products of one step: stem, XCA in the covariance form, MLPs, transposed convolutions.

    Products that do not grow with the image and depth-wise convolutions are left out.
    """
    shape, (height, width) = get_variant(options.variant), size
    batch, dim, depth, train = options.batch, shape.embed_dim, shape.depth, options.train
    layers = []  # positions, channels before and after
    widths = [3, *(dim >> step for step in reversed(range(int(math.log2(shape.patch_size)))))]
    for before, after in pairwise(widths):
        height, width = -(-height // 2), -(-width // 2)
        layers.append((height * width, 9 * before, after))
    tokens = height * width
    layers += [(tokens, dim, 4 * dim), (tokens, 4 * dim, dim)] * depth
    doubled = [tokens, 4 * tokens, tokens] if shape.patch_size == 16 else [tokens]
    layers += [(positions, dim, 4 * dim) for positions in doubled]

    counts: Counter[MatrixProduct] = Counter()
    for index, (positions, before, after) in enumerate(layers):
        counts[MatrixProduct(1, batch * positions, before, after)] += 1
        if train:
            counts[MatrixProduct(1, before, batch * positions, after)] += 1
            counts[MatrixProduct(1, batch * positions, after, before)] += index > 0  # the image needs no gradient
    for strip in torch.arange(dim).chunk(3):  # X'X without the entries that follow by symmetry
        counts[MatrixProduct(batch, len(strip), tokens, dim - int(strip[0]))] += depth
    # X M'. In training also the gradient of X through X M', the gradient of X through X'X, and the gradient of M.
    counts[MatrixProduct(batch, tokens, dim, dim)] += (3 if train else 1) * depth
    counts[MatrixProduct(batch, dim, tokens, dim)] += train * depth
    return +counts


def ways(product: MatrixProduct, source: Tensor, target: Tensor) -> list[Callable[[], Tensor]]:
    """Returns ways to compute a product of values of ``source``, in ``target`` if PyTorch allows it."""
    batch, rows, inner, columns = product
    # Tokens are the largest dimension. In memory they are rows.
    left = _cut(source, batch, inner, rows).mT if inner > rows else _cut(source, batch, rows, inner)
    right, out = _cut(source, batch, inner, columns), _cut(target, batch, rows, columns)
    if batch > 1:
        return [partial(torch.bmm, left, right, out=out)]
    found: list[Callable[[], Tensor]] = [partial(torch.mm, left[0], right[0], out=out[0])]
    if source.device.type == "cpu" and inner <= rows:
        # In channels-last memory oneDNN's convolution is sometimes faster than MKL's product.
        x, weight = left[:, None].permute(0, 3, 1, 2), _cut(source, columns, inner, 1, 1)
        found.append(partial(F.conv2d, x, weight))
    return found


def _cut(values: Tensor, *shape: int) -> Tensor:
    return values[: math.prod(shape)].view(shape)


class Floor:
    """Times the matrix products of a step one by one, all in the same memory."""

    def __init__(self, options: Options, size: Size) -> None:
        self.device = options.device
        counts = list_products(options, size)
        largest = max(p.batch * max(p.rows * p.inner, p.inner * p.columns, p.rows * p.columns) for p in counts)
        source = torch.randn(largest, device=self.device).to(DTYPES[options.dtype])
        target = torch.empty_like(source)
        self.ways = [(count, [(way, list[float]()) for way in ways(p, source, target)]) for p, count in counts.items()]

    @torch.inference_mode()
    def run(self) -> None:
        """Times each product once in each way."""
        calls = 1 if self.device == "cpu" else 20  # one call is shorter than the launch of its kernel
        for way, samples in (pair for _, pairs in self.ways for pair in pairs):
            way()
            samples.append(clock(lambda: [way() for _ in range(calls)], self.device) / calls)  # noqa: B023

    @property
    def seconds(self) -> float:
        """Seconds of all products, each computed in its fastest way."""
        return sum(count * min(median(samples) for _, samples in pairs) for count, pairs in self.ways)
