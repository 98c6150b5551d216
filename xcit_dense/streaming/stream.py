"""Computes the levels of one image strip by strip."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models.blocks import XCABlock
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.layers import floating_weight
from xcit_dense.streaming.bands import Bands, share_rows
from xcit_dense.streaming.checks import check_eval, check_parts
from xcit_dense.streaming.exchange import Group
from xcit_dense.streaming.levels import StreamedLevels
from xcit_dense.streaming.rows import Rows, as_rows
from xcit_dense.streaming.storage import allocate, format_size
from xcit_dense.streaming.sweeps import Covariance, choose_strip, count_tokens, sweep_block, sweep_stem
from xcit_dense.streaming.token_map import TokenMap
from xcit_dense.utils.processes import in_all
from xcit_dense.utils.progress import track

STRIP_MEMORY = 2**28
"""Bytes that the computation of a strip takes by default, about."""

_log = logging.getLogger(__name__)


def stream(
    backbone: nn.Module,
    image: Tensor | Rows,
    *,
    strip: int | None = None,
    memory: int = STRIP_MEMORY,
    directory: str | Path | None = None,
    progress: bool = False,
    shard: bool = False,
    group: Group = None,
) -> StreamedLevels:
    """Computes the levels of one image of any size, strip by strip. The levels equal those of the complete image.

    The memory does not grow with the number of rows. It grows with the number of columns only if one row of tokens
    needs more than ``memory``. The tokens are on the disk if they are large: one map for each block that makes a level,
    see :func:`stored_bytes`.

    Args:
        backbone: An XCiT in evaluation mode, deployed or not, on any device.
        image: One image of normalised pixels: a tensor (1, channels, H, W), or an image that is read by rows. For a
            raster file, write :class:`xcit_dense.streaming.rows.SourceRows`.
        strip: Rows of tokens of a strip. By default, the strip has as many rows as ``memory`` allows.
        memory: Bytes that the computation of a strip may take, about. A strip has at least one row.
        directory: Where the token maps are. By default, small maps stay in RAM and large maps go to the directory for
            temporary files. The files disappear when the levels are closed, and when the process ends.
        progress: Whether to show the progress on standard error.
        shard: Whether the processes of ``group`` share the image. Each process then computes a band of rows, and each
            process calls this function with the same weights and the same image.
        group: The processes, in the order of their bands, with the backend gloo or NCCL. By default all processes.

    Returns:
        The levels, which are read by windows. Close them, or use them in a ``with`` statement.

    Raises:
        UserError: The backbone is another one than XCiT, is in training mode, or has a module that cannot be computed
            by strips. The image or the height of a strip is invalid, or the image has too few rows for the processes.
            The processes are not connected. The disk does not have enough space.

    Example:
        >>> import torch
        >>> from xcit_dense import XCiT, stream
        >>> from xcit_dense.rasters.window import Window
        >>> backbone = XCiT("nano_12_p16").eval()
        >>> with stream(backbone, torch.rand(1, 3, 128, 96), strip=2) as levels:
        ...     print(levels.shapes)
        ...     print(levels.read(0, Window(row=3, column=0, height=5, width=24)).shape)
        [(128, 32, 24), (128, 16, 12), (128, 8, 6), (128, 4, 3)]
        torch.Size([1, 128, 5, 24])
    """
    model = check_parts(backbone)
    check_eval(model)
    rows = as_rows(image)
    height, width = count_tokens(rows, model.patch_size)
    device, dtype = floating_weight(model).device, floating_weight(model.pos_embeder).dtype
    if strip is None:
        strip = choose_strip(memory, width, model.embed_dim, dtype.itemsize)
    if strip < 1:
        raise UserError(f"strip={strip} must be at least 1 row of tokens; leave it out to choose it by memory.")
    bands = share_rows(model, height, group) if shard else Bands((range(height),))
    band = bands.own
    sources = sorted(set(model.out_indices))
    size = stored_bytes(model, rows.height, rows.width)
    _log.info("The token maps of %d x %d pixels take %s.", rows.height, rows.width, format_size(size))
    place = None if directory is None else Path(directory)
    shape = len(band), width, model.embed_dim
    blocks = cast(list[XCABlock], model.list_blocks())
    covariance = Covariance(blocks[0], bands)
    total = (len(blocks) + 1) * -(-len(band) // strip)
    with torch.no_grad(), track("strips", total) if progress else nullcontext(_ignore) as count:

        def start() -> list[Tensor]:
            maps = allocate(len(sources), shape, dtype, place)
            sweep_stem(model, rows, maps[0], band.start, strip, covariance, count)
            return maps

        # Only this part reads the image and allocates the disk. A process that fails must not let the others wait.
        maps = in_all(start, group) if shard else start()
        x = maps[0]
        for index, block in enumerate(blocks):
            target = maps[sum(source < index for source in sources)]
            token_map = covariance.token_map()
            following = None
            if index + 1 < len(blocks):
                following = covariance = Covariance(blocks[index + 1], bands)
            sweep_block(block, token_map, x, bands.neighbours(x, device), target, strip, following, count)
            x = target
    of_level = [TokenMap(maps[sources.index(source)], bands, device) for source in model.out_indices]
    return StreamedLevels(model, (rows.height, rows.width), bands, of_level)


def stored_bytes(backbone: XCiT, height: int, width: int) -> int:
    """Returns the bytes of the token maps of an image: one map for each block that makes a level.

    Args:
        backbone: The XCiT.
        height: Rows of pixels of the image.
        width: Columns of pixels of the image.

    Example:
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.stream import stored_bytes
        >>> stored_bytes(XCiT("nano_12_p16"), 32_768, 32_768)  # 4 maps of 2048 x 2048 tokens of 128 channels
        8589934592
    """
    p = backbone.patch_size
    tokens = -(-height // p) * -(-width // p)
    itemsize = floating_weight(backbone.pos_embeder).dtype.itemsize
    return len(set(backbone.out_indices)) * tokens * backbone.embed_dim * itemsize


def _ignore() -> None:
    """Counts nothing."""
