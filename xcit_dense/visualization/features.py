"""Pictures of what an XCiT sees: its levels as colours, and its attention by channels and by places.

A level has hundreds of channels. Its three principal components over the positions become red, green and blue, so that
positions with like features have like colours.

Cross-covariance attention weighs channels by channels: a head's A is d x d whatever the image, its rows and columns
have no order, and it holds no places. What the head gives to the position n is A v_n, its d values there mixed by A; so
the map of the length |A v_n| shows where the head's channels respond.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.models.pretrained import load_weights
from xcit_dense.models.pyramid import STRIDES
from xcit_dense.models.xcit import XCiT
from xcit_dense.utils.files import atomic_write
from xcit_dense.weights.resolve import resolve

try:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from PIL import Image, ImageOps
except ImportError as error:
    raise MissingLibraryError("The pictures are drawn with matplotlib; write pip install matplotlib.") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in [0, 1], which the published weights expect to be normalised by."""

LARGEST = 1024  # pixels of the longer side, where no size is given

_BACKGROUND = 0.5  # of what has no value
_CAPTION = """A: how a head weighs
its channels by its channels.

$|Av_n|$: the length of what
it gives to the place n."""


class ImageError(UserError):
    """A file is no picture that can be read."""


@dataclass(frozen=True)
class Attention:
    """What one block's XCA does with some images.

    Attributes:
        matrices: A of each head, (B, h, d, d); rows sum to 1.
        responses: Lengths |A v_n| of what each head gives to each token, (B, h, ceil(H / p), ceil(W / p)).
        temperatures: The learned tau of each head, (h,).
    """

    matrices: Tensor
    responses: Tensor
    temperatures: Tensor


def load_backbone(weights: str | Path, variant: str | None = None) -> tuple[XCiT, tuple[bool, ...]]:
    """Builds the XCiT of a checkpoint, in evaluation mode.

    Args:
        weights: As for :func:`xcit_dense.load_weights`: a published name, an address or a file, in any dialect; of a
            detector or segmentor, the backbone is taken.
        variant: Its variant; by default the shapes of the weights tell it.

    Returns:
        The backbone, and which of its levels are random: of a classifier, which has no pyramid, those that the pyramid
        makes with weights. They are the same each time.

    Raises:
        UserError: The checkpoint cannot be had, holds no whole XCiT, or that of another variant.
    """
    path = resolve(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = XCiT(variant) if variant else XCiT.from_pretrained(path)
    missing = load_weights(backbone, path).missing
    random = (any(name.startswith(f"fpn{number}.") for name in missing) for number in range(1, len(STRIDES) + 1))
    return backbone.eval(), tuple(random)


def visualize(
    backbone: XCiT,
    path: Path,
    out: Path,
    size: int | None = None,
    blocks: Sequence[int] = (-1,),
    random: Sequence[bool] = (),
) -> Iterator[Path]:
    """Draws what a backbone sees in a picture: ``NAME_levels.png``, and ``NAME_block11.png`` for each block.

    Args:
        backbone: In evaluation mode, as from :func:`load_backbone`.
        path: The picture.
        out: The directory to write to.
        size: As for :func:`read_picture`.
        blocks: As for :func:`observe`.
        random: Which levels' titles say so; by default none.

    Yields:
        The files, as they are written.

    Raises:
        UserError: As of the functions that it calls, or levels that are no finite numbers.
    """
    picture = read_image(path, size)
    levels, attention = observe(backbone, to_input(picture).to(next(backbone.parameters()).device), blocks)
    if not all(level.isfinite().all() for level in levels):
        raise UserError("The levels have values that are no finite numbers; give weights of a training that converged.")
    drawn = out / f"{path.stem}_levels.png"
    draw_levels(drawn, picture, [level[0] for level in levels], STRIDES, random)
    yield drawn
    for number, one in attention.items():
        drawn = out / f"{path.stem}_block{number}.png"
        title = f"Cross-covariance attention, block {number} of 0 to {len(backbone.blocks) - 1}"
        draw_attention(drawn, picture, one, title, backbone.patch_size)
        yield drawn


def read_image(path: str | Path, size: int | None = None) -> Image.Image:
    """Reads a picture as RGB, upright.

    Args:
        path: The file.
        size: Pixels that the longer side is scaled to; by default it stays, up to :data:`LARGEST`.

    Raises:
        PictureError: There is no picture.
        UserError: ``size`` is not positive.
    """
    if size is not None and size < 1:
        raise UserError(f"A picture of {size} pixels is not possible; write a size of 1 or more.")
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"No picture at {path}; check the path.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is not a picture that can be read ({error}); give a JPEG or PNG file.") from error
    longer = max(picture.size)
    wanted = size or min(longer, LARGEST)
    if wanted != longer:
        width, height = (max(1, round(side * wanted / longer)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return picture


def to_input(picture: Image.Image) -> Tensor:
    """The (1, 3, H, W) that a backbone with published weights expects of a picture."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    return ((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])[None]


@torch.no_grad()
def observe(
    backbone: XCiT, images: Tensor, blocks: Sequence[int] = (-1,)
) -> tuple[tuple[Tensor, ...], dict[int, Attention]]:
    """Runs a backbone and keeps what some of its blocks attend to.

    Args:
        backbone: In evaluation mode; a deployed one will do.
        images: (B, in_channels, H, W), as for the backbone.
        blocks: Numbers of blocks, counted from 0, or from -1 backwards.

    Returns:
        The levels, as the backbone gives them, and the attention by the block's number, counted from 0.

    Raises:
        UserError: There is no such block, or the images are not for this backbone.
    """
    depth = len(backbone.blocks)
    for block in blocks:
        if not -depth <= block < depth:
            raise UserError(f"There is no block {block}; write one from 0 to {depth - 1}, the last.")
    rows, columns = (math.ceil(side / backbone.patch_size) for side in images.shape[-2:])
    seen: dict[int, Attention] = {}
    handles = []
    for number in sorted({block % depth for block in blocks}):

        def keep(attn: Any, args: tuple[Tensor], options: dict[str, Any], number: int = number) -> None:
            norm = options.get("norm")
            A, V = attn.attend(args[0] if norm is None else norm(args[0]))
            responses = torch.linalg.vector_norm(A @ V, dim=2).unflatten(-1, (rows, columns))
            seen[number] = Attention(A, responses, attn.temperature.flatten())

        attn: Any = backbone.blocks[number].attn
        handles.append(attn.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        return backbone(images), seen
    finally:
        for handle in handles:
            handle.remove()


def pca_colours(features: Tensor) -> Tensor:
    """Colours of a map's positions by their principal components.

    Red is the direction of most variance over the positions, green the next, blue the third; each from its 1st to its
    99th percentile. A direction is pointed to where its largest loading is positive. Where there are fewer than three,
    as in a constant map, the rest is grey.

    Args:
        features: A map (C, h, w).

    Returns:
        (h, w, 3), float64 in [0, 1], on the CPU.
    """
    X = features.detach().flatten(1).T.to("cpu", torch.float64)  # positions by channels
    X = X - X.mean(dim=0)
    variances, directions = torch.linalg.eigh(X.T @ X)  # ascending
    count = min(3, X.shape[1])
    directions = directions.flip(1)[:, :count]
    peaks = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    scores = X @ (directions * peaks.sign())
    # What rounding makes of no variance must not be blown up to a picture.
    scale = features.detach().abs().max().double().item()
    real = variances.flip(0)[:count].clamp_min(0).sqrt() > 1e-6 * scale * math.sqrt(X.numel())
    low, high = torch.from_numpy(np.quantile(scores.numpy(), (0.01, 0.99), axis=0))
    spread = torch.where(real & (high > low), high - low, math.inf)
    colours = torch.full((len(X), 3), _BACKGROUND, dtype=X.dtype)
    scaled = ((scores - low) / spread).clamp(0, 1)
    colours[:, :count] = torch.where(spread.isinf(), _BACKGROUND, scaled)
    return colours.unflatten(0, features.shape[1:])


def draw_levels(
    path: str | Path,
    picture: Image.Image,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    random: Sequence[bool] = (),
) -> None:
    """Draws a picture, and beside it the levels that a backbone made of it, as :func:`pca_colours`.

    Args:
        path: The PNG to write, whole or not at all.
        picture: What the backbone saw.
        levels: Maps (C, h, w).
        strides: Pixels of a position of each.
        random: Which levels' titles say so; by default none.
    """
    width, height = _panel(picture, area=9)
    figure = _figure((len(levels) + 1) * width, height + 0.5)
    axes = figure.subplots(1, len(levels) + 1)
    _show(axes[0], picture, np.asarray(picture), f"picture\n{picture.height} x {picture.width} pixels")
    for number, (axis, level, stride) in enumerate(zip(axes[1:], levels, strides)):
        channels, rows, columns = level.shape
        note = ", random" if random and random[number] else ""
        title = f"stride {stride}{note}\n{rows} x {columns} positions, {channels} channels"
        _show(axis, picture, pca_colours(level).numpy(), title, stride=stride)
    _save(figure, Path(path))


def draw_attention(path: str | Path, picture: Image.Image, attention: Attention, title: str, patch_size: int) -> None:
    """Draws the attention of a block's heads, above by channels, below by places.

    Args:
        path: The PNG to write, whole or not at all.
        picture: What the backbone saw.
        attention: Of this picture: the first of its batch is drawn.
        title: What stands above.
        patch_size: Pixels of a token along each side.
    """
    matrices, responses = (values[0].float().cpu().numpy() for values in (attention.matrices, attention.responses))
    temperatures = attention.temperatures.tolist()
    heads, dim = matrices.shape[:2]
    columns = min(heads, 4 if heads < 16 else 8)
    banks = math.ceil(heads / columns)
    width, height = _panel(picture, area=5.5)
    side = min(width, height, 2.4)
    figure = _figure((columns + 1) * max(width, side) + 1, banks * (side + height + 0.6) + 0.4)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(2 * banks, columns + 1, squeeze=False, height_ratios=[side, height] * banks)
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].text(0.5, 0.5, _CAPTION, ha="center", va="center", fontsize=9, transform=grid[0, 0].transAxes)
    _show(grid[1, 0], picture, np.asarray(picture), "picture")
    # In a picture of logarithms, differences are those of the cosines, and white is a head without preference.
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
        _show(
            below,
            picture,
            responses[head],
            f"$|Av_n|$ from {low:.2g} to {high:.2g}",
            stride=patch_size,
            vmin=low,
            vmax=high if high > low else low + 1,
            cmap="inferno",
        )
    atomic_write = range(-int(octaves), int(octaves) + 1)
    bar = figure.colorbar(heat, ax=grid, aspect=40, pad=0.01, panchor=False)
    bar.set_ticks(
        [2.0**octave for octave in atomic_write], labels=[f"{2**o}" if o >= 0 else f"1/{2**-o}" for o in atomic_write]
    )
    bar.minorticks_off()
    bar.set_label(f"A in units of 1/d = 1/{dim}, its mean in each row", fontsize=9)
    _save(figure, Path(path))


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")  # without pyplot it needs no display


def _panel(picture: Image.Image, area: float) -> tuple[float, float]:
    """Width and height in inches of a panel of some area with a picture's proportions, within bounds."""
    proportion = min(max(picture.width / picture.height, 1 / 3), 3)
    return math.sqrt(area * proportion), math.sqrt(area / proportion)


def _show(axes: Axes, picture: Image.Image, pixels: Any, title: str, stride: int | None = None, **options: Any) -> None:
    """Shows the picture, or a map of some stride on its area, beyond which the map's last positions may reach."""
    rows, columns = np.shape(pixels)[:2]
    extent = (0, columns * (stride or 1), rows * (stride or 1), 0)
    axes.axis("on")
    axes.set_facecolor("0.9")
    axes.imshow(pixels, extent=extent, interpolation="nearest", **options)
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part:
        figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.05)
