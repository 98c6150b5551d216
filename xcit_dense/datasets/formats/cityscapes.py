"""Cityscapes' layout: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png."""

from __future__ import annotations

from pathlib import Path

from xcit_dense.datasets.formats.colours import Table, find_table
from xcit_dense.datasets.formats.label_maps import files_in, read_names
from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SPLITS
from xcit_dense.errors import UserError
from xcit_dense.structures import IGNORED, Colour

_IMAGES = ("leftImg8bit", "imgsFine/leftImg8bit")  # CVAT writes the second
_LABELS = "gtFine"
_ENDS = ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")

# The 19 classes of the benchmark: name, value in labelIds, colour. Source: cityscapesScripts, helpers/labels.py.
_CLASSES: tuple[tuple[str, int, Colour], ...] = (
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)), ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)), ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)), ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
)  # fmt: skip
_LAST = 33  # the largest value in labelIds


def find(root: Path) -> LabelData | None:
    """Finds images and label maps in Cityscapes' layout.

    The values of ``labelIds`` are read as Cityscapes defines them: its 19 classes have values from 7 to 33. Other
    values are ignored. If a file such as ``classes.txt`` or ``label_colors.txt`` names the classes, the values number
    the classes.

    Args:
        root: The data directory, with ``leftImg8bit`` and ``gtFine``.

    Returns:
        The data set. None if the directories do not exist.

    Raises:
        UserError: There is no training split, or images without a label map.
    """
    images = next((name for name in _IMAGES if (root / name).is_dir()), None)
    if images is None or not (root / _LABELS).is_dir():
        return None
    splits: dict[str, list[Pair]] = {}
    ends: set[str] = set()
    without = 0
    for split, names in SPLITS.items():
        for name in names:
            files = files_in(root / images / name, IMAGE_SUFFIXES)
            pairs, end = _find_pairs(root, f"{images}/{name}", f"{_LABELS}/{name}", files)
            if pairs:
                splits[split] = pairs
                ends.add(end)
                without += len(files) - len(pairs)
                break
    if "train" not in splits:
        raise UserError(
            f"No image in {root / images / 'train'} has a label map in {root / _LABELS / 'train'}; the names end with "
            f"_leftImg8bit.png and with {' or '.join(_ENDS)}."
        )
    if len(ends) > 1:
        raise UserError(
            f"Some splits in {root / _LABELS} have only {' and others only '.join(sorted(ends))}; give all the same."
        )
    notes = (f"{without} images without a label map are left out.",) if without else ()
    named = read_names(root)
    if named:
        return LabelData("Cityscapes' layout", root, splits, tuple(named[0]), ignore_zero=named[1], notes=notes)
    table = find_table([root])
    if table:  # its colours are the colours of gtFine_color, and labelIds has the numbers of its lines
        return LabelData("Cityscapes' layout", root, splits, table.classes, table.palette, notes=notes)
    classes = tuple(name for name, _, _ in _CLASSES)
    palette = tuple(colour for _, _, colour in _CLASSES)
    if ends == {_ENDS[0]}:
        return LabelData("Cityscapes", root, splits, classes, palette, notes=notes)
    values = dict.fromkeys((*range(_LAST + 1), IGNORED), IGNORED)
    for number, (_, value, _) in enumerate(_CLASSES):
        values[value] = number
    table = Table("Cityscapes' list of labels", classes, {}, values)
    note = (
        "The values of labelIds are read as the 19 classes of Cityscapes, and other values are ignored. If your values "
        "mean other classes, name the classes of all values in classes.txt."
    )
    return LabelData("Cityscapes", root, splits, palette=palette, table=table, notes=(*notes, note))


def _find_pairs(root: Path, images: str, labels: str, files: list[str]) -> tuple[list[Pair], str]:
    """The images that have a label map, and the end of the label maps' names."""
    for end in _ENDS:
        pairs = []
        for name in files:
            label = f"{labels}/{name.rpartition('_leftImg8bit')[0]}{end}"
            if (root / label).is_file():
                pairs.append(Pair(f"{images}/{name}", label))
        if pairs:
            return pairs, end
    return [], ""
