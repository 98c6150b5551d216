"""Draws the images of a test with ground truth and predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope

from xcit_dense.media.images import write_image
from xcit_dense.mm.bands import LoadBands, loader_of
from xcit_dense.mm.inference.classes import read_classes
from xcit_dense.mm.inference.samples import draw_truth, predicted_instances
from xcit_dense.structures import Colour, Pixels
from xcit_dense.utils.files import absolute
from xcit_dense.visualization.draw import draw_instances, draw_label_map


@HOOKS.register_module(name=["DrawImagesHook", "PicturesHook"], force=True)
class DrawImagesHook(Hook):
    """Draws each image of a test, with the ground truth on the left and the prediction on the right.

    The path of a drawing in ``directory`` is the path of the image in the common directory of all images. Without
    ground truth, a drawing shows the prediction only.

    The hooks of the MM libraries number the images or drop their directories, and their texts are illegible on small
    images.

    Args:
        directory: The directory for the JPEG files. The hook makes the directory.
        score_thr: The lowest score of an object that is drawn, in [0, 1].
    """

    def __init__(self, directory: str, score_thr: float = 0.3) -> None:
        self.directory = Path(directory)
        self.score_thr = score_thr
        self.root = Path()
        self.bands: LoadBands | None = None
        self.classes: list[str] = []
        self.palette: list[Colour] = []

    def before_test(self, runner: Any) -> None:
        """Finds the common directory of all images, their bands, and the names of the classes."""
        dataset = runner.test_dataloader.dataset
        self.bands = loader_of(dataset)
        paths = (dataset.get_data_info(index)["img_path"] for index in range(len(dataset)))
        self.root = Path(os.path.commonpath({absolute(path).parent for path in paths}))
        scope = DefaultScope.get_current_instance()
        classes, palette = read_classes(dataset.metainfo, {}, scope.scope_name if scope else "mmdet")
        self.classes, self.palette = list(classes), list(palette)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the images of a batch.

        Args:
            runner: The runner.
            batch_idx: Unused.
            data_batch: Unused.
            outputs: The samples with the predictions of the model.
        """
        for sample in outputs:
            path = absolute(sample.img_path)
            if self.bands is None:
                image = mmcv.imread(path, channel_order="rgb")
            else:
                image = self.bands.show(self.bands({"img_path": str(path)})["img"])
            sides = list(self._draw(image, sample))
            write_image(self.directory / path.relative_to(self.root).with_suffix(".jpg"), np.hstack(sides))

    def _draw(self, image: Pixels, sample: Any) -> Iterator[Pixels]:
        """Draws the ground truth, if the sample has ground truth, and the prediction."""
        names = self.classes, self.palette
        if "gt_instances" in sample or "gt_sem_seg" in sample:
            yield draw_truth(image, sample, *names)
        if "pred_sem_seg" in sample:
            yield draw_label_map(image, sample.pred_sem_seg.data[0].cpu().numpy(), *names)
        else:
            yield draw_instances(image, predicted_instances(sample.pred_instances).keep(self.score_thr), *names)
