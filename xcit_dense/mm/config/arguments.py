"""Checks options of the command line against what the classes of a config accept."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODEL_WRAPPERS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    STRATEGIES,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
)
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from xcit_dense.errors import UserError, nearest
from xcit_dense.mm.config.dataset_class import type_of

_REGISTRIES = (
    *(MODELS, DATASETS, TRANSFORMS, METRICS, HOOKS, OPTIMIZERS, OPTIM_WRAPPERS, PARAM_SCHEDULERS, LOOPS),
    *(VISBACKENDS, VISUALIZERS, LOG_PROCESSORS, DATA_SAMPLERS, TASK_UTILS, EVALUATOR, STRATEGIES, MODEL_WRAPPERS),
    WEIGHT_INITIALIZERS,
)
# Keys that MMEngine reads before it calls the class of a part.
_OF_MMENGINE = (
    *("type", "_scope_", "_delete_", "init_cfg", "priority", "constructor", "paramwise_cfg", "convert_to_iter_based"),
    *("by_epoch", "num_batch_per_epoch"),
)
# Keys at the top of a config that are not arguments of MMEngine's runners.
_AT_THE_TOP = ("custom_imports", "find_unused_parameters", "tta_model", "tta_pipeline", "data_root", "dataset_type")


def arguments_of(kind: Any) -> tuple[list[str], bool]:
    """Lists the arguments that a class or function accepts by name.

    Args:
        kind: The class, whose arguments may continue in its base classes, or the function.

    Returns:
        The names, and whether the list is complete. It is not complete if the last function accepts any name.

    Example:
        >>> class Base:
        ...     def __init__(self, size): ...
        >>> class Part(Base):
        ...     def __init__(self, colour, **kwargs): ...
        >>> arguments_of(Part)
        (['colour', 'size'], True)
    """
    functions: list[Any] = [kind]
    if inspect.isclass(kind):
        functions = [vars(each)["__init__"] for each in kind.__mro__ if "__init__" in vars(each)]
    names: list[str] = []
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a function that is not written in Python
            return names, False
        names += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if not any(each.kind == each.VAR_KEYWORD for each in parameters):
            return [name for name in dict.fromkeys(names) if name != "self"], True
    return [name for name in dict.fromkeys(names) if name != "self"], False


def check_options(before: Config, after: Config, options: Iterable[str]) -> None:
    """Checks that new keys in options are known to the parts of the config that they belong to.

    Args:
        before: The config without the options.
        after: The config with the options, because an option may set the type of a part.
        options: The dotted keys of the options.

    Raises:
        UserError: A key is neither in the config nor an argument of the part's class. The message names the nearest
            key.
    """
    for option in options:
        _check_option(before, after, option)


def _check_option(before: Config, after: Config, option: str) -> None:
    old: Any = before
    new: Any = after
    parent = ""
    for key in option.split("."):
        if isinstance(old, list | tuple):
            if int(key) >= len(old):
                return
            old, new = old[int(key)], new[int(key)]
        elif not isinstance(old, dict | Config):
            return
        elif key in old:
            old, new = old[key], new[key]
        else:
            _check_new_key(before, after, option, key, parent, list(map(str, old)), new)
            return
        parent = key


def _check_new_key(
    before: Config, after: Config, option: str, key: str, parent: str, keys: list[str], node: Any
) -> None:
    if node is after:
        names, is_complete = [*arguments_of(Runner)[0], *arguments_of(FlexibleRunner)[0], *_AT_THE_TOP], True
    elif parent.endswith("_dataloader"):
        names, is_complete = arguments_of(DataLoader)
    else:
        kinds = [type_of(after, node, registry) for registry in _REGISTRIES] if "type" in node else []
        found = [kind for kind in kinds if callable(kind)]
        names, is_complete = arguments_of(found[0]) if found else ([], False)
    if key in names or key in _OF_MMENGINE or option in ("train_cfg.max_epochs", "train_cfg.max_iters"):
        return  # the check of the loops has a clearer message for the length of a training
    near = nearest(key, [*keys, *names])
    if near is None and not is_complete:
        return
    near = near or _find_elsewhere(before, option)
    listed = ", ".join([*keys, *(name for name in names if name not in keys)][:20])
    hint = f"Did you mean {near!r}?" if near else f"There are {listed}."
    raise UserError(f"--cfg-options {option}: the config has no {key!r} there. {hint}")


def _find_elsewhere(config: Config, option: str) -> str | None:
    """Finds a key elsewhere in a config whose name ends as an option does."""
    length = option.count(".") + 1
    ends: dict[str, str] = {}
    for path in _paths(config):
        ends.setdefault(".".join(path.split(".")[-length:]), path)
    last = option.rpartition(".")[2]
    similar = nearest(option, [end for end in ends if nearest(last, [end.rpartition(".")[2]])])
    return ends[similar] if similar else None


def _paths(node: Any, name: str = "") -> Iterator[str]:
    """Iterates over the dotted keys of all values in a part of a config."""
    if isinstance(node, dict | Config):
        for key, value in node.items():
            yield from _paths(value, f"{name}.{key}" if name else str(key))
    elif name:
        yield name
