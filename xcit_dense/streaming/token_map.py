"""The tokens of an image that a process can read: its band, and rows of other processes next to the band."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xcit_dense.streaming.bands import Bands
from xcit_dense.streaming.exchange import move_rows


class TokenMap:
    """Rows of a map of tokens, by their numbers in the image.

    Args:
        own: The rows of this process, (rows, w, C), in memory or memory-mapped.
        bands: The rows of each process.
        device: The device of what is read.

    Example:
        >>> import torch
        >>> from xcit_dense.streaming.bands import Bands
        >>> from xcit_dense.streaming.token_map import TokenMap
        >>> tokens = TokenMap(torch.rand(6, 5, 8), Bands((range(6),)), torch.device("cpu"))
        >>> tokens.rows, tokens.read(slice(2, 4), slice(0, 5)).shape
        (range(0, 6), torch.Size([2, 5, 8]))
    """

    def __init__(self, own: Tensor, bands: Bands, device: torch.device) -> None:
        self.device = device
        self._own = own
        self._bands = bands
        self._above = self._below = own[:0]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the tokens of the image."""
        return self._bands.rows[-1].stop, self._own.shape[1]

    @property
    def rows(self) -> range:
        """The rows that this process can read."""
        own = self._bands.own
        return range(own.start - len(self._above), own.stop + len(self._below))

    def fetch(self, wanted: Sequence[range]) -> None:
        """Gets the rows above and below the band that this process wants, from other processes.

        Every process calls this.

        Args:
            wanted: The rows that each process wants, of which its band may be a part.
        """
        if self._bands.is_single:
            return
        bands, group = self._bands.rows, self._bands.group
        above = [range(min(rows.start, band.start), band.start) for rows, band in zip(wanted, bands)]
        below = [range(band.stop, max(rows.stop, band.stop)) for rows, band in zip(wanted, bands)]
        self._above = move_rows(self._own, bands, above, group, self.device)
        self._below = move_rows(self._own, bands, below, group, self.device)

    def read(self, rows: slice, columns: slice) -> Tensor:
        """Copies tokens to the device, (rows, columns, C).

        Args:
            rows: The rows, all of which are in :attr:`rows`.
            columns: The columns.
        """
        own = self._bands.own
        parts = []
        starts = own.start - len(self._above), own.start, own.stop
        for start, tokens in zip(starts, (self._above, self._own, self._below)):
            part = tokens[max(rows.start - start, 0) : max(rows.stop - start, 0), columns]
            if len(part):
                parts.append(part.to(self.device))
        return torch.cat(parts)  # a copy, also of one part
