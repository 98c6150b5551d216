"""The model families that do not work with an XCiT. The test of a family that begins to work fails."""

from __future__ import annotations

from tests.matrix.reasons import Reason

EXCEPTIONS: dict[str, dict[str, Reason]] = {
    "mmdet": {},
    "mmseg": {},
}
"""The reason of each family that does not work, by library."""
