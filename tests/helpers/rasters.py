"""Writes images with many bands."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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


def copy_as_tiffs(shapes, root):
    """Copies the shapes data set, with TIFFs of four bands and 16 bits: blue, green, red, and their sum."""
    for source in shapes.rglob("*.*"):
        target = root / source.relative_to(shapes)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".jpg":
            colours = np.asarray(Image.open(source)).astype("uint16") * 12
            bands = np.dstack([colours[..., ::-1], colours.sum(axis=2, dtype="uint16")])
            write_tiff(target.with_suffix(".tif"), bands)
        elif source.parent.name == "annotations" and source.suffix == ".json":
            content = json.loads(source.read_text())
            for image in content["images"]:
                image["file_name"] = str(Path(image["file_name"]).with_suffix(".tif"))
            target.write_text(json.dumps(content))
        else:
            target.write_bytes(source.read_bytes())
    return root


def write_geotiff(path, pixels, place=True, **options):
    """Writes an image (H, W, N) through rasterio: tiled and compressed, with a place in Germany."""
    rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")
    height, width, bands = pixels.shape
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", **options}
    if options["driver"] != "GTiff":
        options = {key: value for key, value in options.items() if key not in ("tiled", "blockxsize", "blockysize")}
    if options["driver"] == "JP2OpenJPEG":
        del options["compress"]
    if place:
        transform = rasterio.Affine(0.5, 0, 400000, 0, -0.5, 5000000)
        options = {"crs": "EPSG:32633", "transform": transform, **options}
    size = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **size, **options) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    return path
