"""Text in drawings: the font, and lines that fit a width."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from xcit_dense.errors import MissingLibraryError

try:
    import matplotlib
    from PIL import ImageFont
except ImportError as error:
    raise MissingLibraryError("Drawings use matplotlib's font; write pip install matplotlib.") from error

_MARKS = "/_-."  # of file names


@lru_cache(maxsize=16)
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Loads the font of all drawings.

    Args:
        size: The height in pixels.
        bold: Whether the text is bold.

    Returns:
        The font.

    Example:
        >>> load_font(12).size
        12
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Shortens a text until it fits.

    Args:
        text: The text.
        font: The font.
        width: The available width in pixels.

    Returns:
        The text, or its beginning and an ellipsis.

    Example:
        >>> shorten("a long name", load_font(12), width=40)
        'a lo…'
    """
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """Breaks a text into lines that fit, at spaces and at the marks of file names if possible.

    Args:
        text: The text.
        font: The font.
        width: The available width in pixels.
        lines: The largest number of lines. The last line is shortened if the text is longer.

    Returns:
        The lines.

    Example:
        >>> wrap("boxes outside their image", load_font(12), width=90, lines=3)
        ['boxes outside', 'their image']
        >>> wrap("000000000086_jpg.rf.d8ec7d2d", load_font(12), width=130, lines=2)
        ['000000000086_jpg.', 'rf.d8ec7d2d']
    """
    done: list[str] = []
    rest = text.strip()
    while rest:
        if len(done) == lines - 1:
            return [*done, shorten(rest, font, width)]
        end = len(rest)
        while end > 1 and font.getlength(rest[:end]) > width:
            end -= 1
        if end < len(rest):
            # A name breaks after one of its marks, which stays at the end of the line.
            last = max(rest.rfind(" ", 1, end + 1), *(rest.rfind(mark, 1, end) + 1 for mark in _MARKS))
            end = last if last > 1 else end
        done.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return done
