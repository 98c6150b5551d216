"""Reference files of other backbones: golden features, names of weights, and variants.

The files are in ``tests/reference/seeds``. The original code of CoaT, BEiT and CaiT computed the features in float64,
from weights and images that any machine can make again. Every weight is a function of its original name and shape.
"""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from tests.reference.golden_weights import golden_image, golden_tensor

DIRECTORY = Path(__file__).resolve().parents[1] / "reference" / "seeds"


def list_golden(start):
    """Lists the golden features whose names begin with a text."""
    return sorted(path.stem for path in (DIRECTORY / "golden").glob(f"{start}*.npz"))


def read_golden_seed(name):
    """Reads golden features."""
    return np.load(DIRECTORY / "golden" / f"{name}.npz")


def golden_images(features):
    """Makes the images from which golden features were computed."""
    batch, _, height, width = features["shape"]
    return torch.from_numpy(golden_image(batch, height, width))


def read_json(name):
    """Reads a JSON file, compressed if its name ends in ``.gz``."""
    content = (DIRECTORY / name).read_bytes()
    return json.loads(gzip.decompress(content) if name.endswith(".gz") else content)


def fill_tensor(name, shape):
    """Draws the parameter with the original name ``name``, float32."""
    leaf = name.rpartition(".")[2]
    if leaf.startswith("cls_token") or leaf in ("pos_embed", "relative_position_bias_table"):
        random = np.random.RandomState(zlib.crc32(name.encode()))
        return (0.5 * random.standard_normal(tuple(shape))).astype(np.float32)
    value = golden_tensor(name, shape)
    # CoaT adds this convolution to the stream before each block, which would otherwise grow.
    is_position_encoding = name.startswith("cpe") and leaf == "weight"
    return (0.3 * value).astype(np.float32) if is_position_encoding else value


def fill_model(model, original_name=lambda name: name):
    """Fills a model with the weights behind the golden features.

    ``original_name`` maps the name of a tensor to the original name, or to None if the original does not have it.
    """
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            original = original_name(name)
            if original and tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(fill_tensor(original, tensor.shape)))
    return model


def error(levels, features):
    """Returns the largest difference from golden features, in standard deviations of a level."""
    worst = 0.0
    for number, level in enumerate(levels):
        expected = features[f"level{number}"]
        assert tuple(level.shape) == expected.shape
        worst = max(worst, np.abs(level.detach().float().numpy() - expected).max() / expected.std())
    return worst


def gradient_error(model, features, original_name=lambda name: name):
    """Returns the largest relative difference of the gradients' norms from golden ones above 1e-6."""
    worst = 0.0
    for name, parameter in model.named_parameters():
        expected = float(features[f"gradnorm/{original_name(name)}"])
        if expected > 1e-6:
            worst = max(worst, abs(parameter.grad.double().norm().item() / expected - 1))
    return worst
