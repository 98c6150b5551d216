"""Uses a user's own label maps in a config for segmentation."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from xcit_dense.datasets.formats.label_maps import read_palette
from xcit_dense.datasets.formats.labels import LabelData
from xcit_dense.datasets.formats.meaning import interpret
from xcit_dense.datasets.formats.splits import Layout, Split
from xcit_dense.datasets.label_files import write_label_maps, write_pairs
from xcit_dense.datasets.prepare import prepare
from xcit_dense.mm.config.dataset_class import is_a
from xcit_dense.mm.config.splits import set_classes, set_splits
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.structures import Colour
from xcit_dense.visualization.draw import make_palette

_PAIRS_MODULE = "xcit_dense.mm.pairs_dataset"


def use_labels(
    config: Config,
    data: LabelData,
    given: list[str] | None,
    ignore_zero: bool,
    made: Path,
    colours: Path | None = None,
) -> list[str]:
    """Changes a config for segmentation to read images and label maps.

    Args:
        config: A complete config, which is changed.
        data: The data set.
        given: The names of the classes, in the order of their values. None reads the names from the data.
        ignore_zero: Whether 0 marks pixels without a label, so that the classes start at 1.
        made: The directory for label maps and lists of pairs that are made from the data.
        colours: A table of the colours in the label images. None uses the table of the data, if it has one.

    Returns:
        Sentences that say how the label images are read.

    Raises:
        UserError: There are no label maps, or their values do not fit the classes.
    """
    data = interpret(data, given, ignore_zero=ignore_zero, colours=colours)
    classes = list(data.classes or ())
    if data.layout and data.layout.splits.keys() == data.splits.keys():
        set_splits(config, data.root, data.layout, lambda split: _plain_dataset(split, data.ignore_zero))
    else:
        _use_pairs(config, data, made)
    for node in dicts_in(config._cfg_dict):
        if is_a(config, node, "LoadAnnotations", TRANSFORMS):
            node["reduce_zero_label"] = data.ignore_zero
    set_classes(config, classes, _choose_palette(data, len(classes)))
    return list(data.notes)


def _plain_dataset(split: Split, ignore_zero: bool) -> dict[str, Any]:
    return {
        "type": "BaseSegDataset",  # other types accept only their own classes
        "data_prefix": {"img_path": split.images, "seg_map_path": split.annotations},
        "img_suffix": split.image_suffix,
        "seg_map_suffix": split.label_suffix,
        "reduce_zero_label": ignore_zero,
    }


def _use_pairs(config: Config, data: LabelData, made: Path) -> None:
    """Writes lists of pairs, with label maps if the label images have to be converted, and uses the lists."""

    def write(directory: Path) -> None:
        write_pairs(write_label_maps(data, directory) if data.read_label else data.splits, directory)

    labels = {data.root / pair.label for pairs in data.splits.values() for pair in pairs}
    sources = [path for path in (*labels, *data.sources) if path.is_file()]
    settings = {
        "root": str(data.root),
        "classes": data.classes,
        "palette": data.palette,
        "table": str(data.table),
        "notes": data.notes,
        "splits": {split: [asdict(pair) for pair in pairs] for split, pairs in data.splits.items()},
    }
    directory = prepare(made, "labels", sources, settings, write).absolute()
    label_root = directory if data.read_label else data.root
    splits = {name: Split(str(data.root), str(directory / f"{name}.json")) for name in data.splits}
    absent = Split(str(data.root), str(directory / "val.json"))
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
