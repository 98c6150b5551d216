"""Helpers for tests of models: small models, images, and comparisons of tensors and errors."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from xcit_dense import CoaT, XCiT


def random_images(*shape):
    """Makes a batch of random images, the same for the same shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fills a module with random values of sensible size, so that no part is zero or one everywhere."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            draw = torch.from_numpy(np.asarray(random.standard_normal(value.shape)))
            if name.endswith(("running_var", "temperature")):
                draw = 1 + draw.abs()
            elif "gamma" in name:
                draw = 0.3 + 0.1 * draw
            elif value.ndim > 1:
                draw = draw / value[0].numel() ** 0.5
            elif name.endswith(("bias", "running_mean")):
                draw = 0.1 * draw
            else:
                draw = 1 + 0.1 * draw
            value.copy_(draw)
    return module


def tiny_xcit(**changes) -> XCiT:
    """Makes an XCiT small enough to be quick, with random weights: 16 channels, 4 blocks, 2 heads."""
    options = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3)}
    return randomise(XCiT(**{**options, **changes}))


def tiny_coat(**changes) -> CoaT:
    """Makes a CoaT small enough to be quick, with random weights: five serial and two parallel blocks."""
    options = {
        "embed_dims": (8, 16, 16, 16),
        "serial_depths": (1, 2, 1, 1),
        "parallel_depth": 2,
        "mlp_ratios": (2, 2, 2, 2),
    }
    return randomise(CoaT(**{**options, **changes}))


def raises_user_error(*words):
    """Expects a UserError whose message contains each of the given words."""
    from xcit_dense.errors import UserError

    return pytest.raises(UserError, match="(?s)" + "".join(f"(?=.*{re.escape(str(word))})" for word in words))


def assert_close(got, expected, tolerance=0.0001):
    """Compares two tensors: largest difference divided by the standard deviation of the second."""
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    error = (got - expected).abs().max() / expected.std(correction=0).clamp_min(1e-12)
    assert error < tolerance, f"differs by {error:.1e} standard deviations"


def matching_names(module, weights):
    """Returns the names of the given weights that a module contains with equal values."""
    own = module.state_dict()
    return {name for name, value in weights.items() if name in own and torch.equal(own[name], value)}
