"""One picture of the shapes data set: shapes are placed, then painted over a textured background.

Coordinates are pixels, x to the right and y down; pixel ``i`` covers ``i`` to ``i + 1``. Colours
are RGB, 0 to 1 until the picture is finished. All chance comes from the generator passed in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw, ImageFilter
from shapely.geometry import MultiPolygon, Polygon

from xcit_dense.errors import UserError

FloatArray = npt.NDArray[np.floating[Any]]

CLASSES = ("circle", "square", "triangle", "star")
MIN_SIZE = 64  # pixels; smaller pictures have no room for shapes that can be told apart
MIN_SHAPES, MAX_SHAPES = 2, 3
MIN_VISIBLE = 0.8  # of a shape's own area
MIN_AREA = 60.0  # square pixels of a shape's visible part
MIN_PART_AREA = 8.0  # square pixels of each piece, where others cut a shape into several

_DIAMETER = (0.36, 0.62)  # of the circle around a shape, as a share of the picture
_INSIDE = 0.6  # of the radius: how far inside the picture a centre stays; the rest may be cut off
_TILT = np.pi / 6  # to either side of upright
# Of the colour wheel, around a class's own hue, a quarter from the next: colour tells nearly every shape's class. With
# the outline alone to go by, training from random weights takes longer than a demo may.
_HUE_SPREAD = 0.06
_ATTEMPTS = 100  # to place all shapes of a picture; a crowded one makes do with fewer shapes
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Instance:
    """A shape as it was placed.

    Attributes:
        label: Index into `CLASSES`.
        outline: The whole shape, also where it is covered or leaves the picture.
        visible: What is seen of it: one polygon or several, none with a hole.
    """

    label: int
    outline: Polygon
    visible: Polygon | MultiPolygon


@dataclass(frozen=True)
class Scene:
    """A picture and what it shows.

    Attributes:
        image: RGB, uint8, size x size x 3.
        instances: The shapes, back to front.
    """

    image: npt.NDArray[np.uint8]
    instances: tuple[Instance, ...]


def draw_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Makes up a picture of two or three shapes.

    Args:
        rng: Source of all chance: equal generators give equal scenes.
        size: Width and height in pixels, 64 or more; shapes scale with it.

    Returns:
        The picture and its shapes, back to front.

    Raises:
        UserError: ``size`` is below 64.
    """
    if size < MIN_SIZE:
        raise UserError(f"size is {size}, too small for shapes; write {MIN_SIZE} pixels or more.")
    instances = _place(rng, size)
    return Scene(_paint(rng, size, instances), instances)


# Placing


def _place(rng: np.random.Generator, size: int) -> tuple[Instance, ...]:
    """Places shapes one over another, as long as each of them stays recognisable."""
    frame = shapely.box(0, 0, size, size)
    # Drawn beforehand: classes that cover less of others would be placed more often.
    labels = rng.integers(len(CLASSES), size=rng.integers(MIN_SHAPES, MAX_SHAPES, endpoint=True))
    placed: list[Instance] = []
    for _ in range(_ATTEMPTS):
        label = int(labels[len(placed)])
        outline = _outline(rng, label, size)
        covered = [Instance(p.label, p.outline, p.visible.difference(outline)) for p in placed]
        attempt = [*covered, Instance(label, outline, outline.intersection(frame))]
        if all(map(_recognisable, attempt)):
            placed = attempt
        if len(placed) == len(labels):
            break
    return tuple(placed)


def _outline(rng: np.random.Generator, label: int, size: int) -> Polygon:
    """A shape of some size, more or less upright, most of it inside the picture."""
    radius = size * rng.uniform(*_DIAMETER) / 2
    corners, depth, first = {
        "circle": (64, 1.0, 0.0),
        "square": (4, 1.0, np.pi / 4),
        "triangle": (3, 1.0, -np.pi / 2),
        "star": (10, 0.45, -np.pi / 2),  # every other corner is drawn in
    }[CLASSES[label]]
    angles = first + rng.uniform(-_TILT, _TILT) + np.arange(corners) * (2 * np.pi / corners)
    radii = np.where(np.arange(corners) % 2, radius * depth, radius)
    margin = _INSIDE * radius
    centre = rng.uniform(margin, size - margin, 2)
    return Polygon(centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None])


def _recognisable(instance: Instance) -> bool:
    """Whether enough of a shape is seen, in pieces that polygons without holes describe."""
    visible = instance.visible
    if not isinstance(visible, Polygon | MultiPolygon):
        return False
    return (
        visible.area >= max(MIN_AREA, MIN_VISIBLE * instance.outline.area)
        and not any(part.interiors for part in parts(visible))
        and all(part.area >= MIN_PART_AREA for part in parts(visible))
    )


def parts(shape: Polygon | MultiPolygon) -> list[Polygon]:
    """The polygons a shape consists of."""
    return list(shape.geoms) if isinstance(shape, MultiPolygon) else [shape]


# Painting


def _paint(rng: np.random.Generator, size: int, instances: Sequence[Instance]) -> npt.NDArray[np.uint8]:
    """The finished picture: background, shapes back to front, lighting, sensor noise."""
    canvas = _background(rng, size)
    for instance in instances:
        coverage = _coverage(instance.outline, size)
        shadow = _shadow(rng, coverage)
        fill = _fill(rng, size, instance, canvas)
        canvas = canvas * (1 - shadow)
        canvas = canvas + (fill - canvas) * coverage
    light = 1 + rng.uniform(0.0, 0.3) * (_ramp(rng, size) - 0.5)
    noise = rng.normal(0, rng.uniform(0.005, 0.025), canvas.shape)
    return (np.clip(canvas * light[..., None] + noise, 0, 1) * 255).round().astype(np.uint8)


def _coverage(outline: Polygon, size: int) -> FloatArray:
    """Share of each pixel that a shape covers, 0 to 1, size x size x 1."""
    fine = Image.new("L", (size * _SUPERSAMPLING,) * 2)
    # Pillow puts a pixel's centre at its integer coordinate.
    corners = np.asarray(outline.exterior.coords) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(fine).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return np.asarray(fine.reduce(_SUPERSAMPLING), np.float32)[..., None] / 255


def _shadow(rng: np.random.Generator, coverage: FloatArray) -> FloatArray:
    """A soft shadow around a shape, as darkening from 0 to 1, size x size x 1."""
    size = len(coverage)
    cast = Image.fromarray((coverage[..., 0] * 255).astype(np.uint8))
    blurred = np.asarray(cast.filter(ImageFilter.GaussianBlur(0.012 * size)), np.float32)
    offset = (rng.uniform(-0.012, 0.012, 2) * size).round().astype(int)
    shadow: FloatArray = np.roll(blurred, tuple(offset), (0, 1))[..., None] / 255
    return rng.uniform(0.0, 0.5) * shadow


def _background(rng: np.random.Generator, size: int) -> FloatArray:
    """A muted surface of one of four kinds, size x size x 3."""
    pattern = (_ramp, _clouds, _stripes, _checks)[rng.integers(4)](rng, size)
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.25, 0.8)
    tones = [
        colorsys.hsv_to_rgb(
            hue + rng.uniform(-0.12, 0.12),
            saturation,
            np.clip(value + sign * rng.uniform(0.05, 0.2), 0.1, 0.95),
        )
        for sign in (-1, 1)
    ]
    dark, bright = np.asarray(tones)
    grain = 1 + rng.uniform(0.05, 0.3) * (_clouds(rng, size, coarsest=10) - 0.5)
    surface: FloatArray = (dark + (bright - dark) * pattern[..., None]) * grain[..., None]
    return surface


def _fill(rng: np.random.Generator, size: int, instance: Instance, canvas: FloatArray) -> FloatArray:
    """A shape's surface: a colour typical of its class that stands out from the canvas, shaded and textured."""
    left, top, right, bottom = np.clip(instance.outline.bounds, 0, size).astype(int)
    beneath = canvas[top : bottom + 1, left : right + 1].reshape(-1, 3)
    hues = (instance.label / len(CLASSES) + rng.normal(0, _HUE_SPREAD, 8)) % 1
    colours = [np.asarray(colorsys.hsv_to_rgb(hue, rng.uniform(0.35, 1), rng.uniform(0.3, 1))) for hue in hues]
    # Judged by what resembles it most, for a colour has to stand out from all it lies on.
    colour = max(colours, key=lambda c: np.percentile(np.linalg.norm(beneath - c, axis=1), 5))
    # The shading runs over the shape, not over the picture, and leaves the colour at its centre.
    ramp = _ramp(rng, size)
    x, y = instance.outline.centroid.coords[0]
    shading = (ramp - ramp[int(y), int(x)]) * (size / (right - left + bottom - top))
    texture = (_clouds, _stripes)[rng.integers(2)](rng, size) - 0.5
    surface = 1 + rng.uniform(0.1, 0.5) * shading + rng.uniform(0.0, 0.3) * texture
    fill: FloatArray = colour * np.clip(surface, 0.5, 1.5)[..., None]
    return fill


# Patterns: size x size, 0 to 1


def _axis(rng: np.random.Generator, size: int) -> tuple[FloatArray, FloatArray]:
    """Coordinates along a random direction and across it, -0.7 to 0.7 from the centre."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _stretch(pattern: FloatArray) -> FloatArray:
    """The same pattern from exactly 0 to exactly 1."""
    low, high = float(pattern.min()), float(pattern.max())
    return (pattern - low) / (high - low)


def _ramp(rng: np.random.Generator, size: int) -> FloatArray:
    """A smooth gradient."""
    along, _ = _axis(rng, size)
    return _stretch(along)


def _clouds(rng: np.random.Generator, size: int, coarsest: int = 3) -> FloatArray:
    """Blurred noise, four octaves of it."""
    octaves = [
        np.asarray(
            Image.fromarray(rng.random((cells, cells), np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        )
        / cells
        for cells in (coarsest, coarsest * 2, coarsest * 4, coarsest * 8)
    ]
    return _stretch(np.sum(octaves, axis=0))


def _stripes(rng: np.random.Generator, size: int) -> FloatArray:
    """Stripes, from wavy and soft to crisp."""
    along, _ = _axis(rng, size)
    return _wave(rng, along + rng.uniform(0, 0.08) * _clouds(rng, size))


def _checks(rng: np.random.Generator, size: int) -> FloatArray:
    """A tilted check or chequerboard."""
    along, across = _axis(rng, size)
    a, b = _wave(rng, along), _wave(rng, across)
    return a + b - 2 * a * b if rng.random() < 0.5 else (a + b) / 2


def _wave(rng: np.random.Generator, position: FloatArray) -> FloatArray:
    """Four to fourteen periods of a wave over a picture, its flanks soft or steep."""
    phase = position * (2 * np.pi * rng.uniform(4, 14)) + rng.uniform(0, 2 * np.pi)
    steepness = rng.uniform(0.5, 4)
    wave: FloatArray = np.tanh(steepness * np.sin(phase)) / np.tanh(steepness)
    return 0.5 + 0.5 * wave
