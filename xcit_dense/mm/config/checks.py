"""Checks a config before the run writes files."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, STRATEGIES, WEIGHT_INITIALIZERS
from torch import cuda, device

from xcit_dense.datasets.formats.coco import read_categories
from xcit_dense.errors import INSTALL_MM, MissingLibraryError, UserError
from xcit_dense.mm.config.dataset_class import classes_of, ignores_zero, is_a, reads_coco, type_of
from xcit_dense.mm.config.evaluators import check_evaluators, check_named_metrics
from xcit_dense.mm.config.heads import check_heads
from xcit_dense.mm.config.levels import check_levels
from xcit_dense.mm.config.loops import check_loops
from xcit_dense.mm.config.requirements import check_requirements
from xcit_dense.mm.config.splits import LOADERS
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.models.backbone import Backbone
from xcit_dense.utils.ranks import is_local_rank_zero
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

# The environment variables that each launcher sets, and the command that starts processes with the launcher.
_LAUNCHERS = {
    "pytorch": (("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "torchrun --nproc-per-node 8 TOOL"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID"), "srun --ntasks 8 python TOOL"),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
        "mpirun -n 8 -x MASTER_ADDR=localhost python TOOL",
    ),
}


def check_launcher(config: Config) -> None:
    """Checks that ``config.launcher`` has started this process.

    Args:
        config: A complete config.

    Raises:
        UserError: Another launcher or none has started the process, or the process has no GPU on a machine with GPUs.
    """
    launcher = config.get("launcher", "none")
    if launcher == "none":
        if is_a(config, config.get("strategy") or {}, "FSDPStrategy", STRATEGIES):
            raise UserError(
                f"The strategy {config.strategy.type} distributes a model over several processes; start them with "
                f"{_LAUNCHERS['pytorch'][1]} --launcher pytorch."
            )
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes, but with --launcher none each process "
                "would train by itself; write --launcher pytorch."
            )
        return
    variables, command = _LAUNCHERS[launcher]
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} needs processes that {launcher} has started, but {', '.join(missing)} is not set; "
            f"start them with {command} --launcher {launcher}, or write --launcher none for a single process."
        )
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), cuda.device_count()
    if get_device() == "cuda" and rank >= count:
        raise UserError(
            f"Process {rank} of this machine (counted from 0) finds {count} GPUs; start at most {count} processes a "
            "machine, and let each see all of its GPUs (with Slurm --gpus-per-node, not --gpus-per-task)."
        )


def check_config(config: Config, loaders: tuple[str, ...] = LOADERS, weights: bool = True) -> None:
    """Checks the launcher, the model, the loops, the data, the evaluators and the weights of a config.

    Args:
        config: A complete config.
        loaders: The data loaders that the run will use.
        weights: Whether to check the weights that a training starts from. The check may download the weights. Without
            ``'train_dataloader'`` in ``loaders``, the weights are not checked.

    Raises:
        UserError: The config does not fit. The message names what to write instead.
        MissingLibraryError: The config needs a library that is not installed.
    """
    check_launcher(config)
    _check_libraries(config)
    check_requirements(config, loaders)
    check_loops(config, loaders)
    backbone = _build_backbone(config)
    for loader in loaders:
        for dataset in datasets_in(config.get(loader)):
            _check_dataset(config, dataset)
    check_heads(config, loaders)
    check_evaluators(config, loaders)
    if "train_dataloader" in loaders:
        check_named_metrics(config)
        if weights and backbone is not None:
            _check_weights(config, backbone)


def _check_libraries(config: Config) -> None:
    scope = config.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    if find_spec(scope) is None:
        raise MissingLibraryError(
            f"The config has default_scope = {scope!r}, which is not installed; write {INSTALL_MM}."
        )
    if "model" not in config:
        raise UserError("The config has no model; take one of configs/_base_/models into its _base_.")


def _build_backbone(config: Config) -> Backbone | None:
    """Builds the backbone of a config without its numbers, which tests its arguments.

    Returns None if the backbone is not one of this package.
    """
    backbone = config.model.get("backbone")
    if backbone is None:  # the model wraps another model in a way of its own
        return None
    backbone_class = type_of(config, backbone, MODELS)
    if backbone_class is None:
        raise UserError(
            f"The backbone {backbone.get('type')!r} is not registered; write 'XCiT', 'TokenPyramid' or 'CoaT', or "
            "add the module that registers it to custom_imports = dict(imports=[...]) in the config."
        )
    if not isinstance(backbone_class, type) or not issubclass(backbone_class, Backbone):
        return None
    with device("meta"):  # tests the arguments without using memory or time
        built = backbone_class(**{key: value for key, value in backbone.items() if key not in ("type", "init_cfg")})
    check_levels(config, built)
    return built


def _check_weights(config: Config, backbone: Backbone) -> None:
    """Checks that the weights that a training starts from fit the backbone."""
    start = config.model.backbone.get("init_cfg")
    # Only one process downloads. The other processes wait for the download when they build the model.
    if isinstance(start, dict) and is_a(config, start, "PretrainedInit", WEIGHT_INITIALIZERS) and is_local_rank_zero():
        path = resolve(start["checkpoint"])
        weights = read_weights(path)
        with naming(path):
            backbone.translate(backbone.adapt_input(weights)[0])


def _check_dataset(config: Config, dataset: Any) -> None:
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
        if reads_coco(config, dataset):
            _check_categories(path, classes_of(config, dataset))
    for step in dicts_in(dataset.get("pipeline")):
        given = step.get("reduce_zero_label")
        if given is not None and is_a(config, dataset, "BaseSegDataset") and given != ignores_zero(config, dataset):
            raise UserError(
                f"{step.type} of a data set's pipeline has reduce_zero_label={given}, but the data set has "
                f"reduce_zero_label={not given}; set both to the same value, True if 0 marks pixels without a label."
            )


def _check_categories(path: Path, classes: list[str]) -> None:
    present = [category["name"] for category in read_categories(path, classes)]
    # MMDetection numbers the classes in the order of the file and ignores the order in the config.
    if [name for name in present if name in classes] != classes:
        raise UserError(
            f"{path} has the categories {', '.join(present)}, but the config has the classes {', '.join(classes)}; "
            "write metainfo = dict(classes=...) in the config's data sets, with names of the file in the order of the "
            "file. With --classes, give all files the categories of the training file, in the same order."
        )
