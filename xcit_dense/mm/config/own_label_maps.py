"""Uses a user's own label maps in a config for segmentation."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from xcit_dense.datasets.formats.label_maps import files_in, find_labels, read_names, read_palette, read_values
from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import is_a
from xcit_dense.mm.config.splits import set_classes, set_splits
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.structures import IGNORED
from xcit_dense.visualization.draw import make_palette


def use_labels(config: Config, root: Path, given: list[str] | None, ignore_zero: bool) -> None:
    """Changes a config for segmentation to read images and label maps.

    Args:
        config: A complete config, which is changed.
        root: The data directory.
        given: The names of the classes, in the order of their values. None reads the names from the data.
        ignore_zero: Whether 0 marks pixels without a label, so that the classes start at 1.

    Raises:
        UserError: There are no label maps, or their values do not fit the classes.
    """
    layout = find_labels(root)
    train = layout.splits["train"]
    found = read_names(root) if given is None else None
    if found:
        classes, begins_with_one = found
        ignore_zero = ignore_zero or begins_with_one
    elif given is not None:
        classes = given
    else:
        labels = [
            root / split.annotations / name
            for split in layout.splits.values()
            for name in files_in(root / split.annotations, [split.label_suffix])
        ]
        values = read_values(labels)
        if max(values, default=0) > IGNORED:
            raise UserError(
                f"Label maps in {root / train.annotations} contain values up to {max(values)}, but MMSegmentation "
                "reads 0 to 255; number the classes from 0."
            )
        ignore_zero = ignore_zero or 0 not in values  # without zeros, ignoring them loses nothing
        classes = [f"class {value}" for value in range(int(ignore_zero), max(values, default=0) + 1)]
        if 2 * len(values) < len(classes):
            raise UserError(
                f"The label maps in {root / train.annotations} contain {len(values)} values of 0 to {max(values)} "
                f"({', '.join(map(str, sorted(values)[:8]))}), so most classes would be empty; number them 0, 1, 2 and "
                "so on, or name the classes of all values in classes.txt."
            )
    if len(classes) < 2:
        raise UserError(
            f"The label maps in {root / train.annotations} have {len(classes)} class{'es' * (len(classes) != 1)} "
            f"({'0 and 255 are' if ignore_zero else '255 is'} ignored), but segmentation needs two; number the classes "
            "from 0, for example 0 for background and 1 (not 255) for the object."
        )
    # A label map may contain a palette, which the user has chosen.
    example = next(iter(files_in(root / train.annotations, [train.label_suffix])))
    palette = read_palette(root / train.annotations / example)[int(ignore_zero) :][: len(classes)]
    if len(set(palette)) < len(classes):
        palette = make_palette(len(classes))
    set_splits(
        config,
        root,
        layout,
        lambda split: {
            "type": "BaseSegDataset",  # other types accept only their own classes
            "data_prefix": {"img_path": split.images, "seg_map_path": split.annotations},
            "img_suffix": split.image_suffix,
            "seg_map_suffix": split.label_suffix,
            "reduce_zero_label": ignore_zero,
        },
    )
    for node in dicts_in(config._cfg_dict):
        if is_a(config, node, "LoadAnnotations", TRANSFORMS):
            node["reduce_zero_label"] = ignore_zero
    set_classes(config, classes, palette)
