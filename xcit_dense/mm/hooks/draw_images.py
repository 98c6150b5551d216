"""Pictures of a test: truth beside prediction."""

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
from xcit_dense.mm.inference.classes import read_classes
from xcit_dense.mm.inference.samples import draw_truth, predicted_instances
from xcit_dense.structures import Colour, Pixels
from xcit_dense.utils.files import absolute
from xcit_dense.visualization.draw import draw_instances, draw_label_map


@HOOKS.register_module(name=["DrawImagesHook", "PicturesHook"], force=True)
class DrawImagesHook(Hook):
    """Draws each picture of a test, truth left and prediction right, under the picture's own path.

    That is its path below the directory that holds all pictures of the test. Where there is no ground truth, the
    prediction is drawn alone.

    The libraries' own hooks number pictures or drop their directories, and draw what cannot be read on small ones.

    Args:
        directory: Where to write JPEG files; made if need be.
        score_thr: Least score of the objects that are drawn, in [0, 1].
    """

    def __init__(self, directory: str, score_thr: float = 0.3) -> None:
        self.directory = Path(directory)
        self.score_thr = score_thr
        self.root = Path()
        self.classes: list[str] = []
        self.palette: list[Colour] = []

    def before_test(self, runner: Any) -> None:
        """Finds the directory that holds all pictures, and what the classes are called.

        Args:
            runner: The run.
        """
        dataset = runner.test_dataloader.dataset
        paths = (dataset.get_data_info(index)["img_path"] for index in range(len(dataset)))
        self.root = Path(os.path.commonpath({absolute(path).parent for path in paths}))
        scope = DefaultScope.get_current_instance()
        classes, palette = read_classes(dataset.metainfo, {}, scope.scope_name if scope else "mmdet")
        self.classes, self.palette = list(classes), list(palette)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the pictures of a batch.

        Args:
            runner: The run.
            batch_idx: Not used, as what follows.
            data_batch: Not used.
            outputs: The samples that the model has filled.
        """
        for sample in outputs:
            path = absolute(sample.img_path)
            sides = list(self._draw(mmcv.imread(path, channel_order="rgb"), sample))
            write_image(self.directory / path.relative_to(self.root).with_suffix(".jpg"), np.hstack(sides))

    def _draw(self, picture: Pixels, sample: Any) -> Iterator[Pixels]:
        """The truth, if it is known, and the prediction; both of one size."""
        names = self.classes, self.palette
        if "gt_instances" in sample or "gt_sem_seg" in sample:
            yield draw_truth(picture, sample, *names)
        if "pred_sem_seg" in sample:
            yield draw_label_map(picture, sample.pred_sem_seg.data[0].cpu().numpy(), *names)
        else:
            yield draw_instances(picture, predicted_instances(sample.pred_instances).keep(self.score_thr), *names)
