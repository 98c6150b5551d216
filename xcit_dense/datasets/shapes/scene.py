"""Draws one image of the shapes data set: shapes are placed, then painted over a textured background.

Coordinates are pixels, x to the right and y down. Pixel ``i`` covers ``i`` to ``i + 1``. Colours are RGB in [0, 1]
until the image is finished. All random numbers come from the generator that the caller passes in.
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
MIN_SIZE = 64  # pixels; in smaller images, the classes of shapes look alike
MIN_SHAPES, MAX_SHAPES = 2, 3
MIN_VISIBLE = 0.8  # the visible share of a shape's area
MIN_AREA = 60.0  # square pixels, of the visible part of a shape
MIN_PART_AREA = 8.0  # square pixels, of each piece of a shape that another shape divides

_DIAMETER = (0.36, 0.62)  # of the circle around a shape, as a share of the image's size
_INSIDE = 0.6  # distance of a centre from the image's border, in radii; the border may cut off the rest
_TILT = np.pi / 6  # the largest rotation from upright, to either side
# The standard deviation of a shape's hue around the hue of its class. The hues of two classes are at least 0.25 apart,
# so the colour reveals the class of nearly every shape. Training on outlines only takes too long for a demo.
_HUE_SPREAD = 0.06
_ATTEMPTS = 100  # to place all shapes of an image; then the image has fewer shapes
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Instance:
    """A shape with its place.

    Attributes:
        label: The class, an index into `CLASSES`.
        outline: The complete shape, including parts that other shapes cover or that are outside the image.
        visible: The visible part: one polygon or several polygons, without holes.
    """

    label: int
    outline: Polygon
    visible: Polygon | MultiPolygon


@dataclass(frozen=True)
class Scene:
    """An image and its shapes.

    Attributes:
        image: (size, size, 3), RGB, uint8.
        instances: The shapes, from back to front.
    """

    image: npt.NDArray[np.uint8]
    instances: tuple[Instance, ...]


def draw_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draws a random image of two or three shapes.

    Args:
        rng: The source of all random numbers. Equal generators give equal scenes.
        size: Width and height in pixels, 64 or more. The shapes scale with the size.

    Returns:
        The image and its shapes.

    Raises:
        UserError: ``size`` is below 64.

    Example:
        >>> scene = draw_scene(np.random.default_rng(0), size=96)
        >>> scene.image.shape
        (96, 96, 3)
        >>> [CLASSES[instance.label] for instance in scene.instances]
        ['triangle', 'triangle', 'square']
    """
    if size < MIN_SIZE:
        raise UserError(f"size is {size}, too small for shapes; write {MIN_SIZE} pixels or more.")
    instances = _place(rng, size)
    return Scene(_paint(rng, size, instances), instances)


# Placing


def _place(rng: np.random.Generator, size: int) -> tuple[Instance, ...]:
    """Places shapes on top of each other. A shape that makes another shape unrecognisable is dropped."""
    frame = shapely.box(0, 0, size, size)
    # The labels are chosen first. Otherwise classes that cover less of other shapes would be more frequent.
    labels = rng.integers(len(CLASSES), size=rng.integers(MIN_SHAPES, MAX_SHAPES, endpoint=True))
    placed: list[Instance] = []
    for _ in range(_ATTEMPTS):
        label = int(labels[len(placed)])
        outline = _outline(rng, label, size)
        covered = [Instance(p.label, p.outline, p.visible.difference(outline)) for p in placed]
        attempt = [*covered, Instance(label, outline, outline.intersection(frame))]
        if all(map(_is_recognisable, attempt)):
            placed = attempt
        if len(placed) == len(labels):
            break
    return tuple(placed)


def _outline(rng: np.random.Generator, label: int, size: int) -> Polygon:
    """A shape of random size and place, nearly upright, most of it inside the image."""
    radius = size * rng.uniform(*_DIAMETER) / 2
    corners, depth, first = {
        "circle": (64, 1.0, 0.0),
        "square": (4, 1.0, np.pi / 4),
        "triangle": (3, 1.0, -np.pi / 2),
        "star": (10, 0.45, -np.pi / 2),  # every second corner is closer to the centre
    }[CLASSES[label]]
    angles = first + rng.uniform(-_TILT, _TILT) + np.arange(corners) * (2 * np.pi / corners)
    radii = np.where(np.arange(corners) % 2, radius * depth, radius)
    margin = _INSIDE * radius
    centre = rng.uniform(margin, size - margin, 2)
    return Polygon(centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None])


def _is_recognisable(instance: Instance) -> bool:
    """Whether enough of a shape is visible, in pieces that are polygons without holes."""
    visible = instance.visible
    if not isinstance(visible, Polygon | MultiPolygon):
        return False
    return (
        visible.area >= max(MIN_AREA, MIN_VISIBLE * instance.outline.area)
        and not any(part.interiors for part in parts(visible))
        and all(part.area >= MIN_PART_AREA for part in parts(visible))
    )


def parts(shape: Polygon | MultiPolygon) -> list[Polygon]:
    """Splits a shape into its polygons.

    Args:
        shape: A shape of one or several polygons.

    Returns:
        The polygons.
    """
    return list(shape.geoms) if isinstance(shape, MultiPolygon) else [shape]


# Painting


def _paint(rng: np.random.Generator, size: int, instances: Sequence[Instance]) -> npt.NDArray[np.uint8]:
    """Paints the image: background, shapes from back to front, lighting, sensor noise."""
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
    """The share of each pixel that a shape covers: (size, size, 1), in [0, 1]."""
    fine = Image.new("L", (size * _SUPERSAMPLING,) * 2)
    # In Pillow, integer coordinates are the centres of pixels.
    corners = np.asarray(outline.exterior.coords) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(fine).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return np.asarray(fine.reduce(_SUPERSAMPLING), np.float32)[..., None] / 255


def _shadow(rng: np.random.Generator, coverage: FloatArray) -> FloatArray:
    """A soft shadow around a shape: (size, size, 1), from 0 (unchanged) to 1 (black)."""
    size = len(coverage)
    cast = Image.fromarray((coverage[..., 0] * 255).astype(np.uint8))
    blurred = np.asarray(cast.filter(ImageFilter.GaussianBlur(0.012 * size)), np.float32)
    offset = (rng.uniform(-0.012, 0.012, 2) * size).round().astype(int)
    shadow: FloatArray = np.roll(blurred, tuple(offset), (0, 1))[..., None] / 255
    return rng.uniform(0.0, 0.5) * shadow


def _background(rng: np.random.Generator, size: int) -> FloatArray:
    """A background in muted colours, with one of four patterns: (size, size, 3)."""
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
    """The surface of a shape: a colour of its class that differs from the canvas, with shading and texture."""
    left, top, right, bottom = np.clip(instance.outline.bounds, 0, size).astype(int)
    beneath = canvas[top : bottom + 1, left : right + 1].reshape(-1, 3)
    hues = (instance.label / len(CLASSES) + rng.normal(0, _HUE_SPREAD, 8)) % 1
    colours = [np.asarray(colorsys.hsv_to_rgb(hue, rng.uniform(0.35, 1), rng.uniform(0.3, 1))) for hue in hues]
    # The colour must differ from every colour behind the shape, so the most similar ones decide.
    colour = max(colours, key=lambda c: np.percentile(np.linalg.norm(beneath - c, axis=1), 5))
    # The shading extends over the shape, not over the image, and is neutral at the centre of the shape.
    ramp = _ramp(rng, size)
    x, y = instance.outline.centroid.coords[0]
    shading = (ramp - ramp[int(y), int(x)]) * (size / (right - left + bottom - top))
    texture = (_clouds, _stripes)[rng.integers(2)](rng, size) - 0.5
    surface = 1 + rng.uniform(0.1, 0.5) * shading + rng.uniform(0.0, 0.3) * texture
    fill: FloatArray = colour * np.clip(surface, 0.5, 1.5)[..., None]
    return fill


# Patterns: (size, size), in [0, 1]


def _axis(rng: np.random.Generator, size: int) -> tuple[FloatArray, FloatArray]:
    """Coordinates along a random direction and across the direction, in [-0.71, 0.71], 0 at the centre."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _stretch(pattern: FloatArray) -> FloatArray:
    """Scales a pattern, so that its values reach from exactly 0 to exactly 1."""
    low, high = float(pattern.min()), float(pattern.max())
    return (pattern - low) / (high - low)


def _ramp(rng: np.random.Generator, size: int) -> FloatArray:
    """A smooth gradient."""
    along, _ = _axis(rng, size)
    return _stretch(along)


def _clouds(rng: np.random.Generator, size: int, coarsest: int = 3) -> FloatArray:
    """Blurred noise of four octaves."""
    octaves = [
        np.asarray(
            Image.fromarray(rng.random((cells, cells), np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        )
        / cells
        for cells in (coarsest, coarsest * 2, coarsest * 4, coarsest * 8)
    ]
    return _stretch(np.sum(octaves, axis=0))


def _stripes(rng: np.random.Generator, size: int) -> FloatArray:
    """Stripes: straight or wavy, with soft or hard edges."""
    along, _ = _axis(rng, size)
    return _wave(rng, along + rng.uniform(0, 0.08) * _clouds(rng, size))


def _checks(rng: np.random.Generator, size: int) -> FloatArray:
    """A rotated check pattern or chequerboard."""
    along, across = _axis(rng, size)
    a, b = _wave(rng, along), _wave(rng, across)
    return a + b - 2 * a * b if rng.random() < 0.5 else (a + b) / 2


def _wave(rng: np.random.Generator, position: FloatArray) -> FloatArray:
    """A wave of 4 to 14 periods over the image, with soft or hard edges."""
    phase = position * (2 * np.pi * rng.uniform(4, 14)) + rng.uniform(0, 2 * np.pi)
    steepness = rng.uniform(0.5, 4)
    wave: FloatArray = np.tanh(steepness * np.sin(phase)) / np.tanh(steepness)
    return 0.5 + 0.5 * wave
