"""XCiT for dense prediction: the backbone, its pyramid and its published weights.

Importing this package needs torch and timm alone. ``import xcit_dense.mm`` registers the backbone in MMDetection and
MMSegmentation.
"""

from .backbone import XCiT
from .checkpoint import load_weights
from .deploy import deploy
from .variants import VARIANTS
from .zoo import list_weights

__all__ = ["VARIANTS", "XCiT", "__version__", "deploy", "list_weights", "load_weights"]

__version__ = "0.1.0"
