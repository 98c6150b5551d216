"""Published weights by name: ``xcit://coco/small_12_p16`` is an address, and a file once downloaded.

Source: the model tables of the original repository. ``224`` and ``384`` are training resolutions; ``dist`` marks models
distilled from a convolutional teacher. ``timm://xcit_small_12_p16_384.fb_dist_in1k`` names timm's copy of a classifier.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.variants import get_variant

SCHEME = "xcit://"
TIMM = "timm://"


@dataclass(frozen=True)
class Weights:
    """One published file of weights.

    Attributes:
        name: What to write after ``xcit://``.
        url: Its address.
        variant: A name of :data:`xcit_dense.VARIANTS`.
        task: ``'classification'`` (ImageNet-1k), ``'self-supervision'`` (DINO on ImageNet-1k), ``'detection'`` (Mask
            R-CNN on COCO) or ``'segmentation'`` (Semantic FPN or UperNet on ADE20K).
        metrics: The authors' figures, in percent, by name.
        config: This project's config for the whole model, relative to its root; None for a backbone alone.
        schedule: Length of the training of that whole model: ``'3x'`` is 36 epochs, ``'80k'`` 80 000 iterations.
    """

    name: str
    url: str
    variant: str
    task: str
    metrics: Mapping[str, float]
    config: str | None = None
    schedule: str | None = None


@dataclass(frozen=True)
class Family:
    """Weights of several variants, trained alike; :func:`expand` makes one variant's name, address and config.

    Attributes:
        name: Pattern of names.
        file: Pattern of addresses, relative to where all are.
        task: As in :class:`Weights`.
        metrics: Names of the figures.
        config: Pattern of configs, as in :class:`Weights`. Configs exist for every variant, weights for some.
        schedule: As in :class:`Weights`.
    """

    name: str
    file: str
    task: str
    metrics: tuple[str, ...]
    config: str | None = None
    schedule: str | None = None


_ROOT = "https://dl.fbaipublicfiles.com/xcit/"

FAMILIES = (
    Family("{variant}_224", "xcit_{variant}_224.pth", "classification", ("top-1",)),
    Family("{variant}_224_dist", "xcit_{variant}_224_dist.pth", "classification", ("top-1",)),
    Family("{variant}_384_dist", "xcit_{variant}_384_dist.pth", "classification", ("top-1",)),
    Family("dino/{variant}", "xcit_{size}_{depth}_c{patch}_dino.pth", "self-supervision", ("linear top-1",)),
    Family(
        name="coco/{variant}",
        file="coco/maskrcnn_xcit_{variant}.pth",
        task="detection",
        metrics=("box AP", "mask AP"),
        config="configs/detection/mask_rcnn_xcit_{short}.py",
        schedule="3x",
    ),
    Family(
        name="ade20k/sem_fpn/{variant}",
        file="ade/sem_fpn_xcit_{variant}.pth",
        task="segmentation",
        metrics=("mIoU",),
        config="configs/segmentation/sem_fpn_xcit_{short}.py",
        schedule="80k",
    ),
    Family(
        name="ade20k/upernet/{variant}",
        file="ade/upernet_xcit_{variant}.pth",
        task="segmentation",
        metrics=("mIoU",),
        config="configs/segmentation/upernet_xcit_{short}.py",
        schedule="160k",
    ),
)
"""What was published, in the order of the columns of the figures."""

# What else weights are found by: data, model and figures.
_WORDS = {
    "classification": "classification ImageNet top-1",
    "self-supervision": "self-supervision DINO ImageNet linear top-1",
    "detection": "detection COCO Mask R-CNN mask_rcnn box AP",
    "segmentation": "segmentation ADE20K mIoU",
}

# Figures of the families above, in their order; "-": not published.
#               224  224d 384d  DINO  box mask   FPN  UPer
_FIGURES = """
nano_12_p16    69.9 72.2 75.4     -    -    -     -    -
nano_12_p8     73.8 76.3 77.8     -    -    -     -    -
tiny_12_p16    77.1 78.6 80.9     - 42.7 38.5  38.1 41.5
tiny_12_p8     79.7 81.2 82.4     - 44.5 40.3  39.9 43.5
tiny_24_p16    79.4 80.4 82.6     -    -    -     -    -
tiny_24_p8     81.9 82.6 83.7     -    -    -     -    -
small_12_p16   82.0 83.3 84.7  77.8 45.3 40.8  43.9 45.9
small_12_p8    83.4 84.2 85.1  79.2 47.0 42.3  44.2 46.6
small_24_p16   82.6 83.9 85.1     - 46.5 41.8  44.6 46.9
small_24_p8    83.9 84.9 85.6     - 48.1 43.0  47.1 48.1
medium_24_p16  82.7 84.3 85.4  78.8 46.7 42.0  45.9 47.6
medium_24_p8   83.7 85.1 85.8  80.3 48.5 43.7  46.9 48.4
large_24_p16   82.9 84.9 85.8     -    -    -     -    -
large_24_p8    84.4 85.4 86.0     -    -    -     -    -
"""


def expand(pattern: str, variant: str) -> str:
    """Puts a variant into a pattern of a :class:`Family`.

    Args:
        pattern: With any of ``{variant}`` (``small_12_p8``), its parts ``{size}_{depth}_{patch}``, and ``{short}``, its
            name in configs (``s12_p8``; ``s12`` for patches of 16 pixels).
        variant: A name of :data:`xcit_dense.VARIANTS`.
    """
    size, depth, patch = variant.split("_")
    short = f"{size[0]}{depth}" + ("" if patch == "p16" else f"_{patch}")
    return pattern.format(variant=variant, size=size, depth=depth, patch=patch, short=short)


def _zoo() -> dict[str, Weights]:
    rows = [row.split() for row in _FIGURES.split("\n") if row]
    found = []
    column = 1
    for family in FAMILIES:
        following = column + len(family.metrics)
        for variant, figures in ((row[0], row[column:following]) for row in rows):
            if "-" not in figures:
                config = family.config and expand(family.config, variant)
                name, url = expand(family.name, variant), _ROOT + expand(family.file, variant)
                metrics = dict(zip(family.metrics, map(float, figures)))
                found.append(Weights(name, url, variant, family.task, metrics, config, family.schedule))
        column = following
    return {weights.name: weights for weights in found}


ZOO: dict[str, Weights] = _zoo()
"""The 70 published weights by name."""


def list_weights(pattern: str = "*", *, variant: str | None = None, task: str | None = None) -> list[str]:
    """Names of published weights, each to be written after ``xcit://``.

    Args:
        pattern: Shell pattern that the whole name matches: ``'*_384_dist'``, ``'coco/*'``.
        variant: Only those of this variant, a name of :data:`xcit_dense.VARIANTS`.
        task: Only those for this task: ``'classification'``, ``'self-supervision'``, ``'detection'`` or
            ``'segmentation'``.

    Returns:
        The names, in the order of :data:`ZOO`; none if none fits.

    Raises:
        UserError: No such variant or task; the message lists those there are.
    """
    tasks = list(dict.fromkeys(family.task for family in FAMILIES))
    if task is not None and task not in tasks:
        raise UserError(did_you_mean("task", task, tasks))
    if variant is not None:
        get_variant(variant)
        variant = variant.removeprefix("xcit_")
    return [
        name
        for name, weights in ZOO.items()
        if fnmatchcase(name, pattern) and variant in (None, weights.variant) and task in (None, weights.task)
    ]


def search_weights(words: Sequence[str]) -> list[Weights]:
    """Finds published weights by words.

    Args:
        words: Parts of a name (``'small'``, ``'p8'``, ``'dist'``, ``'small_12'``), a task, a data set (``'coco'``), a
            head or a figure's name; shell patterns are possible. Case does not matter.

    Returns:
        The weights that have every word, in the order of :data:`ZOO`.

    Raises:
        UserError: No weights have one of the words, or none have all of them.
    """
    texts = {
        name: _normal(f"{name} {expand('{variant} {short}', weights.variant)} {_WORDS[weights.task]}")
        for name, weights in ZOO.items()
    }
    left = list(ZOO)
    for word in words:
        pattern = f"*_{_normal(word.removeprefix(SCHEME))}_*"
        having = [name for name in ZOO if fnmatchcase(f"_{texts[name]}_", pattern)]
        if not having:
            known = dict.fromkeys(part for text in texts.values() for part in text.split("_"))
            near = difflib.get_close_matches(word.lower(), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"No published weights have the word {word!r}.{hint} Try a size (small), a patch (p8), a task, data "
                "(coco) or a head (upernet)."
            )
        left = [name for name in left if name in having]
    if not left:
        raise UserError(f"No published weights have all of {', '.join(words)}; leave one out.")
    return [ZOO[name] for name in left]


def _normal(text: str) -> str:
    return re.sub(r"[^a-z0-9*?]+", "_", text.lower()).strip("_")
