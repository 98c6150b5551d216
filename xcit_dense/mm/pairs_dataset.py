"""A data set of MMSegmentation that reads a list of pairs: images and label maps with any names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

from xcit_dense.datasets.label_files import read_pairs


@DATASETS.register_module(force=True)
class PairsDataset(BaseSegDataset):
    """Images and label maps that are listed in a JSON file.

    MMSegmentation's own data sets find images by one suffix, and derive the names of the label maps. This data set also
    has images with several suffixes, and label maps in a directory of their own. ``ann_file`` is a file of
    :func:`xcit_dense.datasets.label_files.write_pairs`. ``data_prefix`` has the directories that the names of images
    (``img_path``) and label maps (``seg_map_path``) start from. Other arguments are those of ``BaseSegDataset``.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the list.

        Returns:
            The samples, sorted by the paths of the images, as ``BaseSegDataset`` returns them.
        """
        images, labels = Path(self.data_prefix["img_path"]), Path(self.data_prefix["seg_map_path"])
        return [
            {
                "img_path": str(images / pair.image),
                "seg_map_path": str(labels / pair.label),
                "label_map": self.label_map,
                "reduce_zero_label": self.reduce_zero_label,
                "seg_fields": [],
            }
            for pair in sorted(read_pairs(Path(self.ann_file)), key=lambda pair: pair.image)
        ]
