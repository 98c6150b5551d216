"""The embedded data set "shapes": small generated images with ground truth, to train on without a download.

:mod:`.scene` draws one image. :mod:`.write` writes the data set in COCO's and in ADE20K's layout. :mod:`.map` writes
one large image of many scenes. A new kind of shape is one more class in :mod:`.scene`. Raise ``FORMAT`` in
:mod:`.write` with any change of the images.
"""

from __future__ import annotations

from xcit_dense.errors import INSTALL_MM, MissingLibraryError

try:
    import pycocotools  # noqa: F401
    import shapely  # noqa: F401
except ImportError as error:
    raise MissingLibraryError(
        f"xcit_dense.datasets.shapes needs shapely and pycocotools, and {error.name} is missing; write {INSTALL_MM}."
    ) from error

from xcit_dense.datasets.shapes.scene import CLASSES, Instance, Scene, draw_scene
from xcit_dense.datasets.shapes.write import PALETTE, SEGMENTATION_CLASSES, write_shapes

__all__ = [
    "CLASSES",
    "PALETTE",
    "SEGMENTATION_CLASSES",
    "Instance",
    "Scene",
    "draw_scene",
    "write_shapes",
]
