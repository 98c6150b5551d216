"""One training step and one prediction of a model with an XCiT, on random images."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import FrameType
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import nn

from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.swap import replace_backbone
from xcit_dense.mm.config.walk import dicts_in

VARIANT = "nano_12_p16"
SIDE = 256  # pixels of an image
IMAGES = 2

# The images that a semi-supervised detector trains on.
_BRANCHES = ("sup", "unsup_teacher", "unsup_student")

# Arguments that let a part of a model load weights, which a test cannot download.
_WEIGHTS = ("teacher_ckpt",)

# Numbers of objects that a model considers. A step with fewer objects takes less time.
_MOST = {
    "max_per_img": 30,
    "max_num": 30,
    "nms_pre": 100,
    "num_classes": 1203,
    "num": 16,
    "num_dn_queries": 10,
    "num_proposals": 30,
    "num_queries": 50,
}

Batch = dict[str, Any]


def check_step(config: Config, make_batch: Callable[[Config], Batch]) -> None:
    """Replaces the backbone of a config by an XCiT, trains the model for one step and predicts once.

    Args:
        config: A complete config.
        make_batch: Makes a batch of random images with labels for a config.

    Raises:
        AssertionError: The loss is not finite, or a block of the XCiT has no gradient, or the prediction is not one
            result for each image.
        UserError: The backbone cannot be replaced, or the check of the config before a run refuses the config.
    """
    replaced = replace_backbone(config, VARIANT, weights=None)
    check_config(replaced, loaders=())
    model = build_model(replaced)
    batch = make_batch(config)
    if "semi_train_cfg" in replaced.model:
        batch = {key: {branch: deepcopy(values) for branch in _BRANCHES} for key, values in batch.items()}
    torch.manual_seed(0)
    train_step(model, batch)
    model.eval()
    # Guided anchoring predicts one image at a time.
    image = {key: values[:1] for key, values in make_batch(config).items()}
    with torch.no_grad():
        results = model(**model.data_preprocessor(image, False), mode="predict")
    assert len(results) == 1, f"{len(results)} results for one image"


def build_model(config: Config) -> Any:
    """Builds the model of a config with random weights, for one process without a GPU."""
    scope = config.default_scope
    import_library(scope, "models")
    cfg = config.model
    if "data_preprocessor" in config and "data_preprocessor" not in cfg:
        cfg.data_preprocessor = config.data_preprocessor
    for part in dicts_in(cfg):
        for key in ("init_cfg", "pretrained", "checkpoint"):
            value = part.get(key)
            if isinstance(value, str) or (isinstance(value, dict) and value.get("type") == "Pretrained"):
                part[key] = None
        for key in _WEIGHTS:
            if part.get(key):
                part[key] = None
        for key, most in _MOST.items():
            if isinstance(part.get(key), int):
                part[key] = min(part[key], most)
        if "clip_border" in part:
            part.clip_border = True  # MMDetection cannot draw the mask of a box outside of the image
        if part.get("type") == "SegDataPreProcessor":
            part.update(size=None, size_divisor=32)  # the size of the recipe is larger
        if part.get("batch_augments"):
            part.batch_augments = None  # they enlarge the images
    torch.manual_seed(0)
    with MODELS.switch_scope_and_registry(scope) as registry, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = revert_sync_batchnorm(registry.build(cfg))
    model.init_weights()
    return model


def train_step(model: Any, batch: Batch) -> None:
    """Computes the loss and the gradients of a batch.

    Raises:
        AssertionError: The loss is not finite, or a block of the XCiT has no gradient.
    """
    hub = MessageHub.get_current_instance()
    for name, value in (("epoch", 0), ("iter", 0), ("max_epochs", 1), ("max_iters", 1)):  # as a run does
        hub.update_info(name, value)
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    loss, _ = model.parse_losses(losses)
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    loss.backward()
    for backbone in backbones_in(model):
        for number, block in enumerate(backbone.blocks):
            gradients = [weight.grad for weight in block.parameters() if weight.grad is not None]
            assert any(gradient.any() for gradient in gradients), f"block {number} has no gradient"


def backbones_in(model: nn.Module) -> list[Any]:
    """Returns the XCiTs in a model that train.

    Raises:
        AssertionError: No XCiT trains.
    """
    found = [part for part in model.modules() if type(part).__name__ == "XCiT"]
    found = [part for part in found if any(weight.requires_grad for weight in part.parameters())]
    assert found, "no XCiT trains"
    return found


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises a TimeoutError in the code inside if the code takes longer than a number of seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
