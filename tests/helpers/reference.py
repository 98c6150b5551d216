"""Reference files of the original implementation: tables, names of weights, and golden features.

The files are in ``tests/reference``:

- ``variants.json``, ``recipes.json``, ``checkpoint_keys.json`` and ``zoo.json`` describe what was published.
- ``golden/*.npz`` contain features and gradients of the original implementation.
- ``golden_weights.py`` makes the weights and images from which they were computed.
"""

import json
from pathlib import Path

import numpy as np
import torch

from tests.reference.golden_weights import golden_image, golden_tensor
from xcit_dense import XCiT

DIRECTORY = Path(__file__).resolve().parents[1] / "reference"
GOLDEN = tuple(sorted(path.stem for path in (DIRECTORY / "golden").glob("*.npz")))


def read_reference(name):
    """Reads a JSON file of the reference directory by its name."""
    return json.loads((DIRECTORY / f"{name}.json").read_text())


def read_golden(name):
    """Reads golden features, and makes the model and the images from which they were computed."""
    features = np.load(DIRECTORY / "golden" / f"{name}.npz")
    model = XCiT(str(features["arch"])).eval()
    state = model.state_dict().items()
    model.load_state_dict({key: torch.from_numpy(golden_tensor(key, v.shape)).to(v.dtype) for key, v in state})
    batch, _, height, width = features["shape"]
    return features, model, torch.from_numpy(golden_image(batch, height, width))
