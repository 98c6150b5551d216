"""Writes images with many bands."""

import numpy as np
import pytest


def write_tiff(path, pixels, **options):
    """Writes an image (H, W, N) as TIFF, with its bands next to each other unless the options ask for another order."""
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack", "planarconfig": "contig", **options}
    if pixels.shape[2] == 1:
        pixels, options["planarconfig"] = pixels[..., 0], None
    elif options["planarconfig"] == "separate":
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, pixels, **options)


def noise(height, width, bands, dtype="uint16", top=4000, seed=0):
    """Makes an image with different values in each band."""
    values = np.random.default_rng(seed).random((height, width, bands)) * top / (1 + np.arange(bands))
    return values.astype(dtype)
