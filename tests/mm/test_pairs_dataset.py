"""The data set of pairs gives the samples that MMSegmentation's own data set gives for the same files."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from xcit_dense.datasets.formats.labels import Pair
from xcit_dense.datasets.label_files import write_pairs


def build(**options):
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    import xcit_dense.mm.pairs_dataset  # noqa: F401

    register_all_modules()
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    return DATASETS.build({"metainfo": {"classes": ("a", "b")}, "pipeline": pipeline, **options})


def test_pairs_are_read_as_directories_are(tmp_path):
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
    for number in range(3):
        Image.new("RGB", (4, 2), (number, 0, 0)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.full((2, 4), number, np.uint8)).save(tmp_path / f"masks/{number}.png")
    write_pairs({"train": [Pair(f"images/{number}.png", f"{number}.png") for number in (2, 0, 1)]}, tmp_path)
    directories = build(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix={"img_path": "images", "seg_map_path": "masks"},
        img_suffix=".png",
        reduce_zero_label=True,
    )
    pairs = build(
        type="PairsDataset",
        data_root=str(tmp_path),
        ann_file="train.json",
        data_prefix={"img_path": "", "seg_map_path": "masks"},
        reduce_zero_label=True,
    )
    assert pairs.metainfo == directories.metainfo
    assert len(pairs) == 3
    for one, other in zip(pairs, directories):
        assert one.keys() == other.keys()
        for name in ("img", "gt_seg_map"):
            assert (one[name] == other[name]).all()
        assert one["img_path"] == other["img_path"]
