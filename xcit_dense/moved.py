"""Serves the module names and function names of the previous release, with a DeprecationWarning.

The previous release had all modules in the root of the package and in ``mm/``. An importer serves the old module names.
If a folder or a module now has the name of an old module, its ``__getattr__`` serves the old names.

This file goes with the next release.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition(".")[0]

MODULES = {
    "files": ("utils.files",),
    "progress": ("utils.progress", "utils.ranks"),
    "tables": ("utils.tables",),
    "norms": ("ops.norms",),
    "lean": ("ops.recompute", "ops.autocast", "ops.conv"),
    "xca": ("models.xca",),
    "blocks": ("models.blocks",),
    "pyramid": ("models.pyramid",),
    "backbone": ("models.xcit", "ops.checkpointing"),
    "checkpoint": ("models.state_dict", "models.backbone", "weights.read", "weights.resolve", "models.pretrained"),
    "safe_load": ("weights.safe_load",),
    "convert": ("models.convert",),
    "deploy": ("inference.deploy", "models.xcit"),
    "errors": ("cli.exit",),
    "variants": ("errors",),
    "zoo": ("weights.zoo", "weights.resolve"),
    "download": ("weights.download",),
    "work_dir": ("weights.work_dir",),
    "visualize": ("visualization.features",),
    "draw": ("visualization.draw", "structures"),
    "media": ("media.inputs", "media.images", "media.video"),
    "results": ("media.results",),
    "data_layout": (
        "datasets.formats.coco",
        "datasets.formats.label_maps",
        "datasets.formats.splits",
        "structures",
    ),
    "data_check": ("datasets.checks", "datasets.checks.report"),
    "data": ("datasets.shapes",),
    "data.scene": ("datasets.shapes.scene",),
    "data.shapes": ("datasets.shapes.write",),
    "doctor": ("cli.environment",),
    "cli": ("cli.options", "weights.resolve"),
    "mm.operators": ("mm.patches.mmcv_ext", "ops.mmcv.nms", "ops.mmcv.roi_align"),
    "mm.checkpoint": ("mm.patches.checkpoint_loaders", "mm.distributed", "utils.ranks"),
    "mm.hooks": (
        "mm.hooks.learning_curve",
        "mm.hooks.weight_check",
        "mm.hooks.deploy",
        "mm.hooks.history",
        "mm.runtime.weights",
    ),
    "mm.progress": ("mm.hooks.progress",),
    "mm.pictures": ("mm.hooks.draw_images",),
    "mm.checkpointing": ("mm.hooks.checkpointing",),
    "mm.reproduce": ("mm.hooks.reproducible",),
    "mm.optim": ("mm.runtime.optim",),
    "mm.strategies": ("mm.runtime.fsdp",),
    "mm.launch": ("mm.runtime.launch", "mm.config.checks"),
    "mm.config": ("mm.config.load", "mm.config.checks"),
    "mm.data": ("mm.config.own_data", "mm.config.data_checks", "mm.config.splits"),
    "mm.tree": ("mm.config.walk",),
    "mm.classes": ("mm.inference.classes",),
    "mm.samples": ("mm.inference.samples",),
    "mm.browse": ("mm.inference.browse",),
    "mm.predict": ("mm.inference.predict", "inference.stream", "inference.write"),
}
"""The new modules of each old module, without the name of the package."""

NAMES = {
    "PICTURE_SUFFIXES": "IMAGE_SUFFIXES",
    "PictureError": "ImageError",
    "PicturesHook": "DrawImagesHook",
    "WholeCheckpointHook": "AtomicCheckpointHook",
    "about": "naming",
    "find": "resolve",
    "find_checkpoint": "resolve",
    "is_first": "is_rank_zero",
    "is_first_here": "is_local_rank_zero",
    "last_whole_checkpoint": "last_intact_checkpoint",
    "locate": "resolve",
    "locate_once": "resolve_once",
    "load_whole": "load_complete",
    "make_whole": "make_unsharded",
    "read_picture": "read_image",
    "save_whole": "save_atomic",
    "unknown_name": "did_you_mean",
    "whole": "atomic_write",
    "write_picture": "write_image",
}
"""The new name of each renamed function or class."""


def install() -> None:
    """Serves the old modules. Repeated calls have no further effect."""
    if not any(getattr(finder, "serves", None) == _PACKAGE for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def old_names(old: str) -> Callable[[str], Any]:
    """Makes the ``__getattr__`` of a module that serves the names of an old module.

    Args:
        old: A key of :data:`MODULES`.

    Returns:
        A function from a name to its value. The function warns, and raises AttributeError for an unknown name.
    """

    def get(name: str) -> Any:
        if not name.startswith("__"):
            new_name = NAMES.get(name, name)
            for module in MODULES[old]:
                value = getattr(import_module(f"{_PACKAGE}.{module}"), new_name, None)
                if value is not None:
                    warnings.warn(
                        f"{_PACKAGE}.{old}.{name} is now {_PACKAGE}.{module}.{new_name}; the old name goes with the "
                        "next release.",
                        DeprecationWarning,
                        stacklevel=2,
                    )
                    return value
        raise AttributeError(f"module '{_PACKAGE}.{old}' has no attribute {name!r}")

    return get


class _CallableModule(ModuleType):
    """An old module that can be called like the function of the same name.

    Python stores an imported module as an attribute of its package. So ``import xcit_dense.deploy`` would hide the
    function ``xcit_dense.deploy``.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_PACKAGE + "." + MODULES[name][0]), name)(*args, **kwargs)


class _Finder:
    """Finder and loader of the old modules. Python asks this finder last."""

    serves = _PACKAGE

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        old = fullname.removeprefix(f"{_PACKAGE}.")
        if old == fullname or old not in MODULES:
            return None
        # data is a package, because it contains data.scene.
        return ModuleSpec(fullname, self, is_package=old == "data")  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _CallableModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(f"{_PACKAGE}.")
        vars(module)["__getattr__"] = old_names(old)
