"""Saves a detector or segmentor with all that predictions need: config, classes, preprocessing and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from xcit_dense.errors import UserError
from xcit_dense.mm.config.saved import TASKS, check_plain, portable
from xcit_dense.mm.config.walk import datasets_in
from xcit_dense.mm.inference.classes import count_classes, read_classes
from xcit_dense.mm.inference.predict import build_model
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.models.backbone import Backbone
from xcit_dense.utils.files import atomic_write
from xcit_dense.weights.card import write_card
from xcit_dense.weights.config_text import read_config_text
from xcit_dense.weights.saved import CARD, WEIGHTS, plain, write_saved

_HUB_TASKS = {"detection": "object-detection", "segmentation": "image-segmentation"}  # the hub's words


@dataclass(frozen=True)
class About:
    """What a model card states about a model, as far as it is known.

    Attributes:
        data: What the model was trained on.
        metrics: Figures by name.
        licence: An identifier of the Hugging Face hub, ``'apache-2.0'`` for example.
    """

    data: str | None = None
    metrics: Mapping[str, float] | None = None
    licence: str | None = None


def save_model(config: Config, weights: str, out: Path, about: About | None = None) -> Path:
    """Saves a detector or segmentor as one file, ``model.safetensors``, next to ``config.json`` and a model card.

    The file contains the weights, the text of the config, the classes and their colours. So ``xcit-dense predict`` and
    ``test`` take the directory or the file without a config. Absolute paths and the addresses of pretrained weights are
    left out of the config. No file is a pickle.

    Args:
        config: A complete config.
        weights: The path or address of a checkpoint.
        out: The directory to write. Of an earlier save, ``README.md`` stays as it is.
        about: What the model card states.

    Returns:
        The path of ``model.safetensors``.

    Raises:
        UserError: The weights do not fill the model, the config has values that a saved model cannot have, nothing
            names the classes, or a file cannot be written.
    """
    if next(out.glob("*.pth"), None) is not None:
        raise UserError(f"{out} is a work directory; name another directory for the saved model.")
    about = about or About()
    scope = config.get("default_scope")
    if scope not in TASKS:
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    task = TASKS[scope]
    kept = portable(config)
    text = Config(kept).pretty_text
    read_config_text(text)  # what cannot be read must not be written
    values = {name: value for name, value in kept.items() if name != "custom_imports"}
    check_plain(values, out, scope, list(kept["custom_imports"]["imports"]))

    logger = MMLogger.get_current_instance()
    quiet(logger)
    with prints_to_log(logger):
        model, checkpoint = build_model(Config(kept), weights)
    leaf: dict[str, Any] = next(datasets_in(config.test_dataloader), {})
    meta = checkpoint.get("meta") or {}
    classes, palette = read_classes(meta.get("dataset_meta") or {}, leaf, scope, count_classes(model))
    backbone = next((module for module in model.modules() if isinstance(module, Backbone)), None)
    description = {
        "task": task,
        "classes": plain(classes),
        "palette": plain(palette),
        "preprocessing": _describe_preprocessing(kept["model"].get("data_preprocessor") or {}),
        "metrics": plain(dict(about.metrics or {})),
        "data": about.data,
        "config": text,
    }
    write_saved(out, description, model.state_dict())
    if not (out / CARD).exists():
        rows = {
            "Model": str(kept["model"]["type"]),
            "Backbone": backbone.name if backbone is not None else str(kept["model"]["backbone"].get("type")),
            "Task": task,
            "Classes": f"{len(classes)}: {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}",
        }
        usage = 'import xcit_dense\n\nmodel = xcit_dense.load("DIRECTORY")  # or "hf://USER/REPOSITORY"'
        title = f"{kept['model']['type']} with {rows['Backbone']}"
        card = write_card(
            title, rows, usage, _HUB_TASKS[task], data=about.data, metrics=about.metrics, licence=about.licence
        )
        with atomic_write(out / CARD) as part:
            part.write_text(card, "utf-8")
    return out / WEIGHTS


def _describe_preprocessing(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the normalisation for readers of ``config.json`` that do not read the config."""
    order = "RGB" if preprocessor.get("bgr_to_rgb") else "BGR"
    found = {"channels": order, **{name: preprocessor.get(name) for name in ("mean", "std")}}
    return {name: plain(value) for name, value in found.items() if value is not None}
