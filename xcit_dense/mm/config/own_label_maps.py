"""Uses a user's own label maps in a config for segmentation."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from xcit_dense.datasets.formats.label_maps import read_palette
from xcit_dense.datasets.formats.labels import LabelData
from xcit_dense.datasets.formats.meaning import interpret, with_classes_of
from xcit_dense.datasets.formats.splits import Layout, Split
from xcit_dense.datasets.formats.validation import Validation, split_off_labels
from xcit_dense.datasets.label_files import describe, write_label_maps, write_pairs
from xcit_dense.datasets.prepare import prepare
from xcit_dense.mm.config.dataset_class import classes_of, is_a
from xcit_dense.mm.config.splits import set_classes, set_splits
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.structures import Colour
from xcit_dense.visualization.draw import make_palette

_PAIRS_MODULE = "xcit_dense.mm.pairs_dataset"


def use_labels(
    config: Config,
    data: LabelData,
    given: list[str] | None,
    ignore_zero: bool,
    directory: Path,
    validation: Validation | None = None,
    keep_classes: bool = False,
    colours: Path | None = None,
) -> list[str]:
    """Changes a config for segmentation to read images and label maps.

    Args:
        config: A complete config, which is changed.
        data: The data set.
        given: The names of the classes, in the order of their values. None reads the names from the data.
        ignore_zero: Whether 0 marks pixels without a label, so that the classes start at 1.
        directory: Where label maps and lists of pairs are made, for example ``WORK_DIR/data``.
        validation: How to split validation images off the training images. None splits nothing off.
        keep_classes: Whether the config keeps its classes, as a test of a trained model needs. If so, the test uses the
            test split, or else the validation split, or else the only split.
        colours: A table of the colours in the label images. None uses the table of the data, if it has one.

    Returns:
        Sentences that describe the data.

    Raises:
        UserError: There are no label maps, or their values do not fit the classes.
    """
    if validation is not None:
        data = split_off_labels(data, validation)
        note = (
            f"--val-fraction {validation.fraction:g} has split the validation images off the training images, with "
            f"--seed {validation.seed}"
        )
        data = replace(data, notes=(*data.notes, note))
    if keep_classes:
        chosen = next(name for name in ("test", "val", *data.splits) if name in data.splits)
        data = replace(data, splits={"train": data.splits[chosen], "test": data.splits[chosen]}, layout=None)
        kept = classes_of(config, next(datasets_in(config.test_dataloader)))
        data = with_classes_of(interpret(data, given, ignore_zero=ignore_zero, colours=colours), kept)
    else:
        data = interpret(data, given, ignore_zero=ignore_zero, colours=colours)
    classes = list(data.classes or ())
    if data.layout:
        set_splits(config, data.root, data.layout, lambda split: _plain_dataset(split, data.ignore_zero))
    else:
        _use_pairs(config, data, directory)
    for node in dicts_in(config._cfg_dict):
        if is_a(config, node, "LoadAnnotations", TRANSFORMS):
            node["reduce_zero_label"] = data.ignore_zero
    set_classes(config, classes, _choose_palette(data, len(classes)))
    return describe(data)


def _plain_dataset(split: Split, ignore_zero: bool) -> dict[str, Any]:
    return {
        "type": "BaseSegDataset",  # other types accept only their own classes
        "data_prefix": {"img_path": split.images, "seg_map_path": split.annotations},
        "img_suffix": split.image_suffix,
        "seg_map_suffix": split.label_suffix,
        "reduce_zero_label": ignore_zero,
    }


def _use_pairs(config: Config, data: LabelData, directory: Path) -> None:
    """Writes lists of pairs, with label maps if the label images have to be converted, and uses the lists."""

    def write(part: Path) -> None:
        write_pairs(write_label_maps(data, part) if data.read_label else data.splits, part)

    labels = {data.root / pair.label for pairs in data.splits.values() for pair in pairs}
    sources = [path for path in (*labels, *data.sources) if path.is_file()]
    settings = {
        "root": str(data.root),
        "format": data.format,
        "classes": data.classes,
        "palette": data.palette,
        "table": str(data.table),
        "splits": {split: [asdict(pair) for pair in pairs] for split, pairs in data.splits.items()},
    }
    made = prepare(directory.absolute(), "labels", sources, settings, write)
    label_root = made if data.read_label else data.root
    splits = {name: Split(str(data.root), str(made / f"{name}.json")) for name in data.splits}
    absent = Split(str(data.root), str(made / "val.json"))
    set_splits(
        config,
        data.root,
        Layout(splits, absent),
        lambda split: {
            "type": "PairsDataset",
            "ann_file": split.annotations,
            "data_prefix": {"img_path": split.images, "seg_map_path": str(label_root)},
            "reduce_zero_label": data.ignore_zero,
        },
    )
    import_module(_PAIRS_MODULE)  # registers the data set
    imports = config.setdefault("custom_imports", {"imports": []})
    names = [imports.imports] if isinstance(imports.imports, str) else list(imports.imports)
    if _PAIRS_MODULE not in names:
        imports.imports = [*names, _PAIRS_MODULE]  # for processes that read the saved config


def _choose_palette(data: LabelData, count: int) -> list[Colour]:
    """The colours of the data, if they are different. A label map may contain a palette, which the user has chosen."""
    palette = list(data.palette or ())
    if not palette and not data.read_label:
        palette = read_palette(data.root / data.splits["train"][0].label)[int(data.ignore_zero) :][:count]
    return palette if len(set(palette)) == count else make_palette(count)
