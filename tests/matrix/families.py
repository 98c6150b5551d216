"""The model families of the installed MMDetection and MMSegmentation, and one config of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xcit_dense.cli.installed_configs import library_configs

HERE = Path(__file__).parent
TRIED = "tried.json"
"""The families of MMDetection that a fixed config stands for."""

FIXED = {
    "mmdet": {"mm_grounding_dino": "mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py"},  # both stacks have it
    "mmseg": {
        "setr": "setr/setr_vit-l_mla_8xb2-160k_ade20k-512x512.py",
        "setr_pup": "setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py",  # another head
        "vpd": "vpd/vpd_sd_4xb8-25k_nyu-512x512.py",  # the sides of the images are multiples of 64
    },
}
"""Further families that a fixed config stands for, by library."""


def read_record(library: str) -> dict[str, dict[str, Any]]:
    """Reads the recorded families of a library.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        For each family, the ``config`` that stands for the family, and the ``levels`` that its XCiT returns, which are
        None if the backbone cannot be replaced.
    """
    return json.loads((HERE / f"{library}.json").read_text(encoding="utf-8"))


def read_tried() -> dict[str, str]:
    """Reads the families of MMDetection that a fixed config stands for."""
    return json.loads((HERE / TRIED).read_text(encoding="utf-8"))


def installed_families(library: str) -> dict[str, dict[str, Any]]:
    """Returns the recorded families that the installed version of a library has."""
    installed = library_configs(library)
    return {family: entry for family, entry in read_record(library).items() if entry["config"] in installed}


def load_family(library: str, family: str) -> Config:
    """Reads the config that stands for a family."""
    return read_config(library, read_record(library)[family]["config"])


def read_config(library: str, name: str) -> Config:
    """Reads a config of a library. :func:`replace_backbone` imports the modules that the config names."""
    return Config.fromfile(library_configs(library)[name], import_custom_modules=False)


def choose_configs(library: str) -> dict[str, str]:
    """Chooses a config for each directory of configs: the fixed one, or else the first that has a model.

    Returns:
        The name of the config for each family. A directory without a model is not a family.
    """
    chosen = {**(read_tried() if library == "mmdet" else {}), **FIXED[library]}
    directories = {name.partition("/")[0] for name in chosen.values()}
    for name in library_configs(library):
        directory = name.partition("/")[0]
        if directory not in directories and _has_model(library, name):
            chosen[directory] = name
            directories.add(directory)
    return chosen


def _has_model(library: str, name: str) -> bool:
    """Whether a config describes a complete model."""
    config = read_config(library, name)
    return "model" in config and config.get("default_scope") is not None
