"""The model families that do not work with an XCiT. The test of a family that begins to work fails."""

from __future__ import annotations

from tests.matrix.reasons import Fails, IsModel, NeedsPackage, Reason, Refused

_VIDEO = IsModel("it reads videos", "BaseMOTModel")
_TEXT = IsModel("it reads texts through BERT, whose weights are a download", "GLIP")
_GROUNDING = IsModel("it reads texts through BERT, whose weights are a download", "GroundingDINO")
_MIXTURES = NeedsPackage("it fits mixtures of Gaussians to the losses", "sklearn", "scikit-learn")

EXCEPTIONS: dict[str, dict[str, Reason]] = {
    "mmdet": {
        "boxinst": NeedsPackage("it compares pixels in the colour space Lab", "skimage", "scikit-image"),
        "bytetrack": _VIDEO,
        "clrnet": Fails("MMDetection does not register all parts of the config", "LineDetDataProcessor is not in"),
        "deepsort": _VIDEO,
        "detectors": Refused("its neck passes the image through a second DetectoRS_ResNet", "'DetectoRS_ResNet'"),
        "glip": _TEXT,
        "grounding_dino": _GROUNDING,
        "lad": _MIXTURES,
        "ld": Fails("its teacher is a config in a clone of MMDetection, with downloaded weights", "configs/gfl/"),
        "mask2former_vis": _VIDEO,
        "masktrack_rcnn": _VIDEO,
        "misc": IsModel("the models are those of detectron2", "Detectron2Wrapper"),
        "mm_grounding_dino": _GROUNDING,
        "ocsort": _VIDEO,
        "paa": _MIXTURES,
        "qdtrack": _VIDEO,
        "reid": IsModel("it classifies persons, and does not read levels", "BaseReID"),
        "strongsort": _VIDEO,
        "tridentnet": Fails("its head reads three branches of its backbone at one stride", "num_branch"),
    },
    "mmseg": {
        "san": Refused(
            "SideAdapterCLIPHead reads the image encoder and the text encoder of CLIP, and the model does not have a "
            "backbone",
            "The config has no model with a backbone",
        ),
    },
}
"""The reason of each family that does not work, by library."""
