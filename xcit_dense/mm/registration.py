"""Registers models in the MM libraries, and checks the arguments that configs give them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import Any

from mmengine.registry import MODELS

from xcit_dense.errors import UserError, did_you_mean


def register_model(model: Any) -> None:
    """Registers a model under its name for MMEngine and for each of MMDetection and MMSegmentation that is installed.

    Args:
        model: The class of the model.
    """
    MODELS.register_module(name=model.__name__, module=model, force=True)
    for library in ("mmdet", "mmseg"):
        if find_spec(library) is not None:
            import_module(f"{library}.registry").MODELS.register_module(name=model.__name__, module=model, force=True)


def register_when_used(library: str, module: str) -> None:
    """Lets a library import a module, which registers models, as soon as the library looks up its first model.

    A subclass of a library's model needs the library's models, whose import takes seconds.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``. It may be missing.
        module: The name of the module.
    """
    if find_spec(library) is None:
        return
    # MMEngine accepts modules only from the author of a registry, so that the names below are not public.
    registry = import_module(f"{library}.registry").MODELS
    if registry._imported:
        import_module(module)
    elif module not in registry._locations:
        registry._locations.append(module)


def check_arguments(name: str, model: Any, given: Iterable[str]) -> None:
    """Refuses arguments that a model does not have.

    Args:
        name: The name of the model in the message.
        model: The class of the model without ``init_cfg``.
        given: The names of the arguments.

    Raises:
        UserError: The model does not have one of the arguments.
    """
    known = signature(model).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for argument in given:
        if argument not in known:
            raise UserError(did_you_mean(f"argument of {name}", argument, [*known, "init_cfg"]))
