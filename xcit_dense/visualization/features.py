"""Draws what an XCiT computes for an image: the levels as colours, and the attention by channels and by positions.

A level has hundreds of channels. The three principal components over the positions become red, green and blue. So
positions with similar features have similar colours.

Cross-covariance attention weighs channels by channels. The matrix A of a head is d x d for any image size: the rows and
columns have no order, and the matrix has no positions. At the position n, the head outputs A v_n, the d values of the
position mixed by A. A map of the length |A v_n| shows at which positions the head's channels respond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.media.images import ImageError as ImageError
from xcit_dense.media.images import open_image
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.class_attention import ClassAttention
from xcit_dense.models.pretrained import find_class, load_weights
from xcit_dense.models.pyramid import level_name
from xcit_dense.models.xca import XCA
from xcit_dense.visualization.class_attention import draw_class_attention, observe_class_attention
from xcit_dense.visualization.figures import make_figure, panel_size, save_figure, show
from xcit_dense.weights.read import read_weights
from xcit_dense.weights.resolve import resolve

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and the standard deviation of ImageNet's RGB values in [0, 1]. The published weights expect images that are
normalised by these."""

LARGEST = 1024  # pixels of the longer side, if no size is given

_NO_VARIANCE = 0.5  # the value of a colour channel without variance: grey
_CAPTION = """A: how a head weighs
channels by channels.

$|Av_n|$: the length of the
head's output at position n."""


@dataclass(frozen=True)
class Attention:
    """The attention of one block for a batch of images.

    Attributes:
        matrices: (B, h, d, d): the matrix A of each head. Each row sums to 1.
        responses: (B, h, ceil(H / p), ceil(W / p)): the length |A v_n| of each head's output at each token.
        temperatures: (h,): the learned temperature of each head.
    """

    matrices: Tensor
    responses: Tensor
    temperatures: Tensor


def load_backbone(weights: str | Path, variant: str | None = None) -> tuple[Backbone, tuple[bool, ...]]:
    """Builds the backbone of a checkpoint, in evaluation mode.

    Args:
        weights: As for :func:`xcit_dense.load_weights`: a published name, an address or a file. Of a detector's or
            segmentor's checkpoint, the backbone is loaded.
        variant: The name of the variant. By default the name or the shapes of the weights determine the variant.

    Returns:
        The backbone, and for each level whether its pyramid weights are random. The checkpoint of a classifier has no
        pyramid weights. The random weights are the same in each call.

    Raises:
        UserError: The checkpoint cannot be read, is incomplete, or belongs to another variant.
    """
    path = resolve(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind = find_class(read_weights(path))
        options: dict[str, Any] = {"variant": variant} if variant else {}
        backbone = kind.from_pretrained(path, **{**kind.name_options(weights), **options})
    missing = load_weights(backbone, path).missing
    random = []
    for stride in backbone.out_strides:
        prefix = f"{level_name(stride)}."
        random.append(any(name.startswith(prefix) for name in missing))
    return backbone.eval(), tuple(random)


def visualize(
    backbone: Backbone,
    path: Path,
    out: Path,
    size: int | None = None,
    blocks: Sequence[int] | None = None,
    random: Sequence[bool] = (),
    class_attention: ClassAttention | None = None,
) -> Iterator[Path]:
    """Draws the levels of an image, ``NAME_levels.png``, and the attention of blocks, such as ``NAME_block11.png``.

    Args:
        backbone: A backbone in evaluation mode, for example from :func:`load_backbone`.
        path: The image file.
        out: The output directory.
        size: Pixels of the longer side, as for :func:`read_image`.
        blocks: The blocks, as for :func:`observe`. By default the last block of an XCiT, and no block of another
            backbone.
        random: For each level, whether the title calls the level random. By default no title does.
        class_attention: The class attention of the same checkpoint, to draw ``NAME_class_attention.png`` too.

    Yields:
        The path of each drawing, after the drawing is written.

    Raises:
        ImageError: The image does not exist, or is not readable.
        UserError: A block does not exist, a level has infinite or NaN values, or a file cannot be written.

    Example:
        >>> from xcit_dense import XCiT
        >>> Image.new("RGB", (64, 48), (200, 30, 30)).save("photo.png")
        >>> backbone = XCiT("nano_12_p16").eval()
        >>> [drawn.as_posix() for drawn in visualize(backbone, Path("photo.png"), Path("seen"))]
        ['seen/photo_levels.png', 'seen/photo_block11.png']
    """
    image = read_image(path, size)
    device = next(backbone.parameters()).device
    if blocks is None:
        blocks = (-1,) if has_cross_covariance(backbone) else ()
    images = to_input(image).to(device)
    levels, attention = observe(backbone, images, blocks)
    if not all(level.isfinite().all() for level in levels):
        raise UserError("The levels have infinite or NaN values; give the weights of a training that converged.")
    drawn = out / f"{path.stem}_levels.png"
    draw_levels(drawn, image, [level[0] for level in levels], backbone.out_strides, random)
    yield drawn
    for number, one in attention.items():
        drawn = out / f"{path.stem}_block{number}.png"
        title = f"Cross-covariance attention, block {number} of 0 to {len(backbone.list_blocks()) - 1}"
        draw_attention(drawn, image, one, title, backbone.patch_size)
        yield drawn
    if class_attention:
        drawn = out / f"{path.stem}_class_attention.png"
        maps = observe_class_attention(backbone, class_attention, images)
        draw_class_attention(drawn, image, maps, backbone.patch_size)
        yield drawn


def read_image(path: str | Path, size: int | None = None) -> Image.Image:
    """Reads an image as upright RGB, and scales the image.

    Args:
        path: The image file.
        size: The longer side of the result in pixels. By default the image keeps its size up to :data:`LARGEST`; larger
            images are scaled down.

    Returns:
        The image, in mode RGB.

    Raises:
        ImageError: The image does not exist, or is not readable.
        UserError: ``size`` is not positive.
    """
    if size is not None and size < 1:
        raise UserError(f"A size of {size} pixels is not possible; write 1 or more.")
    image = open_image(path)
    longer = max(image.size)
    wanted = size or min(longer, LARGEST)
    if wanted != longer:
        width, height = (max(1, round(side * wanted / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image


def to_input(image: Image.Image) -> Tensor:
    """Normalises an image for a backbone with published weights.

    Args:
        image: The image.

    Returns:
        (1, 3, H, W), float32.
    """
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255  # (3, H, W), in [0, 1]
    return ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]


def has_cross_covariance(backbone: Backbone) -> bool:
    """Returns whether the blocks of a backbone have the attention of XCiT.

    Args:
        backbone: The backbone.
    """
    return all(isinstance(getattr(block, "attn", None), XCA) for block in backbone.list_blocks())


@torch.no_grad()
def observe(
    backbone: Backbone, images: Tensor, blocks: Sequence[int] = (-1,)
) -> tuple[tuple[Tensor, ...], dict[int, Attention]]:
    """Runs a backbone and records the attention of some blocks.

    Args:
        backbone: A backbone in evaluation mode. The backbone may be deployed.
        images: (B, in_channels, H, W), normalised.
        blocks: The numbers of the blocks, from 0 forwards or from -1 backwards.

    Returns:
        The levels as the backbone returns them, and the attention by block number from 0.

    Raises:
        UserError: A block does not exist or has no cross-covariance attention, or the images do not fit the backbone.

    Example:
        >>> from xcit_dense import XCiT
        >>> levels, attention = observe(XCiT("nano_12_p16").eval(), torch.rand(1, 3, 64, 96), blocks=(0, -1))
        >>> sorted(attention)
        [0, 11]
        >>> attention[11].matrices.shape, attention[11].responses.shape
        (torch.Size([1, 4, 32, 32]), torch.Size([1, 4, 4, 6]))
    """
    every = backbone.list_blocks()
    depth = len(every)
    if blocks and not has_cross_covariance(backbone):
        raise UserError(
            f"The blocks of a {backbone.kind} have no cross-covariance attention to draw; leave out the blocks, and "
            "only the levels are drawn."
        )
    for block in blocks:
        if not -depth <= block < depth:
            raise UserError(
                f"The backbone has no block {block}; write a number from 0 to {depth - 1}, or -1 for the last."
            )
    rows, columns = (math.ceil(side / backbone.patch_size) for side in images.shape[-2:])
    observed: dict[int, Attention] = {}
    handles = []
    for number in sorted({block % depth for block in blocks}):

        def keep(attn: Any, args: tuple[Tensor], options: dict[str, Any], number: int = number) -> None:
            norm = options.get("norm")
            A, V = attn.attend(args[0] if norm is None else norm(args[0]))
            responses = torch.linalg.vector_norm(A @ V, dim=2).unflatten(-1, (rows, columns))
            observed[number] = Attention(A, responses, attn.temperature.flatten())

        attn: Any = every[number].attn
        handles.append(attn.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        return backbone(images), observed
    finally:
        for handle in handles:
            handle.remove()


def pca_colours(features: Tensor) -> Tensor:
    """Converts a feature map to colours by principal components.

    Red is the direction with the largest variance over the positions, green the second, blue the third. Each colour
    channel reaches from the 1st to the 99th percentile. The sign of a direction makes its largest loading positive. If
    there are fewer than three directions with variance, as in a constant map, the other colour channels are 0.5.

    Args:
        features: (C, h, w).

    Returns:
        (h, w, 3), float64 in [0, 1], on the CPU.

    Example:
        >>> pca_colours(torch.rand(64, 8, 12)).shape
        torch.Size([8, 12, 3])
    """
    X = features.detach().flatten(1).T.to("cpu", torch.float64)  # (h * w, C)
    X = X - X.mean(dim=0)
    variances, directions = torch.linalg.eigh(X.T @ X)  # (C,) ascending, (C, C) with a direction in each column
    count = min(3, X.shape[1])
    directions = directions.flip(1)[:, :count]
    peaks = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))  # (1, count)
    scores = X @ (directions * peaks.sign())  # (h * w, count)
    # Rounding errors of a constant map must not become colours.
    scale = features.detach().abs().max().double().item()
    real = variances.flip(0)[:count].clamp_min(0).sqrt() > 1e-6 * scale * math.sqrt(X.numel())
    low, high = torch.from_numpy(np.quantile(scores.numpy(), (0.01, 0.99), axis=0))
    spread = torch.where(real & (high > low), high - low, math.inf)
    colours = torch.full((len(X), 3), _NO_VARIANCE, dtype=X.dtype)
    scaled = ((scores - low) / spread).clamp(0, 1)
    colours[:, :count] = torch.where(spread.isinf(), _NO_VARIANCE, scaled)
    return colours.unflatten(0, features.shape[1:])


def draw_levels(
    path: str | Path,
    image: Image.Image,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    random: Sequence[bool] = (),
) -> None:
    """Draws an image and next to it the levels of a backbone, coloured by :func:`pca_colours`.

    Args:
        path: The PNG file, which is written atomically.
        image: The backbone's input.
        levels: The levels, each (C, h, w).
        strides: The stride of each level: pixels between two positions.
        random: For each level, whether the title calls the level random. By default no title does.

    Raises:
        UserError: The file cannot be written.
    """
    width, height = panel_size(image, area=9)
    figure = make_figure((len(levels) + 1) * width, height + 0.5)
    axes = figure.subplots(1, len(levels) + 1)
    show(axes[0], image, np.asarray(image), f"image\n{image.height} x {image.width} pixels")
    for number, (axis, level, stride) in enumerate(zip(axes[1:], levels, strides)):
        channels, rows, columns = level.shape
        note = ", random" if random and random[number] else ""
        title = f"stride {stride}{note}\n{rows} x {columns} positions, {channels} channels"
        show(axis, image, pca_colours(level).numpy(), title, stride=stride)
    save_figure(figure, Path(path))


def draw_attention(path: str | Path, image: Image.Image, attention: Attention, title: str, patch_size: int) -> None:
    """Draws the attention of a block's heads: by channels above, by positions below.

    Args:
        path: The PNG file, which is written atomically.
        image: The backbone's input.
        attention: The attention for the image. Of a batch, the first image's attention is drawn.
        title: The line above the drawing.
        patch_size: The side of a token in pixels.

    Raises:
        UserError: The file cannot be written.
    """
    from matplotlib.colors import LogNorm  # figures.py explains a missing matplotlib

    matrices, responses = (values[0].float().cpu().numpy() for values in (attention.matrices, attention.responses))
    temperatures = attention.temperatures.tolist()
    heads, dim = matrices.shape[:2]
    columns = min(heads, 4 if heads < 16 else 8)
    banks = math.ceil(heads / columns)
    width, height = panel_size(image, area=5.5)
    side = min(width, height, 2.4)
    figure = make_figure((columns + 1) * max(width, side) + 1, banks * (side + height + 0.6) + 0.4)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(2 * banks, columns + 1, squeeze=False, height_ratios=[side, height] * banks)
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].text(0.5, 0.5, _CAPTION, ha="center", va="center", fontsize=9, transform=grid[0, 0].transAxes)
    show(grid[1, 0], image, np.asarray(image), "image")
    # On a logarithmic scale, differences of colour are differences of cosines. White is the mean, 1/d.
    times = matrices.clip(1e-12) * dim
    octaves = float(np.clip(np.quantile(np.abs(np.log2(times)), 0.999), 0.5, 10))
    norm = LogNorm(2**-octaves, 2**octaves)
    for head in range(heads):
        bank, column = divmod(head, columns)
        above, below = grid[2 * bank : 2 * bank + 2, column + 1]
        above.axis("on")
        heat = above.imshow(times[head], norm=norm, cmap="RdBu_r", interpolation="nearest")
        above.set(xticks=[], yticks=[])
        above.set_title(f"head {head}: A, τ = {temperatures[head]:.3g}", fontsize=9)
        low, high = np.quantile(responses[head], (0.01, 0.99))
        show(
            below,
            image,
            responses[head],
            f"$|Av_n|$ from {low:.2g} to {high:.2g}",
            stride=patch_size,
            vmin=low,
            vmax=high if high > low else low + 1,
            cmap="inferno",
        )
    exponents = range(-int(octaves), int(octaves) + 1)
    bar = figure.colorbar(heat, ax=grid, aspect=40, pad=0.01, panchor=False)
    labels = [f"{2**exponent}" if exponent >= 0 else f"1/{2**-exponent}" for exponent in exponents]
    bar.set_ticks([2.0**exponent for exponent in exponents], labels=labels)
    bar.minorticks_off()
    bar.set_label(f"A in units of 1/d = 1/{dim}, the mean of each row", fontsize=9)
    save_figure(figure, Path(path))
