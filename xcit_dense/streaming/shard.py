"""One image over several processes: each process holds a band of rows.

The symbols are the symbols of :mod:`xcit_dense.models.xca`. For each block, the processes sum G, and each process gets
two rows of tokens from each of its neighbours, which LPI needs. Everything else of a band is computed by itself. The
levels and the gradients equal those of one process.

Stochastic depth (``drop_path_rate``) drops a branch of a block for the complete image. The first process draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from xcit_dense.models.blocks import XCABlock, map_to_tokens, tokens_to_map
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.autocast import product_dtype
from xcit_dense.ops.layers import floating_weight
from xcit_dense.streaming.bands import HALO, Bands, share_rows
from xcit_dense.streaming.checks import check_eval, check_parts
from xcit_dense.streaming.exchange import Group, draw_once
from xcit_dense.streaming.levels import level_shapes
from xcit_dense.streaming.rows import Rows, as_rows
from xcit_dense.streaming.sweeps import count_tokens, embed


@dataclass(frozen=True)
class Band:
    """The levels of the band of one process.

    Attributes:
        levels: A map (1, C, rows, W) for each level, finest first.
        rows: For each level, its rows in the level of the complete image.
    """

    levels: tuple[Tensor, ...]
    rows: tuple[range, ...]


def sharded_levels(backbone: nn.Module, image: Tensor | Rows, group: Group = None) -> Band:
    """Computes the levels of one image in several processes. Each process computes a band of rows.

    Every process of the group calls this function with the same weights and the same image. A process reads only the
    rows of its band, and one row of tokens above. With gradients, every process calls ``backward`` on its part of the
    loss, and each part must depend on the same levels; otherwise the processes wait for each other forever. The parts
    must sum to the loss of the image. The gradient of a parameter is then the sum over the processes:
    :func:`sum_gradients`.

    Args:
        backbone: An XCiT whose batch norms are in evaluation mode (``norm_eval=True``), without dropout. Stochastic
            depth is drawn once for the image. With ``with_cp``, the backward pass recomputes the blocks, and
            communicates again.
        image: One image of normalised pixels: a tensor (1, channels, H, W), or an image that is read by rows.
        group: The processes, in the order of their bands, with the backend gloo or NCCL. By default all processes.

    Returns:
        The levels of the band of this process. The bands of all processes make the levels of the complete image.

    Raises:
        UserError: The backbone is another one than XCiT, or has a module that cannot be computed by bands. The image
            has too few rows for the number of processes. The processes are not connected.

    Example:
        >>> import tempfile, torch
        >>> from torch import distributed
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.shard import sharded_levels
        >>> store = f"file://{tempfile.mkdtemp()}/store"
        >>> distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> band = sharded_levels(XCiT("nano_12_p16").eval(), torch.rand(1, 3, 128, 96))
        >>> band.rows
        (range(0, 32), range(0, 16), range(0, 8), range(0, 4))
        >>> distributed.destroy_process_group()
    """
    model = check_parts(backbone)
    check_eval(model, drops_blocks=True)
    rows = as_rows(image)
    height, width = count_tokens(rows, model.patch_size)
    bands = share_rows(model, height, group)
    band = bands.own
    x = map_to_tokens(embed(model, rows, band.start, band.stop))  # (1, N, C)
    levels = []
    of_level = list(zip(model.level_modules(), model.out_indices))
    blocks = cast(list[XCABlock], model.list_blocks())
    for index, (block, scales) in enumerate(zip(blocks, _draw_scales(blocks, x, group))):
        if model.with_cp and model.training:
            x = checkpoint(_run_block, block, x, scales, bands, use_reentrant=False, preserve_rng_state=False)
        else:
            x = _run_block(block, x, scales, bands)
        for name, source in of_level:
            if source == index:
                levels.append(model.get_submodule(name)(tokens_to_map(x, len(band), width)))
    return Band(tuple(levels), tuple(bands.own_rows(rows) for _, rows, _ in level_shapes(model, height, width)))


_Scales = tuple[Tensor | None, Tensor | None, Tensor | None]


def _draw_scales(blocks: Sequence[XCABlock], like: Tensor, group: Group) -> list[_Scales]:
    """Draws stochastic depth: what multiplies the branches XCA, LPI and MLP of each block, (1, 1, 1). None is 1.

    The draws are in the order of the draws of one process.
    """
    drops = [block.drop_path.training and block.drop_path.drop_prob > 0 for block in blocks]
    if not any(drops):
        return [(None, None, None)] * len(blocks)
    one = torch.ones(1, 1, 1, dtype=like.dtype, device=like.device)
    drawn = torch.stack([block.drop_path(one) for block in blocks for _ in range(3)])  # (3 blocks, 1, 1, 1)
    scales = draw_once(drawn, group).split(3)
    return [(each[0], each[1], each[2]) if drop else (None, None, None) for each, drop in zip(scales, drops)]


def _run_block(block: XCABlock, x: Tensor, scales: _Scales, bands: Bands) -> Tensor:
    """Applies a block to the tokens (1, rows * w, C) of a band."""
    rows = len(bands.own)
    width = x.shape[1] // rows
    G = bands.sum(block.attn.covariance(x, block.norm1))  # (1, C + 1, C + 1)
    x = block.add_attention(x, block.attn.token_map(G, product_dtype(x)), scales[0])
    own = x[0].unflatten(0, (rows, width))  # (rows, w, C)
    above, below = bands.neighbours(own, x.device)
    x = torch.cat((above, own, below)).flatten(0, 1)[None]  # the band with its halos
    x = block.add_neighbours(x, x.shape[1] // width, width, scales[1])
    x = x[:, len(above) * width : (len(above) + rows) * width]  # (1, rows * w, C)
    return block.add_mlp(x, rows, width, scales[2])


def sum_gradients(parameters: Sequence[nn.Parameter], group: Group = None) -> None:
    """Sums the gradients of parameters over the processes of an image, in place.

    Call it after ``backward``, with the parameters in the same order in each process. A parameter without a gradient
    is left out. Do not call it for a model in DistributedDataParallel, which averages gradients itself: multiply the
    loss by the number of processes instead.

    Args:
        parameters: The parameters of the model: ``list(model.parameters())``.
        group: The processes. By default all.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad, group=group)


@dataclass(frozen=True)
class Communication:
    """Bytes that one process contributes for one image, without those of :func:`sum_gradients`.

    Attributes:
        covariances: Bytes of the tensors that are summed over processes. A ring of n processes sends them 2 (n - 1) / n
            times.
        halos: Bytes of the rows that a process with two neighbours sends to both.
    """

    covariances: int
    halos: int


def communication(backbone: XCiT, width: int, backward: bool = False) -> Communication:
    """Counts the bytes of communication. They do not depend on the height of the image and the number of processes.

    Args:
        backbone: The XCiT.
        width: Columns of pixels of the image.
        backward: Whether to count the backward pass too.

    Example:
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.shard import communication
        >>> communication(XCiT("small_12_p16"), width=40_000)
        Communication(covariances=7114800, halos=184320000)
    """
    itemsize = floating_weight(backbone.pos_embeder).dtype.itemsize
    columns = -(-width // backbone.patch_size)
    G = (backbone.embed_dim + 1) ** 2 * max(itemsize, 4)
    halo = HALO * columns * backbone.embed_dim * itemsize
    times = len(backbone.blocks) * (2 if backward else 1)
    if backward and backbone.with_cp:
        times += len(backbone.blocks)
    return Communication(covariances=times * G, halos=times * 2 * halo)
