"""Reference features of the original BEiT, CaiT and CoaT.

``tests/reference/seeds/*.npz`` contain the levels of the original code, run in float64, and the norms of gradients. The
models have the deterministic weights that :func:`fill_tensor` makes.
"""

import gzip
import json
import zlib

import numpy as np
import torch

from tests.helpers.reference import DIRECTORY
from tests.reference.golden_weights import golden_image, golden_tensor

SEEDS = DIRECTORY / "seeds"
_NOISE = ("pos_embed", "relative_position_bias_table")


def fill_tensor(name, shape):
    """Makes the values of the parameter or buffer that the original code calls ``name``."""
    leaf = name.rpartition(".")[2]
    if leaf.startswith("cls_token") or leaf in _NOISE:
        random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
        return torch.from_numpy((0.5 * random.standard_normal(tuple(shape))).astype(np.float32))
    value = torch.from_numpy(golden_tensor(name, shape))
    # In CoaT this convolution stands before each block. With its usual weights the activations would grow.
    return value * np.float32(0.3) if leaf == "weight" and name.startswith("cpe") else value


@torch.no_grad()
def fill_model(model, original_name):
    """Fills a model. ``original_name`` maps a name of the model to the original name, or to None to keep the values."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        original = original_name(name)
        if original is not None and value.is_floating_point():
            value.copy_(fill_tensor(original, value.shape))
    return model


def read_seed(name):
    """Reads reference features, and makes the images from which they were computed."""
    features = np.load(SEEDS / f"{name}.npz")
    images = golden_image(*(int(features["shape"][axis]) for axis in (0, 2, 3)))
    return features, torch.from_numpy(images)


def read_names(name):
    """Reads the names and shapes of weights: ``coat_keys``, for example."""
    return json.loads(gzip.decompress((SEEDS / f"{name}.json.gz").read_bytes()))


def read_config(features):
    """Returns the arguments with which the original model was built."""
    return json.loads(str(features["config"]))


def largest_error(levels, features):
    """Returns the largest difference of levels and reference, in standard deviations of the reference's level."""
    errors = []
    for number, level in enumerate(levels):
        wanted = features[f"level{number}"]
        found = level.detach().float().numpy()
        assert found.shape == wanted.shape
        errors.append(float(np.abs(found - wanted).max() / wanted.std()))
    return max(errors)


def largest_gradient_error(model, features, original_name):
    """Returns the largest relative difference between norms of gradients, over the norms above 1e-6."""
    errors = []
    for name, parameter in model.named_parameters():
        wanted = features.get(f"gradnorm/{original_name(name)}")
        if wanted is not None and float(wanted) > 1e-6:
            errors.append(abs(float(parameter.grad.double().norm()) / float(wanted) - 1))
    return max(errors)
