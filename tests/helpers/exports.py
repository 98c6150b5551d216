"""Comparisons of exports with the models that they were exported from."""

import numpy as np
import torch

SIZES = ((1, 3, 64, 64), (3, 3, 96, 64), (1, 3, 70, 53))
"""Batches and sizes that no export has recorded; the last one is not a multiple of a stride."""


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
