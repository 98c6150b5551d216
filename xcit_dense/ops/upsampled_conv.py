"""A convolution of maps of several sizes, as if they were enlarged to one size and concatenated.

A head that fuses levels enlarges the coarse levels, concatenates all levels, and convolves the result. Almost all of
the time goes into products of channels at the finest positions. But interpolation and convolution are linear, and the
interpolation does the same to each channel. So a coarse map can be multiplied with the weights of each position of the
kernel at its own size, and the products can be enlarged, shifted and added afterwards. A map of half the height and
width needs a quarter of the products, and neither enlarged maps nor the concatenated map are in memory.

A kernel of one position needs no shift, so PyTorch enlarges the products. For larger kernels, enlargement, shift and
zero padding along one side are one matrix for each position of the kernel along this side (:func:`_enlargement`). The
matrix has few entries in each row. So the CPU multiplies blocks of it, without the zeros around the entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xcit_dense.errors import UserError
from xcit_dense.ops.autocast import without_autocast
from xcit_dense.ops.conv import Convolution, Pointwise, channels_last
from xcit_dense.ops.recompute import multiply
from xcit_dense.ops.transforms import is_traced

# Rows of a block. Larger blocks contain more zeros, and smaller blocks are slower for each entry.
_BLOCK = 16


def convolve_upsampled(
    maps: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None, align_corners: bool = False
) -> Tensor:
    """Convolves the concatenation of maps, after bilinear interpolation of all maps to the size of the first map.

    The result is the result of ``F.conv2d(torch.cat(enlarged, 1), weight, bias, padding="same")``, except for rounding.

    Args:
        maps: Maps (B, C_i, H_i, W_i). The first map (B, C_1, H, W) has the size of the result.
        weight: (C', C_1 + C_2 + ..., k, k), with an odd k.
        bias: (C',), or None.
        align_corners: As for ``F.interpolate``.

    Returns:
        Map (B, C', H, W).

    Raises:
        UserError: The kernel is not a square with odd sides.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from xcit_dense.ops.upsampled_conv import convolve_upsampled
        >>> fine, coarse = torch.rand(1, 4, 9, 12), torch.rand(1, 8, 5, 6)
        >>> weight = torch.rand(6, 12, 3, 3)
        >>> enlarged = F.interpolate(coarse, (9, 12), mode="bilinear")
        >>> expected = F.conv2d(torch.cat([fine, enlarged], 1), weight, padding=1)
        >>> torch.allclose(convolve_upsampled([fine, coarse], weight), expected, atol=1e-4)
        True
    """
    height, width = weight.shape[2:]
    if height != width or height % 2 == 0:
        raise UserError(f"The kernel has {height} x {width} positions; give a square kernel with odd sides.")
    size = maps[0].shape[2:]
    weights = weight.split([x.shape[1] for x in maps], dim=1)
    fine, fine_weights, coarse = [maps[0]], [weights[0]], []
    for x, part in zip(maps[1:], weights[1:]):
        # A map of more than half of the positions is not worth the enlargement of its products. A recorded graph serves
        # all sizes, so that it must not depend on a comparison of sizes.
        if is_traced() or 2 * x.shape[2] * x.shape[3] <= size[0] * size[1]:
            coarse.append((x, part))
        else:
            fine.append(F.interpolate(x, size, mode="bilinear", align_corners=align_corners))
            fine_weights.append(part)
    joined = fine[0] if len(fine) == 1 else torch.cat(fine, dim=1)
    kernel = fine_weights[0] if len(fine) == 1 else torch.cat(fine_weights, dim=1)
    y = multiply(Convolution(padding=(height // 2,) * 2), joined, kernel, *(() if bias is None else (bias,)))
    if height == 1:
        for x, part in coarse:
            y += F.interpolate(F.conv2d(x, part), size, mode="bilinear", align_corners=align_corners)
        return y
    if not coarse:
        return y
    y = y.permute(0, 2, 3, 1).contiguous()  # (B, C', H, W) -> (B, H, W, C')
    products = [_mix(x, part) for x, part in coarse]
    add = _add_by_blocks if type(maps[0]) is Tensor and y.is_cpu and not is_traced() else _add
    return add(y, products, align_corners).permute(0, 3, 1, 2)  # (B, H, W, C') -> (B, C', H, W)


def _mix(x: Tensor, weight: Tensor) -> list[Tensor]:
    """Multiplies a map (B, C, h, w) with the weights (C', C, k, k) of each position of the kernel.

    Returns:
        One tensor (B, h, w, k C') for each row of the kernel, with the channels of the row's positions side by side.
    """
    x = channels_last(x)
    products = []
    for row in weight.unbind(2):  # (C', C, k)
        product = Pointwise()(x, row.permute(2, 0, 1).flatten(0, 1))  # (k C', C): (B, k C', h, w)
        products.append(product.permute(0, 2, 3, 1).contiguous())
    return products


def enlargement(side: int, larger: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Makes the matrix (larger, side) that enlarges a side as bilinear interpolation does.

    Args:
        side: Positions of the side.
        larger: Positions of the enlarged side.
        align_corners: As for ``F.interpolate``.
        dtype: Dtype of the matrix.
        device: Device of the matrix.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.upsampled_conv import enlargement
        >>> enlargement(2, 3, True, torch.float32, torch.device("cpu"))
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    identity = torch.eye(side, dtype=dtype, device=device)[None]
    return F.interpolate(identity, larger, mode="linear", align_corners=align_corners)[0].mT


def _enlargement(
    side: int, larger: int, kernel: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Makes the matrices that enlarge a side and shift the result, one for each position of a kernel.

    A kernel's position outside of the enlarged side sees zeros.

    Args:
        side: Positions of the side.
        larger: Positions of the enlarged side.
        kernel: Positions of the kernel, an odd number.
        align_corners: As for ``F.interpolate``.
        dtype: Dtype of the matrices. Half precision is rounded from float32, as interpolation rounds its result.
        device: Device of the matrices.

    Returns:
        (larger, kernel, side): what an output position sees at a position of the kernel.
    """
    enlarged = enlargement(side, larger, align_corners, torch.promote_types(dtype, torch.float32), device)
    padded = F.pad(enlarged, (0, 0, kernel // 2, kernel // 2))
    return torch.stack([padded[shift : shift + larger] for shift in range(kernel)], dim=1).to(dtype)


def _add(y: Tensor, products: Sequence[Sequence[Tensor]], align_corners: bool) -> Tensor:
    """Enlarges, shifts and adds the products of coarse maps to ``y`` (B, H, W, C'), by complete matrices."""
    height, width, channels = y.shape[1:]
    for rows in products:
        kernel, sides = len(rows), rows[0].shape[1:3]
        vertical = _enlargement(sides[0], height, kernel, align_corners, y.dtype, y.device)
        horizontal = _enlargement(sides[1], width, kernel, align_corners, y.dtype, y.device)
        product = torch.stack([*rows], dim=1).flatten(1, 2).flatten(2)  # (B, k, h, w, k C') -> (B, k h, w k C')
        enlarged = vertical.flatten(1) @ product  # (B, H, w k C')
        enlarged = enlarged.unflatten(2, (-1, channels))  # (B, H, w k, C')
        y = y + horizontal.mT.flatten(1) @ enlarged  # (W, w k) times (B, H, w k, C')
    return y


def _add_by_blocks(y: Tensor, products: Sequence[Sequence[Tensor]], align_corners: bool) -> Tensor:
    """Does what :func:`_add` does, by blocks of the matrices. ``y`` is changed in place."""
    height, width = y.shape[1:3]
    enlargers = []
    for rows in products:
        kernel, sides = len(rows), rows[0].shape[1:3]
        vertical = _cut_rows(sides[0], height, kernel, align_corners, y.dtype)
        enlargers.append(_Enlarger(vertical, _cut_columns(sides[1], width, kernel, align_corners, y.dtype)))
    flat = [row for rows in products for row in rows]
    if torch.is_grad_enabled():
        return _AddEnlarged.apply(enlargers, y, *flat)
    return _add_enlarged(enlargers, y, flat)


@dataclass(frozen=True)
class _Block:
    """Rows of a matrix, without the zero columns before the first entry and after the last entry."""

    start: int
    stop: int
    first: int
    last: int
    values: Tensor  # (stop - start, ..., last - first)


@lru_cache(maxsize=64)
def _cut_rows(side: int, larger: int, kernel: int, align_corners: bool, dtype: torch.dtype) -> list[_Block]:
    """Cuts the vertical matrices (H, k, h) into blocks (rows, k, columns)."""
    return [*_cut(_enlargement(side, larger, kernel, align_corners, dtype, torch.device("cpu")))]


@lru_cache(maxsize=64)
def _cut_columns(side: int, larger: int, kernel: int, align_corners: bool, dtype: torch.dtype) -> list[_Block]:
    """Cuts the horizontal matrices, as one matrix (W, w k), into blocks."""
    matrices = _enlargement(side, larger, kernel, align_corners, dtype, torch.device("cpu"))
    return [*_cut(matrices.mT.flatten(1))]


def _cut(matrix: Tensor) -> Iterator[_Block]:
    for start in range(0, len(matrix), _BLOCK):
        rows = matrix[start : start + _BLOCK]
        columns = rows.flatten(0, -2).any(0).nonzero().flatten().tolist()
        first, last = columns[0], columns[-1] + 1
        yield _Block(start, start + len(rows), first, last, rows[..., first:last].clone())


@dataclass(frozen=True)
class _Enlarger:
    """Enlarges and shifts the products of one coarse map.

    Args:
        rows: Blocks of the vertical matrices.
        columns: Blocks of the horizontal matrices.
    """

    rows: list[_Block]
    columns: list[_Block]

    def add(self, y: Tensor, products: Sequence[Tensor]) -> None:
        """Adds the enlarged products of an image, (h, w, k C') each, to ``y`` (H, W, C'), in place."""
        buffer = products[0].new_empty(_BLOCK, products[0][0].numel())
        for row in self.rows:
            enlarged = buffer[: row.stop - row.start]  # (rows, w k C')
            for shift, product in enumerate(products):
                beta = 0 if shift == 0 else 1
                source = product[row.first : row.last].flatten(1)
                torch.addmm(enlarged, row.values[:, shift], source, beta=beta, out=enlarged)
            enlarged = enlarged.unflatten(1, (-1, y.shape[2]))  # (rows, w k, C')
            for column in self.columns:
                target = y[row.start : row.stop, column.start : column.stop]
                matrix = column.values.expand(len(target), -1, -1)
                target.baddbmm_(matrix, enlarged[:, column.first : column.last])

    def add_transposed(self, products: Sequence[Tensor], y: Tensor) -> None:
        """Applies the transposed matrices to ``y`` (H, W, C') and adds the results to ``products``, in place."""
        buffer = y.new_empty(_BLOCK, products[0].shape[1] * len(products), y.shape[2])  # (rows, w k, C')
        for row in self.rows:
            reduced = buffer[: row.stop - row.start].zero_()
            for column in self.columns:
                matrix = column.values.mT.expand(len(reduced), -1, -1)
                source = y[row.start : row.stop, column.start : column.stop]
                reduced[:, column.first : column.last].baddbmm_(matrix, source)
            for shift, product in enumerate(products):
                target = product[row.first : row.last].flatten(1)
                target.addmm_(row.values[:, shift].mT, reduced.flatten(1))


def _add_enlarged(enlargers: Sequence[_Enlarger], y: Tensor, products: Sequence[Tensor]) -> Tensor:
    """Adds the enlarged products (B, h, w, k C') of all maps to ``y`` (B, H, W, C'), in place."""
    with without_autocast(y.device):
        for enlarger, rows in zip(enlargers, _by_map(enlargers, products)):
            for image, *of_image in zip(y, *rows):
                enlarger.add(image, of_image)
    return y


def _by_map(enlargers: Sequence[_Enlarger], products: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Groups the products by maps. Each map has a product for each row of the kernel."""
    kernel = len(products) // len(enlargers)
    return [products[start : start + kernel] for start in range(0, len(products), kernel)]


class _AddEnlarged(torch.autograd.Function):
    """Adds the enlarged products to ``y``, in place. The function is linear, so that it keeps no tensor."""

    @staticmethod
    def forward(enlargers: Sequence[_Enlarger], y: Tensor, *products: Tensor) -> Tensor:
        return _add_enlarged(enlargers, y, products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.enlargers, y, *products = inputs
        ctx.mark_dirty(y)
        ctx.shapes = [product.shape for product in products]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, grad, *_Reduce.apply(ctx.enlargers, ctx.shapes, grad)


class _Reduce(torch.autograd.Function):
    """The transpose of :class:`_AddEnlarged` with respect to the products."""

    @staticmethod
    def forward(enlargers: Sequence[_Enlarger], shapes: Sequence[torch.Size], grad: Tensor) -> tuple[Tensor, ...]:
        grad = grad.contiguous()
        products = [grad.new_zeros(shape) for shape in shapes]
        with without_autocast(grad.device):
            for enlarger, rows in zip(enlargers, _by_map(enlargers, products)):
                for image, *of_image in zip(grad, *rows):
                    enlarger.add_transposed(of_image, image)
        return tuple(products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.enlargers, _, ctx.grad = inputs[0], inputs[1], inputs[2].new_empty(0)
        ctx.size = inputs[2].shape

    @staticmethod
    def backward(ctx: Any, *products: Tensor) -> tuple[Any, ...]:
        zeros = ctx.grad.new_zeros(ctx.size)
        return None, None, _AddEnlarged.apply(ctx.enlargers, zeros, *products)
