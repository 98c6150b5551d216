"""Exports of tiny models, and comparisons with the models that they were exported from."""

import numpy as np
import torch

from tests.helpers.tiny import BACKBONE, CONFIGS

SIZES = ((1, 3, 64, 64), (3, 3, 96, 64), (1, 3, 70, 53))
"""Batches and sizes that no export has recorded; the last one is not a multiple of a stride."""


def tiny_head(task, head):
    """Reads the config of a tiny model with another head of the shapes data set."""
    import xcit_dense.mm  # noqa: F401  # isort: skip
    from xcit_dense.mm.config.load import load_config

    config = load_config(CONFIGS / task / f"{head}_xcit_n12_p8_shapes.py")
    model, test = config.model, config.model.test_cfg
    model.backbone = dict(BACKBONE)
    if head == "upernet":
        model.decode_head.in_channels, model.auxiliary_head.in_channels = [16] * 4, 16
    elif model.get("neck"):
        model.neck.in_channels = [16] * len(model.neck.in_channels)
    if head == "retinanet":
        model.backbone |= {"out_strides": (8, 16, 32), "out_indices": (1, 2, 3)}
    if task == "detection" and head != "dino":
        test.get("rcnn", test).update(score_thr=0.0, max_per_img=5)
    config.test_dataloader.dataset.pipeline[1].scale = (48, 48)
    return config


def assert_equal_outputs(model, run, sizes=SIZES, scale=255):
    """Compares the outputs of a module with those of a run time, within 1e-4 of their largest value."""
    for size in sizes:
        images = torch.rand(size, generator=torch.Generator().manual_seed(sum(size))) * scale
        with torch.no_grad():
            expected = model(images)
        expected = [expected] if isinstance(expected, torch.Tensor) else expected
        found = run(images)
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            other = other.numpy()
            assert one.shape == other.shape
            largest = max(1.0, float(np.abs(other).max()))
            assert np.abs(np.asarray(one, np.float64) - other).max() < 1e-4 * largest, size
