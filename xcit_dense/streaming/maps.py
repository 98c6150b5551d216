"""Maps that are computed window by window, with the values of the complete maps.

A head of a segmentor is a graph of a few operations on maps. Each :class:`Map` states which window of its sources it
needs for a window of its own. So the window of a head's output can be computed from windows of the levels, whatever the
size of the complete maps is:

    1. From the output to the levels, each map collects the windows that its users need. One window contains all of
       them.
    2. From the levels to the output, each map is computed once, on its window. A map is dropped after its last use.

The positions are the positions of the complete maps. A convolution is padded with zeros only where the complete map
ends, and an enlargement takes the weights that ``F.interpolate`` gives to the complete map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.errors import UserError
from xcit_dense.rasters.window import Window, blocks_of_rows
from xcit_dense.streaming.bands import ONE_BAND, Bands

Mode = Literal["nearest", "bilinear"]

_SMALLEST_TILE, _LARGEST_TILE = 64, 4096  # positions


class Levels(Protocol):
    """Levels of a backbone that are read by windows, as :func:`xcit_dense.stream` makes them.

    Attributes:
        shapes: (C, H, W) of each level.
    """

    @property
    def shapes(self) -> Sequence[tuple[int, int, int]]:
        """(C, H, W) of each level."""

    def read(self, level: int, window: Window) -> Tensor:
        """Reads a window (1, C, h, w) of a level."""


class Map(ABC):
    """A map (1, C, H, W) that is read by windows.

    Args:
        channels: C.
        height: H of the complete map.
        width: W of the complete map.
        sources: The maps from which this map is computed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from xcit_dense.rasters.window import Window
        >>> from xcit_dense.streaming.maps import Apply, Enlarge, Kept
        >>> levels, layer = torch.rand(1, 4, 10, 10), nn.Conv2d(4, 2, 3, padding=1)
        >>> output = Enlarge(Apply(Kept(levels), layer, channels=2, halo=1), 20, 20)
        >>> complete = nn.functional.interpolate(layer(levels), (20, 20), mode="bilinear")
        >>> window = Window(row=5, column=0, height=7, width=8)
        >>> torch.allclose(output.read(window), complete[:, :, 5:12, 0:8], atol=1e-6)
        True
    """

    def __init__(self, channels: int, height: int, width: int, sources: Sequence[Map] = ()) -> None:
        self.channels = channels
        self.height = height
        self.width = width
        self.sources = tuple(sources)

    @abstractmethod
    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the window of each source that this map needs for a window.

        Args:
            window: A window of this map.
        """

    def totals(self) -> Sequence[Map]:
        """Returns the maps from which this map reads all rows before its first window. By default none."""
        return ()

    @abstractmethod
    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Computes a window of this map.

        Args:
            window: The window, (h, w) positions.
            inputs: The windows of the sources that :meth:`needs` returns.

        Returns:
            (1, C, h, w).
        """

    def read(self, window: Window) -> Tensor:
        """Computes a window of this map from its sources, and from their sources.

        Args:
            window: A window inside this map, (h, w) positions.

        Returns:
            (1, C, h, w). The tensor may share memory with a source.

        Raises:
            UserError: The window is empty, or not inside the map.
        """
        if window.height < 1 or window.width < 1 or not contains(Window(0, 0, self.height, self.width), window):
            raise UserError(
                f"The window ({window}) is not inside a map of {self.height} x {self.width} positions; give a window "
                "of at least one position inside the map."
            )
        windows = self.plan(window)
        uses = Counter(source for node in windows for source in node.sources)
        results: dict[Map, Tensor] = {}
        for node in reversed(windows):
            needed = node.needs(windows[node])
            inputs = [cut(results[one], windows[one], need) for one, need in zip(node.sources, needed)]
            results[node] = node.compute(windows[node], inputs)
            del inputs
            for source in node.sources:
                uses[source] -= 1
                if not uses[source]:
                    del results[source]
        return results[self]

    def plan(self, window: Window) -> dict[Map, Window]:
        """Returns the window that each map computes for a window of this map.

        Args:
            window: The window of this map.

        Returns:
            The windows of this map and of all maps from which it is computed. Each map is before its sources.
        """
        windows = {self: window}
        for node in _users_first(self):
            for source, need in zip(node.sources, node.needs(windows[node])):
                windows[source] = join(windows[source], need) if source in windows else need
        return {node: windows[node] for node in _users_first(self)}

    def bytes_for(self, window: Window, itemsize: int = 4) -> int:
        """Returns the bytes that all maps together take for a window of this map.

        Args:
            window: The window of this map.
            itemsize: The bytes of a number.
        """
        sizes = (node.channels * one.height * one.width for node, one in self.plan(window).items())
        return itemsize * sum(sizes)

    def choose_tile(self, memory: int) -> int:
        """Chooses the side of square windows, so that all maps for a window take at most a number of bytes.

        The halos of a larger window are a smaller part of the work.

        Args:
            memory: The number of bytes.

        Returns:
            A power of two from 64 to 4096, in positions of this map. Windows of 64 positions may take more bytes.
        """
        side = _LARGEST_TILE
        while side > _SMALLEST_TILE:
            # A window in the middle has halos on all sides.
            height, width = min(side, self.height), min(side, self.width)
            middle = Window((self.height - height) // 2, (self.width - width) // 2, height, width)
            if self.bytes_for(middle) <= memory:
                break
            side //= 2
        return side


class Kept(Map):
    """A complete map in memory.

    Args:
        values: (1, C, H, W).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__(values.shape[1], values.shape[2], values.shape[3])
        self.values = values

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns no window, because the map has no sources."""
        return ()

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Returns a view of the window."""
        return cut(self.values, Window(0, 0, self.height, self.width), window)


class Level(Map):
    """A level of a backbone.

    Args:
        levels: The levels.
        index: The number of the level, from 0.
    """

    def __init__(self, levels: Levels, index: int) -> None:
        super().__init__(*levels.shapes[index])
        self.levels = levels
        self.index = index

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns no window, because the map has no sources."""
        return ()

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Reads the window."""
        return self.levels.read(self.index, window)


class Apply(Map):
    """A module whose output at a position depends only on positions nearby: layers with stride 1, norms, activations.

    Args:
        source: The map.
        module: A module or a function from (1, C, h, w) to (1, C', h, w). Each convolution in it is padded with zeros
            to keep the size.
        channels: C'.
        halo: The largest distance of a position on which an output depends, along each side. The halo is computed and
            dropped where the complete map goes on.
    """

    def __init__(self, source: Map, module: Callable[[Tensor], Tensor], channels: int, halo: int = 0) -> None:
        super().__init__(channels, source.height, source.width, [source])
        self.module = module
        self.halo = halo

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the window with the halo, as far as the map goes."""
        return [grow(window, self.halo, self.height, self.width)]

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Applies the module to the window with the halo, and drops the halo."""
        return cut(self.module(inputs[0]), grow(window, self.halo, self.height, self.width), window)


class Normalise(Map):
    """A batch norm in training mode, which needs the statistics of the complete map.

    A window needs the complete source. :func:`xcit_dense.streaming.band_maps.compute_band` needs only the sums.

    Args:
        source: The map.
        norm: The batch norm.
    """

    def __init__(self, source: Map, norm: _BatchNorm) -> None:
        super().__init__(source.channels, source.height, source.width, [source])
        self.norm = norm

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the complete map."""
        return [Window(0, 0, self.height, self.width)]

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Normalises the complete map, and updates the running statistics."""
        # Not norm(x), because torch.nn.SyncBatchNorm would count a map several times that all processes have.
        return cut(_BatchNorm.forward(self.norm, inputs[0]), Window(0, 0, self.height, self.width), window)


class Enlarge(Map):
    """A map in another size, with the values of ``F.interpolate`` for the complete map.

    Args:
        source: The map (1, C, H, W).
        height: H' of the result.
        width: W' of the result.
        mode: ``'bilinear'`` or ``'nearest'``, as for ``F.interpolate``.
        align_corners: As for ``F.interpolate``, for ``'bilinear'``.

    Raises:
        UserError: The mode is another one.
    """

    def __init__(
        self, source: Map, height: int, width: int, mode: Mode = "bilinear", align_corners: bool = False
    ) -> None:
        super().__init__(source.channels, height, width, [source])
        if mode not in ("bilinear", "nearest"):
            raise UserError(f"mode={mode!r} cannot be computed by windows; write 'bilinear' or 'nearest'.")
        self.mode: Mode = mode
        self.align_corners = align_corners

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the window of the source positions that the window's positions read."""
        rows, columns = self._sides(torch.float32, torch.device("cpu"))
        top, bottom = rows.reach(window.row, window.height)
        left, right = columns.reach(window.column, window.width)
        return [Window(top, left, bottom - top, right - left)]

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Interpolates the window."""
        (x,) = inputs
        rows, columns = self._sides(x.dtype, x.device)
        first = self.needs(window)[0]
        if self._is_exact():
            # The part is enlarged like the complete map. Its first and last rows and columns, which lack neighbours,
            # are not in the window, except where the complete map ends.
            down, across = rows.factor, columns.factor
            y = F.interpolate(x, (down * first.height, across * first.width), mode="bilinear")
            part = Window(down * first.row, across * first.column, y.shape[2], y.shape[3])
            return cut(y, part, window)
        # Rows and columns of channels-last memory are copied in large steps.
        y = x.permute(0, 2, 3, 1).contiguous()  # (1, C, h, w) -> (1, h, w, C)
        y = rows.interpolate(y, 1, window.row, window.height, first.row)  # (1, h', w, C)
        y = columns.interpolate(y, 2, window.column, window.width, first.column)  # (1, h', w', C)
        return y.permute(0, 3, 1, 2)

    def _is_exact(self) -> bool:
        """Returns whether F.interpolate rounds no position, so that a part of a map has the weights of the map."""
        source = self.sources[0]
        if self.mode != "bilinear" or self.align_corners:
            return False
        pairs = (source.height, self.height), (source.width, self.width)
        return all(larger % side == 0 and (larger // side).bit_count() == 1 for side, larger in pairs)

    def _sides(self, dtype: torch.dtype, device: torch.device) -> tuple[_Side, _Side]:
        source = self.sources[0]
        options = self.mode, self.align_corners, dtype, device
        return _side(source.height, self.height, *options), _side(source.width, self.width, *options)


class Add(Map):
    """The sum of maps of one size.

    Args:
        sources: The maps, each (1, C, H, W).
    """

    def __init__(self, *sources: Map) -> None:
        super().__init__(sources[0].channels, sources[0].height, sources[0].width, sources)

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the same window for each source."""
        return [window] * len(self.sources)

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Adds the windows."""
        first, second, *others = inputs
        total = first + second
        for x in others:
            total += x
        return total


class Concatenate(Map):
    """Maps of one size, with their channels one after the other.

    Args:
        sources: The maps, each (1, C_i, H, W).
    """

    def __init__(self, *sources: Map) -> None:
        channels = sum(source.channels for source in sources)
        super().__init__(channels, sources[0].height, sources[0].width, sources)

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the same window for each source."""
        return [window] * len(self.sources)

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Concatenates the windows."""
        return torch.cat([*inputs], dim=1)


class Pool:
    """Adaptive average pooling of a complete map to a few bins, from windows of the map.

    The sums are float64, so that they do not depend on the size of the windows. The map is read once, at the first use.

    Args:
        source: The map (1, C, H, W).
        counts: The number of bins along each side, for each result.
        tile: The largest side of a window, in positions.
        bands: The processes that share the image. Each process reads its rows of the map, and the sums are added. By
            default, this process reads the complete map.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from xcit_dense.streaming.maps import Kept, Pool
        >>> x = torch.rand(1, 4, 7, 10)
        >>> (pooled,) = Pool(Kept(x), [3], tile=4).results
        >>> torch.allclose(pooled, nn.AdaptiveAvgPool2d(3)(x))
        True
    """

    def __init__(self, source: Map, counts: Sequence[int], tile: int, bands: Bands = ONE_BAND) -> None:
        self.source = source
        self.counts = tuple(counts)
        self.tile = tile
        self.bands = bands

    @cached_property
    def results(self) -> list[Tensor]:
        """For each count the values (1, C, count, count) of ``nn.AdaptiveAvgPool2d``, in the dtype of the map."""
        source = self.source
        totals: list[Tensor] = []
        dtype = torch.float32
        for window in blocks_of_rows(self.bands.own_rows(source.height), source.width, self.tile):
            x = source.read(window)
            dtype = x.dtype
            parts = [self.part(x.double(), window, count) for count in self.counts]
            totals = [total + part for total, part in zip(totals, parts)] if totals else parts
        return [self.bands.sum(total).to(dtype) for total in totals]

    def part(self, x: Tensor, window: Window, count: int) -> Tensor:
        """Returns what a window of the map adds to the bins.

        Args:
            x: The window of the map (B, C, h, w), in float64.
            window: The window.
            count: The number of bins along each side.

        Returns:
            (B, C, count, count).
        """
        rows = _bins(self.source.height, count, x.device)[:, window.row : window.row + window.height]  # (count, h)
        columns = _bins(self.source.width, count, x.device)[:, window.column : window.column + window.width]
        return rows @ x @ columns.mT  # (count, h) (B, C, h, w) (w, count) -> (B, C, count, count)


class PooledMap(Map):
    """One result of :class:`Pool` as a map.

    Args:
        pool: The pooling.
        index: The number of the result.
    """

    def __init__(self, pool: Pool, index: int) -> None:
        super().__init__(pool.source.channels, pool.counts[index], pool.counts[index])
        self.pool = pool
        self.index = index

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns no window, because the pooling reads its map separately."""
        return ()

    def totals(self) -> Sequence[Map]:
        """Returns the map that is pooled."""
        return [self.pool.source]

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Returns a view of the window."""
        return cut(self.pool.results[self.index], Window(0, 0, self.height, self.width), window)


@lru_cache(maxsize=32)
def _bins(side: int, count: int, device: torch.device) -> Tensor:
    """The weight of each position in each bin of adaptive average pooling, (count, side)."""
    bins = torch.arange(count, device=device)[:, None]
    positions = torch.arange(side, device=device)
    start, end = bins * side // count, ((bins + 1) * side + count - 1) // count  # (count, 1)
    inside = ((positions >= start) & (positions < end)).double()  # (count, side)
    return inside / inside.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class _Side:
    """The two source positions of each position of an enlarged side, and the weight of the second one.

    Args:
        side: Positions of the source.
        lower: (larger,), int64.
        upper: (larger,), int64.
        weight: (larger,), in [0, 1].
    """

    side: int
    lower: Tensor
    upper: Tensor
    weight: Tensor

    @property
    def factor(self) -> int:
        """How many times as long the enlarged side is, rounded down."""
        return len(self.lower) // self.side

    def reach(self, start: int, length: int) -> tuple[int, int]:
        """Returns the first source position that a range reads, and the position after the last.

        One more position is on each side, because another dtype may round a position to the other side of an integer.
        """
        last = int(self.upper[start + length - 1])
        return max(int(self.lower[start]) - 1, 0), min(last + 2, self.side)

    def interpolate(self, x: Tensor, dim: int, start: int, length: int, first: int) -> Tensor:
        """Interpolates a dimension of a tensor that begins at the source position ``first``."""
        part = slice(start, start + length)
        lower = x.index_select(dim, self.lower[part] - first)
        weight = self.weight[part]
        if not weight.any():
            return lower
        upper = x.index_select(dim, self.upper[part] - first)
        return lower.lerp_(upper, weight.reshape([-1] + [1] * (x.ndim - dim - 1)))


@lru_cache(maxsize=64)
def _side(side: int, larger: int, mode: Mode, align_corners: bool, dtype: torch.dtype, device: torch.device) -> _Side:
    """Reads from ``F.interpolate`` which positions and weights it uses along a side.

    ``F.interpolate`` rounds positions to the dtype of the map. At position 20,000 of a float32 map the weights are
    rounded to 0.002. Own weights in another precision would give other values.
    """
    positions = torch.arange(side, device=device)
    if mode == "nearest":
        indices = F.interpolate(positions[None, None].double(), larger, mode="nearest")[0, 0].long()
        return _Side(side, indices, indices, torch.zeros(larger, dtype=dtype, device=device))
    # Which positions of three successive ones have a weight, (1, 3, larger): the probe has the size 1 along the other
    # side, and a channel for each remainder.
    probe = (positions % 3 == torch.arange(3, device=device)[:, None]).to(dtype)  # (3, side)
    column = probe[None, :, :, None]  # (1, 3, side, 1)
    enlarged = F.interpolate(column, (larger, 1), mode="bilinear", align_corners=align_corners)
    weights = enlarged[0, :, :, 0]  # (3, larger)
    exact = torch.arange(larger, dtype=torch.float64, device=device)
    if align_corners:
        exact = exact * ((side - 1) / max(larger - 1, 1))
    else:
        exact = ((exact + 0.5) * (side / larger) - 0.5).clamp_min(0)
    # The rounded position may be on the other side of an integer. The lower position is the one of which the position
    # two further has no weight.
    found = exact.floor().long()
    lower = found.clone()
    for candidate in (found - 1, found + 1, found):
        fits = weights.gather(0, ((candidate + 2) % 3)[None])[0] == 0
        fits &= (candidate >= 0) & (candidate < side)
        lower = torch.where(fits, candidate, lower)
    upper = (lower + 1).clamp_max(side - 1)
    weight = weights.gather(0, ((lower + 1) % 3)[None])[0]
    return _Side(side, lower, upper, weight)


def _users_first(root: Map) -> list[Map]:
    """Lists a map and all maps from which it is computed, each before its sources."""
    found: list[Map] = []
    seen: set[Map] = set()

    def visit(node: Map) -> None:
        if node not in seen:
            seen.add(node)
            for source in node.sources:
                visit(source)
            found.append(node)

    visit(root)
    return found[::-1]


def needed_rows(output: Map, bands: Bands, levels: int) -> list[list[range]]:
    """Returns which rows of levels each process needs, to compute its rows of a map.

    Args:
        output: The map.
        bands: The rows of each process.
        levels: The number of levels.

    Returns:
        For each process the rows of each level. The ranges are empty for levels that the map does not read.
    """
    needed = []
    for process in range(len(bands.rows)):
        windows: dict[int, Window] = {}
        waiting, seen = [output], {output}
        while waiting:
            read = waiting.pop()
            rows = bands.of_map(read.height)[process]
            for node, window in read.plan(Window(rows.start, 0, len(rows), read.width)).items():
                if isinstance(node, Level):
                    windows[node.index] = join(windows.get(node.index, window), window)
                waiting += [total for total in node.totals() if total not in seen]
                seen.update(node.totals())
        of_process = [range(0)] * levels
        for index, window in windows.items():
            of_process[index] = range(window.row, window.row + window.height)
        needed.append(of_process)
    return needed


def cut(x: Tensor, have: Window, want: Window) -> Tensor:
    """Returns a view of a window of a tensor (1, C, h, w) that covers the window ``have``."""
    rows, columns = Window(want.row - have.row, want.column - have.column, want.height, want.width).slices
    return x[:, :, rows, columns]


def grow(window: Window, halo: int, height: int, width: int) -> Window:
    """Returns a window with a halo at each side, as far as a map of the given size goes."""
    top, left = max(window.row - halo, 0), max(window.column - halo, 0)
    bottom = min(window.row + window.height + halo, height)
    right = min(window.column + window.width + halo, width)
    return Window(top, left, bottom - top, right - left)


def join(first: Window, second: Window) -> Window:
    """Returns the smallest window that contains two windows."""
    top, left = min(first.row, second.row), min(first.column, second.column)
    bottom = max(first.row + first.height, second.row + second.height)
    right = max(first.column + first.width, second.column + second.width)
    return Window(top, left, bottom - top, right - left)


def contains(outer: Window, inner: Window) -> bool:
    """Returns whether a window is inside another window."""
    return join(outer, inner) == outer
