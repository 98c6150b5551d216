"""Checkpoints in the published layouts, with random values."""

import re

import torch

NAME = "nano_12_p16"


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def timms(weights):
    """The same weights under timm's names."""
    return {re.sub("^pos_embeder", "pos_embed", name): value for name, value in weights.items()}


HEADS = {"decode_head.conv_seg.weight": torch.ones(3), "neck.lateral.bias": torch.ones(2)}


DENSE_DIALECTS = {
    "dense": lambda dense: dense,
    "dense in state_dict": lambda dense: {"state_dict": dense, "meta": {"epoch": 3}},
    "detector": lambda dense: {"state_dict": {**prefixed("backbone.", dense), **HEADS}, "meta": {"CLASSES": ["cat"]}},
    "distributed detector": lambda dense: {"state_dict": {**HEADS, **prefixed("module.backbone.", dense)}},
}


CLASSIFIER_DIALECTS = {
    "classifier": lambda weights: weights,
    "classifier in model": lambda weights: {"model": weights, "epoch": 399},
    "timm": timms,
    "timm in state_dict": lambda weights: {"state_dict": timms(weights)},
    "timm as features": lambda weights: prefixed("model.", timms(weights)),
    "DINO": lambda weights: {k: v for k, v in weights.items() if not k.startswith("head.")},
    "DINO training": lambda weights: {
        "student": prefixed("module.backbone.", {k: torch.zeros_like(v) for k, v in weights.items()}),
        "teacher": {**prefixed("backbone.", weights), "head.mlp.0.weight": torch.ones(2)},
        "epoch": 3,
    },
}


DIALECTS = {**DENSE_DIALECTS, **CLASSIFIER_DIALECTS}


FLAT = [
    name
    for name in DIALECTS
    if " in " not in name and name not in ("detector", "distributed detector", "DINO training")
]


def state_of(model):
    """Copies a model's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}
