"""Published weights by name: ``xcit://coco/small_12_p16`` is an address, and a file once downloaded.

Source: the model tables of the original repository. ``224`` and ``384`` are training resolutions; ``dist`` marks models
distilled from a convolutional teacher. ``timm://xcit_small_12_p16_384.fb_dist_in1k`` names timm's copy of a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from xcit_dense.errors import UserError, did_you_mean, nearest
from xcit_dense.variants import get_variant

SCHEME = "xcit://"
TIMM = "timm://"


@dataclass(frozen=True)
class Weights:
    """One published file of weights.

    Attributes:
        name: The name after ``xcit://``.
        url: The address of the file.
        variant: A name of :data:`xcit_dense.VARIANTS`.
        task: ``'classification'`` (ImageNet-1k), ``'self-supervision'`` (DINO on ImageNet-1k), ``'detection'`` (Mask
            R-CNN on COCO) or ``'segmentation'`` (Semantic FPN or UperNet on ADE20K).
        metrics: The published figures in percent, by name.
        config: The config of the detector or segmentor, relative to the root of the project. None for a backbone.
        schedule: The length of the training of the detector or segmentor: ``'3x'`` is 36 epochs, ``'80k'`` is 80 000
            iterations.
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
    """Weights of several variants with the same training. :func:`expand` fills a pattern for one variant.

    Attributes:
        name: The pattern of the names.
        file: The pattern of the addresses, relative to the common root.
        task: As in :class:`Weights`.
        metrics: The names of the figures.
        config: The pattern of the configs, as in :class:`Weights`. Every variant has a config; some have weights.
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
"""The families of published weights, in the order of the columns of the figures."""

# Further words by which search_weights finds weights: the data set, the model and the figures.
_WORDS = {
    "classification": "classification ImageNet top-1",
    "self-supervision": "self-supervision DINO ImageNet linear top-1",
    "detection": "detection COCO Mask R-CNN mask_rcnn box AP",
    "segmentation": "segmentation ADE20K mIoU",
}

# The figures of the families above, in the same order. "-" is a weight that was not published.
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
        pattern: A text with any of ``{variant}`` (``small_12_p8``), its parts ``{size}``, ``{depth}`` and ``{patch}``,
            and ``{short}``, the name in configs (``s12_p8``, or ``s12`` for patches of 16 pixels).
        variant: A name in :data:`xcit_dense.VARIANTS`.

    Returns:
        The text with the variant.

    Example:
        >>> expand("configs/detection/mask_rcnn_xcit_{short}.py", "small_12_p8")
        'configs/detection/mask_rcnn_xcit_s12_p8.py'
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
    """Lists the names of published weights. Write a name after ``xcit://``.

    Args:
        pattern: A shell pattern that must match the complete name: ``'*_384_dist'``, ``'coco/*'``.
        variant: Lists only the weights of this variant, a name in :data:`xcit_dense.VARIANTS`.
        task: Lists only the weights for this task: ``'classification'``, ``'self-supervision'``, ``'detection'`` or
            ``'segmentation'``.

    Returns:
        The names, in the order of :data:`ZOO`. The list is empty if no weight fits.

    Raises:
        UserError: The variant or the task is unknown. The message lists the valid names.

    Example:
        >>> list_weights("*_384_dist", variant="small_12_p16")
        ['small_12_p16_384_dist']
        >>> list_weights(variant="small_12_p16", task="segmentation")
        ['ade20k/sem_fpn/small_12_p16', 'ade20k/upernet/small_12_p16']
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
            head or the name of a figure. A word may be a shell pattern. Upper and lower case are the same.

    Returns:
        The weights that match every word, in the order of :data:`ZOO`.

    Raises:
        UserError: No published weights match one of the words, or all of them together.

    Example:
        >>> [weights.name for weights in search_weights(["coco", "small", "p8"])]
        ['coco/small_12_p8', 'coco/small_24_p8']
        >>> search_weights(["upernet", "medium", "p8"])[0].metrics
        {'mIoU': 48.4}
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
            near = nearest(word.lower(), known)
            hint = f" Did you mean {near!r}?" if near else ""
            raise UserError(
                f"No published weights match the word {word!r}.{hint} Try a size (small), a patch size (p8), a task, a "
                "data set (coco) or a head (upernet)."
            )
        left = [name for name in left if name in having]
    if not left:
        raise UserError(f"No published weights match all of {', '.join(words)}; leave one out.")
    return [ZOO[name] for name in left]


def _normal(text: str) -> str:
    return re.sub(r"[^a-z0-9*?]+", "_", text.lower()).strip("_")
