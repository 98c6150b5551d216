"""The model families that do not work with an XCiT. The test of a family that begins to work fails."""

from __future__ import annotations

from tests.matrix.reasons import Reason, Refused

EXCEPTIONS: dict[str, dict[str, Reason]] = {
    "mmdet": {},
    "mmseg": {
        "san": Refused(
            "SideAdapterCLIPHead reads the image encoder and the text encoder of CLIP, and the model does not have a "
            "backbone",
            "The config has no model with a backbone",
        ),
    },
}
"""The reason of each family that does not work, by library."""
