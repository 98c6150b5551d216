"""Charts of a data set: how often each class occurs, and how large its objects are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError
from xcit_dense.utils.files import atomic_write

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
except ImportError as error:
    raise MissingLibraryError("Charts are drawn with matplotlib; write pip install matplotlib.") from error

# Okabe and Ito's colours, which colour-blind people distinguish. Their brightness differs too.
_COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#999999"}
_ALARM = "#B00020"
_MANY = 100  # from this number of classes on, a bar for each class is too much for one image
_COLUMN = 40  # bars of more classes stand in several columns
_ENDS = 25  # of many classes, this number of the most and of the least frequent classes is drawn
_LOGARITHMIC = 50  # the ratio of the largest to the smallest count from which on an axis is logarithmic
_LONGEST = 32  # characters of a class name
_BAR, _SPACE = 0.17, 0.1  # inches

Counts = Mapping[str, Mapping[str, float]]


def draw_class_counts(path: Path, counts: Counts, unit: str, title: str) -> None:
    """Draws how often each class occurs in each split, as bars. The axis is logarithmic if the counts differ much.

    With many classes, the chart shows the counts of all classes by rank, and bars for the most and the least frequent.

    Args:
        path: The PNG file.
        counts: The counts of each class by split (``'train'``, ``'val'`` and ``'test'``). All splits have the same
            classes in the same order.
        unit: What is counted, for the axis.
        title: The title.

    Raises:
        UserError: The file cannot be written.

    Example:
        >>> counts = {"train": {"cat": 120, "dog": 7}, "val": {"cat": 12, "dog": 0}}
        >>> draw_class_counts(Path("classes.png"), counts, "objects", "132 objects of 2 classes")
        >>> Path("classes.png").read_bytes()[1:4]
        b'PNG'
    """
    splits = list(counts)
    names = list(counts[splits[0]])
    values = np.array([[counts[split][name] for name in names] for split in splits], float)  # (splits, classes)
    limits = _find_limits(values)
    label = f"{unit} (logarithmic)" if limits[0] else unit
    step = len(splits) * _BAR + _SPACE  # inches for a class
    order = np.argsort(-values[0], kind="stable")
    if len(names) <= _MANY:
        parts = np.array_split(order, math.ceil(len(names) / _COLUMN))
        figure = _figure(9 if len(parts) == 1 else 6.5 * len(parts), 1.5 + step * len(parts[0]))
        places = [figure.add_subplot(1, len(parts), number) for number in range(1, len(parts) + 1)]
    else:
        parts = [order[:_ENDS], order[-_ENDS:]]
        ranks_height, bars_height = 3.2, 1.2 + step * _ENDS
        figure = _figure(13, ranks_height + bars_height)
        grid = figure.add_gridspec(2, 2, height_ratios=[ranks_height, bars_height])
        ranks = figure.add_subplot(grid[0, :])
        _draw_ranks(ranks, values[:, order], splits, is_log=limits[0] > 0)
        ranks.set_ylabel(label)
        places = [figure.add_subplot(grid[1, column]) for column in range(2)]
        for axes, words in zip(places, ("most", "least")):
            axes.set_title(f"The {_ENDS} {words} frequent classes", fontsize=10)
    for axes, part in zip(places, parts, strict=True):
        _draw_bars(axes, [names[index] for index in part], values[:, part], splits, limits)
        axes.set_xlabel(label)
    if len(splits) > 1 and len(names) <= _MANY:
        places[-1].legend(fontsize=9, loc="lower right")
    figure.suptitle(title, fontsize=12)
    _save(figure, path)


def draw_sizes(path: Path, sizes: npt.NDArray[np.floating], strides: Sequence[int], unit: str, title: str) -> None:
    """Draws how large objects are, as a histogram, with the strides of a model's levels.

    An object that is smaller than the first stride covers less than one position of the finest level.

    Args:
        path: The PNG file.
        sizes: (N,), the square root of the area of each object in pixels. Objects without area are left out.
        strides: The strides of the levels in pixels, in ascending order.
        unit: What the sizes belong to, in the plural, for the axis.
        title: The title.

    Raises:
        UserError: The file cannot be written.

    Example:
        >>> draw_sizes(Path("sizes.png"), np.array([3.0, 20.0, 21.0, 300.0]), [4, 8, 16, 32], "objects", "4 objects")
        >>> Path("sizes.png").read_bytes()[1:4]
        b'PNG'
    """
    sizes = sizes[sizes > 0]
    figure = _figure(9, 4.6)
    axes = figure.add_subplot()
    last = max(9, int(np.ceil(np.log2(sizes.max()))) if len(sizes) else 0)
    first = min(0, int(np.floor(np.log2(sizes.min()))) if len(sizes) else 0)
    edges = 2.0 ** np.arange(first, last + 0.25, 0.25)
    shares = np.full(len(sizes), 100 / max(1, len(sizes)))
    axes.hist(sizes, bins=edges.tolist(), weights=shares, color=_COLOURS["train"], edgecolor="white", linewidth=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 1))
    axes.set_xticks(2.0 ** np.arange(first, last + 1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("square root of the area in pixels (logarithmic)")
    axes.set_ylabel(f"% of the {unit}")
    for stride in strides:
        below = 100 * float((sizes < stride).mean()) if len(sizes) else 0.0
        axes.axvline(stride, color="black", linewidth=1.2, linestyle="--")
        words = f"stride {stride}\n{_percent(below)}\nsmaller"
        axes.annotate(
            words,
            (stride, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            fontsize=7.5,
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )
    if not len(sizes):
        axes.text(0.5, 0.5, f"no {unit}", transform=axes.transAxes, ha="center", fontsize=14, color=_ALARM)
    axes.set_title(title, fontsize=12)
    _clean(axes, "y")
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # matplotlib's font does not have every script
        figure.savefig(part, format="png", dpi=110)


def _find_limits(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    """The ends of the axis of all bars. The lower end is 0 for a linear axis, and positive for a logarithmic axis."""
    positive = values[values > 0]
    if not len(positive):
        return 0, 1
    lowest, highest = float(positive.min()), float(positive.max())
    if highest / lowest <= _LOGARITHMIC:
        return 0, 1.12 * highest
    return lowest / 2, highest * (2 * highest / lowest) ** 0.14  # with space for the numbers


def _draw_bars(
    axes: Axes,
    names: Sequence[str],
    values: npt.NDArray[np.floating],
    splits: Sequence[str],
    limits: tuple[float, float],
) -> None:
    """Draws a group of horizontal bars for each class, from top to bottom."""
    thickness = _BAR / (len(splits) * _BAR + _SPACE)  # a class takes 1
    rows = np.arange(len(names))
    lowest = limits[0]
    for number, (split, row) in enumerate(zip(splits, values, strict=True)):
        places = rows + (number - (len(splits) - 1) / 2) * thickness
        axes.barh(places, np.maximum(row - lowest, 0), thickness, left=lowest, color=_colour(split), label=split)
        for place, value in zip(places, row, strict=True):
            label = axes.annotate(
                _number(value),
                (max(value, lowest), place),
                xytext=(3, -0.5),
                textcoords="offset points",
                fontsize=7,
                va="center",
                color="black" if value else _ALARM,
                fontweight="normal" if value else "bold",
            )
            label.set_in_layout(False)  # the axis has space for the label, and measuring hundreds of labels is slow
    if lowest:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(*limits)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.set_yticks(rows, [_short(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first class is at the top
    axes.tick_params(axis="y", length=0)
    _clean(axes, "x")


def _draw_ranks(axes: Axes, values: npt.NDArray[np.floating], splits: Sequence[str], is_log: bool) -> None:
    """Draws the counts of all classes in the order of the first split."""
    ranks = np.arange(1, values.shape[1] + 1)
    for number, (split, row) in enumerate(zip(splits, values, strict=True)):
        absent = int((row == 0).sum())
        words = f"{split} ({absent:,} classes with none)" if absent else split
        positive = np.where(row > 0, row, np.nan)  # a logarithmic axis has no zero
        if number:
            axes.plot(ranks, positive, ".", markersize=3, color=_colour(split), label=words)
        else:
            axes.step(ranks, positive, where="mid", linewidth=2, color=_colour(split), label=words, zorder=3)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.set_xlim(0.5, values.shape[1] + 0.5)
    axes.set_xlabel(f"all {values.shape[1]:,} classes, in the order of {splits[0]}")
    axes.legend(fontsize=9, markerscale=3, loc="upper right")
    _clean(axes, "y")


def _clean(axes: Axes, grid: Any) -> None:
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colour(split: str) -> str:
    return _COLOURS.get(split, "#009E73")


def _short(name: str) -> str:
    # A dollar sign would start a formula.
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return name.replace("$", r"\$")


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if value >= 100_000:
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1000:.3g}k"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{share:.0f} %" if share >= 9.5 or share == 0 else f"{share:.1f} %"
