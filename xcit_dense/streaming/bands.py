"""How the rows of an image are divided over processes, and what the processes exchange of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, distributed

from xcit_dense.errors import UserError
from xcit_dense.models.xcit import XCiT
from xcit_dense.streaming.exchange import Group, check_connected, move_rows, sum_over_ranks

HALO = 2
"""Rows of tokens around a token that LPI needs."""


@dataclass(frozen=True)
class Bands:
    """The rows of tokens of an image, and the processes that share the image.

    Attributes:
        rows: The rows of each process.
        group: The processes. None means all processes, or that there is only this process.

    Example:
        >>> from xcit_dense.streaming.bands import Bands
        >>> bands = Bands((range(0, 21),))
        >>> bands.own, bands.of_map(84)
        (range(0, 21), [range(0, 84)])
    """

    rows: tuple[range, ...]
    group: Group = None

    @property
    def index(self) -> int:
        """The number of this process in the group."""
        return 0 if self.is_single else distributed.get_rank(self.group)

    @property
    def own(self) -> range:
        """The rows of this process."""
        return self.rows[self.index]

    @property
    def is_single(self) -> bool:
        """Whether one process has all rows."""
        return len(self.rows) == 1

    def of_map(self, height: int) -> list[range]:
        """Divides the rows of a map of the image in the same shares.

        Args:
            height: Rows of the map, which is a level or is larger than a level.

        Returns:
            The rows of each process. A row of a level belongs to the process that has the tokens of the row.
        """
        tokens = self.rows[-1].stop
        starts = [-(-height * band.start // tokens) for band in self.rows]
        return [range(start, stop) for start, stop in pairwise([*starts, height])]

    def own_rows(self, height: int) -> range:
        """Returns the rows of this process in a map of the image, as :meth:`of_map` divides them.

        Args:
            height: Rows of the map.
        """
        return self.of_map(height)[self.index]

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum of the tensors of all processes. A gradient is summed too."""
        return x if self.is_single else sum_over_ranks(x, self.group)

    def largest(self, x: Tensor) -> Tensor:
        """Returns the largest of the numbers of all processes, without gradients."""
        if self.is_single:
            return x
        x = x.detach().clone()
        distributed.all_reduce(x, distributed.ReduceOp.MAX, group=self.group)
        return x

    def neighbours(self, x: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the rows of tokens that LPI needs above and below the rows of this process.

        Args:
            x: The rows of this process, (rows, w, C).
            device: The device of the result.

        Returns:
            (above, w, C) and (below, w, C). ``above`` and ``below`` are :data:`HALO`, but 0 where the image ends.
        """
        if self.is_single:
            return x[:0].to(device), x[:0].to(device)
        above = [range(max(band.start - HALO, 0), band.start) for band in self.rows]
        below = [range(band.stop, min(band.stop + HALO, self.rows[-1].stop)) for band in self.rows]
        return (
            move_rows(x, self.rows, above, self.group, device),
            move_rows(x, self.rows, below, self.group, device),
        )


ONE_BAND = Bands((range(1),))
"""All rows of any map, in this process."""


def divide_rows(backbone: XCiT, tokens: int, processes: int) -> tuple[range, ...]:
    """Divides rows of tokens into bands of about one size.

    A band begins where a position of every level begins.

    Args:
        backbone: The XCiT.
        tokens: Rows of tokens of the image.
        processes: Number of processes.

    Returns:
        The rows of each process.

    Raises:
        UserError: There are too few rows.

    Example:
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.bands import divide_rows
        >>> divide_rows(XCiT("nano_12_p16"), tokens=21, processes=3)
        (range(0, 6), range(6, 12), range(12, 21))
    """
    unit = max(HALO, backbone.out_strides[-1] // backbone.patch_size)
    units = tokens // unit
    if processes > 1 and units < processes:
        raise UserError(
            f"An image of {tokens} rows of tokens cannot be divided over {processes} processes, because each process "
            f"needs {unit} rows; use at most {max(units, 1)} processes."
        )
    edges = [unit * (units * process // processes) for process in range(processes)] + [tokens]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def share_rows(backbone: XCiT, tokens: int, group: Group = None) -> Bands:
    """Divides the rows of tokens of an image over connected processes, by :func:`divide_rows`.

    Args:
        backbone: The XCiT.
        tokens: Rows of tokens of the image.
        group: The processes. By default all.

    Raises:
        UserError: The processes are not connected, or there are too few rows.
    """
    check_connected()
    return Bands(divide_rows(backbone, tokens, distributed.get_world_size(group)), group)


def level_size(tokens: int, patch_size: int, stride: int) -> int:
    """Returns the positions of a level along a side. Strides above the patch size round down, but not below 1.

    Args:
        tokens: Tokens along the side.
        patch_size: Pixels of a token.
        stride: The stride of the level.

    Example:
        >>> from xcit_dense.streaming.bands import level_size
        >>> level_size(5, patch_size=16, stride=4), level_size(5, patch_size=16, stride=32)
        (20, 2)
    """
    return tokens * patch_size // stride or 1
