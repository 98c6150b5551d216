"""Published weights by name: ``xcit://coco/small_12_p16`` is an address, and a file once downloaded.

Sources: the model tables of the original repositories. ``224``, ``384`` and so on are training resolutions.

- XCiT (facebookresearch/xcit): ``dist`` marks models distilled from a convolutional teacher.
- BEiT and BEiT v2 (microsoft/unilm): ``pt`` is the data of the self-supervised training, ``ft`` the data of the
  classification after it: ``1k``, ``21k`` and ``22k`` are ImageNet-1k and ImageNet-22k.
- CaiT (facebookresearch/deit).
- CoaT (mlpc-ucsd/CoaT).

``timm://xcit_small_12_p16_384.fb_dist_in1k`` names timm's copy of a classifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from xcit_dense.errors import UserError, did_you_mean, nearest

SCHEME = "xcit://"
TIMM = "timm://"
HUB = "hf://"
"""The scheme of repositories of the Hugging Face hub, which :mod:`xcit_dense.weights.hub` downloads."""


@dataclass(frozen=True)
class Weights:
    """One published file of weights.

    Attributes:
        name: The name after ``xcit://``.
        url: The address of the file.
        variant: The variant of the backbone: ``backbone(variant)`` is the model that loads the file. For XCiT, a name
            of :data:`xcit_dense.VARIANTS`; for TokenPyramid, a name of timm.
        task: ``'classification'`` (ImageNet), ``'self-supervision'`` (on ImageNet), ``'detection'`` (Mask R-CNN or
            Cascade Mask R-CNN on COCO) or ``'segmentation'`` (Semantic FPN or UperNet on ADE20K).
        metrics: The published figures in percent, by name. Empty if no figure was published.
        config: The config of the detector or segmentor, relative to the root of the project. None for a backbone.
        schedule: The length of the training of the detector or segmentor: ``'3x'`` is 36 epochs, ``'80k'`` is 80 000
            iterations of 16 images.
        backbone: The class of the backbone: ``'XCiT'``, ``'TokenPyramid'`` or ``'CoaT'``.
        sha256: The first digits of the file's SHA-256, if the authors published them.
    """

    name: str
    url: str
    variant: str
    task: str
    metrics: Mapping[str, float]
    config: str | None = None
    schedule: str | None = None
    backbone: str = "XCiT"
    sha256: str | None = None

    @property
    def architecture(self) -> str:
        """The name of the backbone's architecture: ``'XCiT'``, ``'BEiT'``, ``'BEiTv2'``, ``'CaiT'``, ``'CoaT'``."""
        return _ARCHITECTURES.get(self.variant.partition("_")[0], "XCiT")


_ARCHITECTURES = {"beit": "BEiT", "beitv2": "BEiTv2", "cait": "CaiT", "coat": "CoaT"}


@dataclass(frozen=True)
class Family:
    """Weights of several variants of XCiT with the same training. :func:`expand` fills a pattern for one variant.

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
"""The families of XCiT's published weights, in the order of the columns of the figures."""

# Further words by which search_weights finds weights: the data set, the model and the figures.
_WORDS = {
    "classification": "classification ImageNet top-1",
    "self-supervision": "self-supervision ImageNet",
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


# In the tables below, "-" is a figure that was not published.

_BEIT_ROOT = "https://github.com/addf400/files/releases/download/"

# Name of the pretraining or classifier, and top-1 and top-5 on ImageNet-1k.
_BEIT = """
beit_base_patch16_224_pt1k_800ep             -     -
beit_base_patch16_224_pt22k                  -     -
beit_base_patch16_224_pt22k_ft1k          83.7  96.6
beit_base_patch16_224_pt22k_ft22k            -     -
beit_base_patch16_224_pt22k_ft22kto1k     85.2  97.6
beit_base_patch16_384_pt22k_ft22kto1k     86.8  98.1
beit_large_patch16_224_pt22k                 -     -
beit_large_patch16_224_pt22k_ft1k         86.0  97.6
beit_large_patch16_224_pt22k_ft22k           -     -
beit_large_patch16_224_pt22k_ft22kto1k    87.4  98.3
beit_large_patch16_384_pt22k_ft22kto1k    88.4  98.6
beit_large_patch16_512_pt22k_ft22kto1k    88.6 98.66
beitv2_base_patch16_224_pt1k                 -     -
beitv2_base_patch16_224_pt1k_ft1k         85.5  97.5
beitv2_base_patch16_224_pt1k_ft21k           -     -
beitv2_base_patch16_224_pt1k_ft21kto1k    86.5  98.0
beitv2_large_patch16_224_pt1k                -     -
beitv2_large_patch16_224_pt1k_ft1k        87.3  98.2
beitv2_large_patch16_224_pt1k_ft21k          -     -
beitv2_large_patch16_224_pt1k_ft21kto1k   88.4  98.6
"""

# Name of the segmentor, file, and mIoU on ADE20K: on one size, and on six sizes, each of them mirrored too.
_BEIT_ADE20K = """
beit_base        beit_base_patch16_640_pt22k_ft22ktoade20k        53.6  54.2
beit_large       beit_large_patch16_640_pt22k_ft22ktoade20k       56.7  57.0
beitv2_base      beitv2_base_patch16_224_pt1k_ft21ktoade20k       53.5     -
beitv2_base_1k   beitv2_base_patch16_224_pt1k_ftade20k            53.1     -
beitv2_large     beitv2_large_patch16_224_pt1k_ft21ktoade20k      57.5     -
beitv2_large_1k  beitv2_large_patch16_224_pt1k_ftade20k           56.7     -
"""

_CAIT_ROOT = "https://dl.fbaipublicfiles.com/deit/"

# Name of the classifier, and top-1 on ImageNet-1k.
_CAIT = """
cait_xxs24_224     -
cait_xxs24_384     -
cait_xxs36_224     -
cait_xxs36_384     -
cait_xs24_384   84.1
cait_s24_224    83.5
cait_s24_384    85.1
cait_s36_384    85.4
cait_m36_384    86.1
cait_m48_448    86.5
"""

_COAT_ROOT = "https://vcl.ucsd.edu/coat/pretrained/"

# Variant, training resolution, beginning of the SHA-256, and top-1 and top-5 on ImageNet-1k.
_COAT = """
coat_lite_tiny    224 e88e96b0  77.5 93.8
coat_lite_mini    224 6b4a8ae5  79.1 94.5
coat_lite_small   224 8d362f48  81.9 95.5
coat_lite_medium  224 a750cd63  83.6 96.7
coat_lite_medium  384 f9129688  84.5 97.1
coat_tiny         224 c6efc33c  78.3 94.0
coat_mini         224 40667eec  81.0 95.2
coat_small        224 7479cf9b  82.1 96.1
"""

# Head, variant, schedule, beginning of the SHA-256, and box AP and mask AP on COCO.
_COAT_COCO = """
mask_rcnn          coat_lite_mini   1x 85230aa4  41.4 38.0
mask_rcnn          coat_lite_mini   3x 564e80d7  42.9 38.9
mask_rcnn          coat_lite_small  1x 4c9c3f44  45.2 40.7
mask_rcnn          coat_lite_small  3x c7da01b6  45.7 41.1
mask_rcnn          coat_mini        1x 30d8566d  45.1 40.6
mask_rcnn          coat_mini        3x 67e59b6f  46.5 41.8
mask_rcnn          coat_small       1x 7396027e  46.5 41.8
mask_rcnn          coat_small       3x 1152829c  49.0 43.7
cascade_mask_rcnn  coat_lite_small  1x 2ab58e20  49.1 42.5
cascade_mask_rcnn  coat_lite_small  3x 3d224926  48.9 42.6
cascade_mask_rcnn  coat_small       1x 3185cd67  50.4 43.5
cascade_mask_rcnn  coat_small       3x 4f7a069e  52.2 45.1
"""


def _rows(table: str) -> list[list[str]]:
    return [row.split() for row in table.split("\n") if row]


def _metrics(names: Sequence[str], figures: Sequence[str]) -> dict[str, float]:
    return {name: float(figure) for name, figure in zip(names, figures) if figure != "-"}


def _xcit() -> Iterator[Weights]:
    column = 1
    for family in FAMILIES:
        following = column + len(family.metrics)
        for variant, figures in ((row[0], row[column:following]) for row in _rows(_FIGURES)):
            if "-" not in figures:
                config = family.config and expand(family.config, variant)
                name, url = expand(family.name, variant), _ROOT + expand(family.file, variant)
                yield Weights(
                    name, url, variant, family.task, _metrics(family.metrics, figures), config, family.schedule
                )
        column = following


def _beit() -> Iterator[Weights]:
    def url(file: str) -> str:
        return f"{_BEIT_ROOT}{'BEiT-v2' if file.startswith('beitv2') else 'v1.0'}/{file}.pth"

    for name, *figures in _rows(_BEIT):
        yield Weights(
            name,
            url(name),
            variant="_".join(name.split("_")[:4]),
            task="classification" if "_ft" in name else "self-supervision",
            metrics=_metrics(("top-1", "top-5"), figures),
            backbone="TokenPyramid",
        )
    for name, file, *figures in _rows(_BEIT_ADE20K):
        version, size, *data = name.split("_")
        yield Weights(
            f"ade20k/upernet/{name}",
            url(file),
            variant=f"{version}_{size}_patch16_224",
            task="segmentation",
            metrics=_metrics(("mIoU", "mIoU of six sizes"), figures),
            config=f"configs/segmentation/upernet_{'_'.join([version, size[0], *data])}.py",
            schedule="160k",
            backbone="TokenPyramid",
        )


def _cait() -> Iterator[Weights]:
    for name, *figures in _rows(_CAIT):
        url = f"{_CAIT_ROOT}{name.removeprefix('cait_').upper()}.pth"
        yield Weights(name, url, name, "classification", _metrics(("top-1",), figures), backbone="TokenPyramid")


def _coat() -> Iterator[Weights]:
    for variant, size, digits, *figures in _rows(_COAT):
        suffix = "" if size == "224" else f"_{size}x{size}"
        yield Weights(
            variant if size == "224" else f"{variant}_{size}",
            f"{_COAT_ROOT}{variant}{suffix}_{digits}.pth",
            variant,
            task="classification",
            metrics=_metrics(("top-1", "top-5"), figures),
            backbone="CoaT",
            sha256=digits,
        )
    for head, variant, schedule, digits, *figures in _rows(_COAT_COCO):
        name = variant if schedule == "3x" else f"{variant}_{schedule}"
        recipe = "mstrain_480-800_" + ("giou_4conv1f_" if head.startswith("cascade") else "") + f"adamw_{schedule}_coco"
        yield Weights(
            f"coco/{head}/{name}",
            f"{_COAT_ROOT}tasks/mmdet/{head}_{variant}_{recipe}_{digits}.pth",
            variant,
            task="detection",
            metrics=_metrics(("box AP", "mask AP"), figures),
            config=f"configs/detection/{head}_{name}.py",
            schedule=schedule,
            backbone="CoaT",
            sha256=digits,
        )


ZOO: dict[str, Weights] = {weights.name: weights for weights in (*_xcit(), *_beit(), *_cait(), *_coat())}
"""The 126 published weights by name: 70 of XCiT, 26 of BEiT and BEiT v2, 10 of CaiT, 20 of CoaT."""


def list_weights(
    pattern: str = "*", *, variant: str | None = None, task: str | None = None, backbone: str | None = None
) -> list[str]:
    """Lists the names of published weights. Write a name after ``xcit://``.

    Args:
        pattern: A shell pattern that must match the complete name: ``'*_384_dist'``, ``'coco/*'``.
        variant: Lists only the weights of this variant: a name in :data:`xcit_dense.VARIANTS`, a name of timm
            (``'beit_base_patch16_224'``), or a variant of CoaT (``'coat_small'``).
        task: Lists only the weights for this task: ``'classification'``, ``'self-supervision'``, ``'detection'`` or
            ``'segmentation'``.
        backbone: Lists only the weights of this class: ``'XCiT'``, ``'TokenPyramid'`` or ``'CoaT'``.

    Returns:
        The names, in the order of :data:`ZOO`. The list is empty if no weight fits.

    Raises:
        UserError: The variant, the task or the backbone is unknown. The message lists the valid names.

    Example:
        >>> list_weights("*_384_dist", variant="small_12_p16")
        ['small_12_p16_384_dist']
        >>> list_weights(variant="small_12_p16", task="segmentation")
        ['ade20k/sem_fpn/small_12_p16', 'ade20k/upernet/small_12_p16']
    """
    variant = variant and variant.removeprefix("xcit_")
    asked = {"variant": variant, "task": task, "backbone": backbone}
    for field, value in asked.items():
        known = dict.fromkeys(getattr(weights, field) for weights in ZOO.values())
        if value is not None and value not in known:
            raise UserError(did_you_mean(field, value, known))
    return [
        name
        for name, weights in ZOO.items()
        if fnmatchcase(name, pattern)
        and all(value in (None, getattr(weights, field)) for field, value in asked.items())
    ]


def search_weights(words: Sequence[str]) -> list[Weights]:
    """Finds published weights by words.

    Args:
        words: Parts of a name (``'small'``, ``'p8'``, ``'dist'``, ``'small_12'``), a task, a data set (``'coco'``), a
            head, the name of a figure or an architecture (``'coat'``). A word may be a shell pattern. Upper and lower
            case are the same.

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
    texts = {name: _text(weights) for name, weights in ZOO.items()}
    left = list(ZOO)
    for word in words:
        pattern = f"*_{_normal(word.removeprefix(SCHEME))}_*"
        having = [name for name in ZOO if fnmatchcase(f"_{texts[name]}_", pattern)]
        if not having:
            known = dict.fromkeys(part for text in texts.values() for part in text.split("_"))
            near = nearest(word.lower(), known)
            hint = f" Did you mean {near!r}?" if near else ""
            raise UserError(
                f"No published weights match the word {word!r}.{hint} Try a backbone (coat), a size (small), a patch "
                "size (p8), a task, a data set (coco) or a head (upernet)."
            )
        left = [name for name in left if name in having]
    if not left:
        raise UserError(f"No published weights match all of {', '.join(words)}; leave one out.")
    return [ZOO[name] for name in left]


def _text(weights: Weights) -> str:
    """Joins the words by which weights are found."""
    short = expand("{short}", weights.variant) if weights.backbone == "XCiT" else ""
    return _normal(
        f"{weights.name} {weights.variant} {short} {weights.backbone} {weights.architecture} {_WORDS[weights.task]} "
        f"{' '.join(weights.metrics)} {weights.schedule or ''}"
    )


def _normal(text: str) -> str:
    return re.sub(r"[^a-z0-9*?]+", "_", text.lower()).strip("_")
