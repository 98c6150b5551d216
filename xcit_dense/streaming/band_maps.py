"""Maps whose rows are in several processes: each process computes its rows of each map, with gradients.

A head is a graph of maps (:mod:`xcit_dense.streaming.maps`). The processes compute the maps one after the other. Before
a process computes its rows of a map, it gets the rows of the sources that it needs from the processes that have them.
So no row is computed twice. There are three other cases:

- A batch norm in training mode needs the statistics of the complete map. The processes sum them.
- A pooled map is summed over the processes. Each process then has the complete result, which has a few positions.
- A map of the same size as a pooled map is computed from it in each process. No process waits for another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from xcit_dense.models.xcit import XCiT
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.bands import share_rows
from xcit_dense.streaming.exchange import Group, move_rows
from xcit_dense.streaming.levels import level_shapes
from xcit_dense.streaming.maps import Kept, Map, Normalise, PooledMap, cut
from xcit_dense.streaming.norm import normalise_band


class BandLevels:
    """The levels of the band of this process, as :class:`xcit_dense.streaming.maps.Levels`.

    Args:
        backbone: The XCiT.
        values: The rows of this process of each level, (B, C, rows, W): the levels of
            :func:`xcit_dense.streaming.shard.sharded_levels`. Several images of one size are concatenated.
        height: Rows of tokens of an image.
        width: Columns of tokens of an image.
        group: The processes. By default all.

    Attributes:
        shapes: (C, H, W) of each complete level.
        bands: The rows of tokens of each process.
    """

    def __init__(self, backbone: XCiT, values: Sequence[Tensor], height: int, width: int, group: Group = None) -> None:
        self.shapes = level_shapes(backbone, height, width)
        self.bands = share_rows(backbone, height, group)
        self._values = values

    def window_of(self, node: Map, process: int) -> Window:
        """Returns the window of a map that a process has."""
        rows = self.bands.of_map(node.height)[process]
        return Window(rows.start, 0, len(rows), node.width)

    def read(self, level: int, window: Window) -> Tensor:
        """Returns a window of a level (B, C, h, w) inside of the rows of this process."""
        _, height, width = self.shapes[level]
        rows = self.bands.own_rows(height)
        return cut(self._values[level], Window(rows.start, 0, len(rows), width), window)


def compute_band(levels: BandLevels, *roots: Map) -> list[Tensor]:
    """Computes the rows of this process of some maps.

    Every process of the group calls this function with the same maps. The gradients are those of the complete maps, if
    each process calls ``backward`` on its part of the loss. The gradient of a parameter is then the sum over the
    processes.

    Args:
        levels: The levels of the band, which the maps read.
        *roots: The maps.

    Returns:
        For each map (B, C, rows, W), the rows of this process: ``levels.bands.own_rows(root.height)``.

    Example:
        >>> import tempfile, torch
        >>> from torch import distributed, nn
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.band_maps import BandLevels, compute_band
        >>> from xcit_dense.streaming.maps import Apply, Enlarge, Level
        >>> from xcit_dense.streaming.shard import sharded_levels
        >>> store = f"file://{tempfile.mkdtemp()}/store"
        >>> distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> backbone, layer = XCiT("nano_12_p16").eval(), nn.Conv2d(128, 5, 3, padding=1)
        >>> band = sharded_levels(backbone, torch.rand(1, 3, 128, 96))
        >>> levels = BandLevels(backbone, band.levels, height=8, width=6)
        >>> logits = Enlarge(Apply(Level(levels, 0), layer, channels=5, halo=1), 128, 96)
        >>> [tuple(rows.shape) for rows in compute_band(levels, logits)]
        [(1, 5, 128, 96)]
        >>> distributed.destroy_process_group()
    """
    nodes = _sources_first(roots)
    uses = Counter(source for node in nodes for source in _sources(node))
    uses.update(roots)
    values: dict[Map, Tensor] = {}
    for node in nodes:
        inputs = [values[source] for source in _sources(node)]
        values[node] = _compute(levels, node, inputs)
        del inputs
        for source in _sources(node):
            uses[source] -= 1
            if not uses[source]:
                del values[source]
    return [values[root] for root in roots]


def bring_source(levels: BandLevels, node: Map, number: int, x: Tensor) -> tuple[Tensor, Window]:
    """Brings the rows of a source that this process needs for its rows of a map.

    Args:
        levels: The levels of the band.
        node: The map.
        number: The number of the source in ``node.sources``.
        x: What this process has of the source, (B, C, rows, W).

    Returns:
        The rows (B, C, rows, W), and their window in the source.
    """
    source = node.sources[number]
    if _is_complete(source):
        return x, Window(0, 0, source.height, source.width)
    have = levels.bands.of_map(source.height)
    needs = [node.needs(levels.window_of(node, process))[number] for process in range(len(have))]
    want = [range(need.row, need.row + need.height) for need in needs]
    if want != have:
        x = move_rows(x.permute(2, 0, 3, 1), have, want, levels.bands.group)  # (B, C, rows, W) -> (rows, B, W, C)
        x = x.permute(1, 3, 0, 2)
    own = want[levels.bands.index]
    return x, Window(own.start, 0, len(own), source.width)


def _compute(levels: BandLevels, node: Map, inputs: Sequence[Tensor]) -> Tensor:
    """Computes the rows of this process of a map from what this process has of the sources."""
    if isinstance(node, PooledMap):
        (x,) = inputs
        window = levels.window_of(node.pool.source, levels.bands.index)
        part = node.pool.part(x.double(), window, node.pool.counts[node.index])
        return levels.bands.sum(part).to(x.dtype)
    if _is_complete(node):
        return node.compute(Window(0, 0, node.height, node.width), inputs)
    if isinstance(node, Normalise):
        (x,) = inputs
        return normalise_band(node.norm, x, len(x) * node.height * node.width, levels.bands.group)
    window = levels.window_of(node, levels.bands.index)
    needed = []
    for number, (x, need) in enumerate(zip(inputs, node.needs(window))):
        rows, have = bring_source(levels, node, number, x)
        needed.append(cut(rows, have, need))
    return node.compute(window, needed)


def _sources_first(roots: Sequence[Map]) -> list[Map]:
    """Lists some maps and all maps from which they are computed, each after its sources."""
    found: dict[Map, None] = {}

    def visit(node: Map) -> None:
        if node not in found:
            for source in _sources(node):
                visit(source)
            found[node] = None

    for root in roots:
        visit(root)
    return [*found]


def _sources(node: Map) -> Sequence[Map]:
    return [node.pool.source] if isinstance(node, PooledMap) else node.sources


def _is_complete(node: Map) -> bool:
    """Returns whether each process has the complete map: a pooled map, or a map of its size that is made of it."""
    if isinstance(node, Kept | PooledMap):
        return True
    size = node.height, node.width
    same = all((source.height, source.width) == size and _is_complete(source) for source in node.sources)
    return bool(node.sources) and same
