"""How the rows of an image are divided over processes."""

from __future__ import annotations

from itertools import pairwise

from xcit_dense.errors import UserError
from xcit_dense.models.xcit import XCiT
from xcit_dense.streaming.levels import level_size
from xcit_dense.streaming.sweeps import HALO


def divide_rows(backbone: XCiT, tokens: int, processes: int) -> list[range]:
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
        [range(0, 6), range(6, 12), range(12, 21)]
    """
    unit = max(HALO, backbone.out_strides[-1] // backbone.patch_size)
    units = tokens // unit
    if processes > 1 and units < processes:
        raise UserError(
            f"An image of {tokens} rows of tokens cannot be divided over {processes} processes, because each process "
            f"needs {unit} rows; use at most {max(units, 1)} processes."
        )
    edges = [unit * (units * process // processes) for process in range(processes)] + [tokens]
    return [range(start, stop) for start, stop in pairwise(edges)]


def level_rows(backbone: XCiT, tokens: int, band: range) -> list[range]:
    """Returns the rows of each level that a band makes.

    Args:
        backbone: The XCiT.
        tokens: Rows of tokens of the image.
        band: A band of :func:`divide_rows`.

    Example:
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.bands import level_rows
        >>> level_rows(XCiT("nano_12_p16"), tokens=21, band=range(12, 21))
        [range(48, 84), range(24, 42), range(12, 21), range(6, 10)]
    """
    p = backbone.patch_size
    rows = []
    for stride in backbone.out_strides:
        stop = level_size(tokens, p, stride) if band.stop == tokens else band.stop * p // stride
        rows.append(range(band.start * p // stride, stop))
    return rows
