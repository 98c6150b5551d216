"""One of the processes that share an image: run by test_shard.py."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import random_images
from tests.mm.streaming.test_segmentor import make_model, use_vt_fpn
from xcit_dense import stream
from xcit_dense.mm.streaming.segmentor import map_logits
from xcit_dense.rasters.window import blocks_of_rows
from xcit_dense.streaming.maps import needed_rows


def make_deployed(name):
    """A tiny deployed segmentor with the head of this name, or Semantic FPN with the neck VT-FPN."""
    return make_model("sem_fpn", use_vt_fpn, True) if name == "vt_fpn" else make_model(name, deployed=True)


def read_own_logits(model, image):
    """Yields windows of this process, each with its logits."""
    height, width = image.shape[2:]
    with torch.no_grad(), stream(model.backbone, image, strip=2, shard=True) as levels:
        logits = map_logits(model, levels, height, width, levels.bands)
        levels.fetch(needed_rows(logits, levels.bands, len(levels.shapes)))
        for window in blocks_of_rows(levels.bands.own_rows(height), width, 50):
            yield window, logits.read(window)


def main(directory, processes, cases):
    """Saves the windows of each case, (name of the model, image size)."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo", init_method=f"file://{directory}/group", rank=rank, world_size=processes)
    of_cases = []
    for name, size in cases:
        of_cases.append(list(read_own_logits(make_deployed(name), random_images(1, 3, *size))))
    torch.save(of_cases, Path(directory, f"{rank}.pt"))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
