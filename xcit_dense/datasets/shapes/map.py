"""Writes a large image of many scenes as a GeoTIFF, with its label map, to try out windows and chips."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from xcit_dense.datasets.shapes.scene import MIN_SIZE, draw_scene
from xcit_dense.datasets.shapes.write import PALETTE, SEGMENTATION_CLASSES, annotate
from xcit_dense.errors import UserError
from xcit_dense.rasters.canvas import Canvas
from xcit_dense.rasters.gdal import profile_of, rasterio_env
from xcit_dense.rasters.labels import write_label_map
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.window import blocks_of
from xcit_dense.utils.files import atomic_write
from xcit_dense.utils.progress import tracked

_CRS, _PIXEL, _LEFT, _TOP = "EPSG:32633", 0.5, 400_000.0, 5_000_000.0  # metres, somewhere in zone 33 of UTM


def write_map(directory: str | Path, size: int, *, scene: int = 256, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``map.tif``, a square mosaic of scenes, and ``map_labels.tif``, its label map. Both have a place.

    Args:
        directory: The directory of the files.
        size: Width and height of the image in pixels, at least ``scene``.
        scene: Width and height of a scene, 64 or more. Scenes at the right and lower border are cut.
        seed: Another seed gives another image.

    Returns:
        The paths of the image and of the label map.

    Raises:
        UserError: A size is too small, or a file cannot be written.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> image, labels = write_map("mosaic", 200, scene=100)
        >>> from xcit_dense.rasters.open import open_source
        >>> open_source(image)
        GeoSource(mosaic/map.tif: 200 rows, 200 columns, 3 bands of uint8)
    """
    directory = Path(directory)
    if scene < MIN_SIZE or size < scene:
        raise UserError(
            f"The image has {size} pixels a side, and its scenes have {scene}; write {MIN_SIZE} or more for scenes, "
            "and an image that is not smaller."
        )
    image_path, labels_path = directory / "map.tif", directory / "map_labels.tif"
    blocks = list(blocks_of(size, size, scene))
    directory.mkdir(parents=True, exist_ok=True)
    scratch_directory = TemporaryDirectory(prefix=".map-", dir=directory)
    with scratch_directory as scratch, rasterio_env() as rasterio, atomic_write(image_path) as part:
        crs = rasterio.CRS.from_user_input(_CRS).to_wkt()
        place = Georeference(crs, (_PIXEL, 0, _LEFT, 0, -_PIXEL, _TOP))
        profile = {"height": size, "width": size, "count": 3, "dtype": "uint8", "tiled": True, **profile_of(place)}
        options = {"photometric": "rgb", "compress": "deflate", "bigtiff": "if_safer"}
        canvas = Canvas.create(Path(scratch, "labels.npy"), size, size, np.uint8, fill=0)
        with rasterio.open(part, "w", driver="GTiff", **profile, **options) as file, canvas:
            for number, block in enumerate(tracked("scenes", blocks)):
                drawn = draw_scene(np.random.default_rng([seed, number]), scene)
                labels = np.zeros((scene, scene), np.uint8)
                for instance in drawn.instances:
                    labels[annotate(instance, scene)[1]] = 1 + instance.label
                rows, columns = block.slices
                pixels = np.moveaxis(drawn.image[: block.height, : block.width], 2, 0)  # (h, w, 3) -> (3, h, w)
                file.write(pixels, window=((rows.start, rows.stop), (columns.start, columns.stop)))
                canvas.write(block, labels[: block.height, : block.width])
        write_label_map(
            labels_path, canvas.array, classes=SEGMENTATION_CLASSES, palette=PALETTE, georeference=place, nodata=255
        )
    return image_path, labels_path
