"""The weights and images from which the golden features in ``golden/`` were computed.

Every tensor is a function of its name and shape only. It is drawn with the legacy ``RandomState`` of numpy, whose
streams are the same in all numpy versions. The names are the names of the published XCiT detection and segmentation
checkpoints, without their prefix ``backbone.``.
"""

import zlib

import numpy as np


def golden_tensor(name, shape):
    """Draws the parameter or buffer ``name`` (float32; int64 for counters)."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    shape = tuple(int(n) for n in shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if name.endswith("temperature"):
        return rng.uniform(0.5, 4.0, shape).astype(np.float32)
    if name.rsplit(".", 1)[-1].startswith("gamma"):
        return (0.3 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    if name.endswith("bias"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if len(shape) == 1:  # norm scales
        return (1.0 + 0.1 * rng.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def golden_image(batch, height, width, seed=0):
    """Draws a batch of images, (batch, 3, height, width), float32."""
    rng = np.random.RandomState(seed)
    return rng.standard_normal((batch, 3, height, width)).astype(np.float32)
