"""Images written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError
from xcit_dense.utils.files import atomic_write

try:
    from PIL import Image
except ImportError as error:
    raise MissingLibraryError("Images are written with Pillow; write pip install pillow.") from error

if TYPE_CHECKING:
    pass


def write_image(path: Path, pixels: npt.NDArray[np.integer]) -> None:
    """Writes a picture whole or not at all.

    Args:
        path: The file, ``.jpg`` or ``.png``; its directory is made. A picture of more than 65,500 pixels a side, which
            JPEG cannot hold, becomes smaller.
        pixels: (H, W, 3) in RGB, or (H, W) of 8 or 16 bits.

    Raises:
        UserError: The file cannot be written.
    """
    options = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 92, "subsampling": 0}
    picture = Image.fromarray(pixels)
    if options["format"] == "JPEG":
        picture.thumbnail((65_500, 65_500))
    with atomic_write(path) as part:
        picture.save(part, **options)
