"""Checks that the libraries and the operators that parts of a config need are there, before a run begins."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS, VISBACKENDS, Registry

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.mm.patches import mmcv_ext

# The module that objects of a class import at their first use, and what pip calls it.
_MODEL_PARTS = {
    "PAAHead": ("sklearn", "scikit-learn"),
    "BoxInstDataPreprocessor": ("skimage", "scikit-image"),
    "BertModel": ("transformers", "transformers"),
    "ATSSVLFusionHead": ("transformers", "transformers"),
    "GLIP": ("nltk", "nltk"),
    "BaseReID": ("mmpretrain", "mmpretrain"),
}
_TASK_PARTS = {
    "AppearanceFreeLink": ("sklearn", "scikit-learn"),
    "InterpolateTracklets": ("sklearn", "scikit-learn"),
}
_DATA_PARTS = {"LVISV05Dataset": ("lvis", "lvis")}
_PIPELINE_PARTS = {
    "Albu": ("albumentations", "albumentations"),
    "InstaBoost": ("instaboostfast", "instaboostfast"),
    "Corrupt": ("imagecorruptions", "imagecorruptions"),
    "LoadSingleRSImageFromFile": ("osgeo", "GDAL"),
    "LoadMultipleRSImageFromFile": ("osgeo", "GDAL"),
}
_METRICS = {
    "LVISMetric": ("lvis", "lvis"),
    "CityScapesMetric": ("cityscapesscripts", "cityscapesscripts"),
    "CityscapesMetric": ("cityscapesscripts", "cityscapesscripts"),
    "MOTChallengeMetric": ("trackeval", "trackeval"),
    "DumpODVGResults": ("jsonlines", "jsonlines"),
}
_LOGS = {"TensorboardVisBackend": ("tensorboard", "tensorboard"), "WandbVisBackend": ("wandb", "wandb")}


def check_requirements(config: Config, loaders: tuple[str, ...]) -> None:
    """Checks that optional libraries and mmcv's operators are there for each part of a config that needs them.

    MMDetection and MMSegmentation import an optional library when a part is used for the first time. This can be at the
    end of an epoch.

    Args:
        config: A complete config.
        loaders: The data loaders that the run will use.

    Raises:
        MissingLibraryError: A part needs a library that is not installed. The message says what to install.
        UserError: A part of the model needs an operator of mmcv that is not there.
    """
    _check_libraries(config, config.model, MODELS, _MODEL_PARTS)
    _check_libraries(config, config.model, TASK_UTILS, _TASK_PARTS)
    _check_libraries(config, (config.get("visualizer") or {}).get("vis_backends"), VISBACKENDS, _LOGS)
    for loader in loaders:
        _check_libraries(config, config.get(loader), DATASETS, _DATA_PARTS)
        _check_libraries(config, config.get(loader), TRANSFORMS, _PIPELINE_PARTS)
        _check_libraries(config, config.get(loader.replace("dataloader", "evaluator")), METRICS, _METRICS)
    if mmcv_ext.serving():
        for part, kind in _classes_of_mmcv(config):
            _check_operators(part, kind)


def _check_libraries(config: Config, node: Any, registry: Registry, needs: dict[str, tuple[str, str]]) -> None:
    for part in dicts_in(node):
        kind = part.get("type")
        # The written name counts too, because the type may be in another registry than the one that is asked.
        names = [kind.rpartition(".")[2]] if isinstance(kind, str) else []
        found = type_of(config, part, registry) if kind is not None else None
        if inspect.isclass(found):
            names += [base.__name__ for base in found.__mro__]
        for name in names:
            module, package = needs.get(name, ("", ""))
            if module and find_spec(module) is None:
                raise MissingLibraryError(
                    f"The config uses {kind if isinstance(kind, str) else name}, which needs {module}, and {module} is "
                    f"not installed; write pip install {package}, or take {name} out of the config."
                )


def _classes_of_mmcv(config: Config) -> Iterator[tuple[str, Any]]:
    """Iterates over the parts of a model whose classes are in ``mmcv.ops``."""
    for part in dicts_in(config.model):
        kind = part.get("type")
        if not isinstance(kind, str) and kind is not None:
            yield kind.__name__, kind
        elif kind is not None:
            # RoI layers are not registered. MMDetection takes them from mmcv.ops by their name.
            yield kind, type_of(config, part, MODELS) or getattr(import_module("mmcv.ops"), kind, None)


def _check_operators(name: str, kind: Any) -> None:
    module = inspect.getmodule(kind)
    if module is None or not module.__name__.startswith("mmcv.ops."):
        return
    for operator in _operators_of(inspect.getsource(module)):
        if not mmcv_ext.serves(operator):
            raise UserError(
                f"The config uses {name}, which needs the operator {operator} of mmcv. This mmcv has no compiled "
                "operators, and xcit_dense does not serve this one; install an mmcv with compiled operators, or take "
                f"{name} out of the config."
            )


def _operators_of(source: str) -> list[str]:
    """Lists the operators that a module of ``mmcv.ops`` loads: ``load_ext('_ext', ['nms', 'softnms'])``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load_ext") and len(node.args) == 2:
            found += ast.literal_eval(node.args[1])
    return found
