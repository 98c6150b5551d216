"""The logits of an image that several processes share are those of the complete image."""

import json

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.helpers.models import random_images
from tests.helpers.ranks import run_ranks
from tests.mm.streaming.sharded import make_deployed
from tests.mm.streaming.test_segmentor import logits_of

CASES = [("sem_fpn", (205, 66)), ("upernet", (205, 66)), ("upernet", (130, 75)), ("vt_fpn", (130, 75))]


@pytest.mark.slow
def test_the_logits_of_bands_are_those_of_the_complete_image(tmp_path):
    run_ranks("tests.mm.streaming.sharded", 3, tmp_path, 3, json.dumps(CASES))
    saved = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(3)]
    for number, (name, size) in enumerate(CASES):
        complete = logits_of(make_deployed(name), random_images(1, 3, *size))
        covered = torch.zeros(size)
        for of_process in saved:
            for window, logits in of_process[number]:
                rows, columns = window.slices
                assert (logits - complete[:, :, rows, columns]).abs().max() < 1e-4 * complete.std(correction=0)
                covered[rows, columns] += 1
        assert (covered == 1).all()
