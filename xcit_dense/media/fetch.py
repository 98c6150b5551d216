"""Images of http and https addresses, with a limit on their size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from xcit_dense.media.images import ImageError
from xcit_dense.media.inputs import VIDEO_EXTENSIONS

MAX_BYTES = 50_000_000
"""The largest image file that is downloaded."""

_TIMEOUT = 30.0  # seconds without an answer of the server
_STEP = 1 << 20  # bytes


def is_address(text: str) -> bool:
    """Returns whether a text is an http or https address.

    Args:
        text: The text.
    """
    return text.startswith(("http://", "https://"))


@contextmanager
def fetched(address: str, max_bytes: int = MAX_BYTES) -> Iterator[Path]:
    """Downloads an image to a temporary file, which is removed afterwards.

    Args:
        address: The http or https address of an image file.
        max_bytes: The largest size of the file.

    Yields:
        The file.

    Raises:
        ImageError: The server cannot be reached or refuses, the file is too large, or the address is that of a video.
    """
    # What follows the "?" of an address is not part of the file's name.
    suffix = Path(address.partition("?")[0]).suffix.lower()
    if suffix in VIDEO_EXTENSIONS:
        raise ImageError(f"{address} is a video; download the video and give its path.")
    with tempfile.TemporaryDirectory(prefix="xcit_dense_") as directory:
        path = Path(directory, f"image{suffix}")
        try:
            request = Request(address, headers={"User-Agent": "xcit_dense"})
            with urlopen(request, timeout=_TIMEOUT) as answer, path.open("wb") as file:
                size = 0
                while part := answer.read(_STEP):
                    size += len(part)
                    if size > max_bytes:
                        raise ImageError(
                            f"The file at {address} has more than {max_bytes:,} bytes; download the image and give its "
                            "path."
                        )
                    file.write(part)
        except (URLError, HTTPException, OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            reason = str(error) or type(error).__name__
            if isinstance(error, URLError) and not isinstance(error, HTTPError):
                reason = str(error.reason)  # without the brackets around it
            raise ImageError(
                f"The image at {address} cannot be downloaded ({reason}); check the address, or give a path."
            ) from error
        yield path
