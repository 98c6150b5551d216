"""What can be checked before a run writes anything."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope
from torch import cuda, device

from xcit_dense.errors import INSTALL_MM, MissingLibraryError, UserError
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.load import _check_categories
from xcit_dense.mm.config.own_data import LOADERS
from xcit_dense.mm.config.walk import datasets_in
from xcit_dense.models.state_dict import translate
from xcit_dense.models.xcit import XCiT
from xcit_dense.utils.ranks import is_local_rank_zero
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

# What each launcher tells its processes, and how its users start them.
_LAUNCHERS = {
    "pytorch": (("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "torchrun --nproc-per-node 8 TOOL"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID"), "srun --ntasks 8 python TOOL"),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
        "mpirun -n 8 -x MASTER_ADDR=localhost python TOOL",
    ),
}


def check_launcher(config: Config) -> None:
    """Checks that the processes were started in the way that ``config.launcher`` says.

    Args:
        config: A whole config.

    Raises:
        UserError: They were not, or a process has no GPU on a machine with GPUs.
    """
    launcher = config.get("launcher", "none")
    if launcher == "none":
        if (config.get("strategy") or {}).get("type", "").endswith("FSDPStrategy"):
            raise UserError(
                f"{config.strategy.type} shards a model over several processes; start them with "
                f"{_LAUNCHERS['pytorch'][1]} --launcher pytorch."
            )
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes, but with --launcher none each would run "
                "alone; write --launcher pytorch."
            )
        return
    variables, command = _LAUNCHERS[launcher]
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} is for processes that were started by it, but {', '.join(missing)} is not set; "
            f"start them with {command} --launcher {launcher}, or write --launcher none for a single process."
        )
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), cuda.device_count()
    if get_device() == "cuda" and rank >= count:
        raise UserError(
            f"Process {rank} of this machine (counted from 0) finds {count} GPUs; start at most {count} processes a "
            "machine, and let each see all of its GPUs (with Slurm --gpus-per-node, not --gpus-per-task)."
        )


def check_config(config: Config, loaders: tuple[str, ...] = LOADERS, weights: bool = True) -> None:
    """Checks what can be checked before a run writes anything: backbone, widths that must agree, weights, data.

    Args:
        config: A whole config.
        loaders: The data loaders that the run will use; with that of training, the weights to start from are checked.
        weights: Whether they are to be; they may have to be downloaded.

    Raises:
        UserError: Something is wrong; the message says what to write instead.
    """
    check_launcher(config)
    _check_visualizer(config)
    _check_backbone(config, pretrained=weights and "train_dataloader" in loaders)
    for loader in loaders:
        for dataset in datasets_in(config.get(loader)):
            _check_dataset(dataset)


def _check_visualizer(config: Config) -> None:
    libraries = {"TensorboardVisBackend": "tensorboard", "WandbVisBackend": "wandb"}
    for backend in (config.get("visualizer") or {}).get("vis_backends") or []:
        library = libraries.get(backend.get("type"))
        if library and find_spec(library) is None:
            raise MissingLibraryError(
                f"The config logs to {backend.type}, but {library} is not installed; write pip install {library}, or "
                "leave it out of vis_backends."
            )


def _check_backbone(config: Config, pretrained: bool) -> None:
    scope = config.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    if find_spec(scope) is None:
        raise MissingLibraryError(
            f"The config has default_scope = {scope!r}, which is not installed; write {INSTALL_MM}."
        )
    if "model" not in config:
        raise UserError("The config has no model; take one of configs/_base_/models into its _base_.")
    backbone = config.model.get("backbone")
    if backbone is None:  # inside another model, which knows where
        return
    import_library(scope, "models")
    import_library(scope, "datasets")
    models = import_module(f"{scope}.registry").MODELS
    kind = backbone.get("type")
    with DefaultScope.overwrite_default_scope(scope):
        backbone_class = models.get(kind) if isinstance(kind, str) else kind
    if backbone_class is None:
        raise UserError(
            f"The backbone {kind!r} is not registered; write 'XCiT', or add the module that registers it to "
            "custom_imports = dict(imports=[...]) in the config."
        )
    if isinstance(backbone_class, type) and issubclass(backbone_class, XCiT):
        with device("meta"):  # no memory, no time: for the errors alone
            built = backbone_class(**{key: value for key, value in backbone.items() if key not in ("type", "init_cfg")})
        _check_widths(config.model, built.embed_dim)
        start = backbone.get("init_cfg")
        # By one process: the others wait for its download when they build the model.
        if pretrained and isinstance(start, dict) and start.get("type") == "Pretrained" and is_local_rank_zero():
            path = resolve(start["checkpoint"])
            weights = read_weights(path)
            with naming(path):
                translate(weights, "", built.state_dict())


def _check_widths(model: Any, width: int) -> None:
    """What reads the pyramid must be as wide as the backbone: MM's text configs cannot compute one from the other."""
    # A neck hides the backbone's levels from the heads behind it, and from necks after it.
    if model.get("neck"):
        parts = [("neck", _as_list(model.neck)[0])]
    else:
        parts = [(name, part) for name in ("decode_head", "auxiliary_head") for part in _as_list(model.get(name))]
    for name, part in parts:
        given = part.get("in_channels") if isinstance(part, dict) else None
        if given is None:
            continue
        given = given if isinstance(given, int) else list(given)
        needed = width if isinstance(given, int) else [width] * len(given)
        if given != needed:
            raise UserError(
                f"model.{name}.in_channels is {given}, but each level of this XCiT has {width} channels; write "
                f"model.{name}.in_channels={needed}."
            )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_dataset(dataset: Any) -> None:
    root = Path(dataset.get("data_root") or "")
    if not root.is_dir():
        raise UserError(f"No data directory at {root}; put the data there, or write --data-root DIR.")
    for name, prefix in (dataset.get("data_prefix") or {}).items():
        if prefix and not (root / prefix).is_dir():
            raise UserError(f"No directory at {root / prefix}, where the data set's {name!r} should be.")
    if dataset.get("ann_file"):
        path = root / dataset.ann_file
        if not path.is_file():
            raise UserError(f"No annotation file at {path}; put it there, or write --data-root DIR.")
        if dataset.type == "CocoDataset":
            _check_categories(path, dataset)
