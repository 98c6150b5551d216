"""What the command lines of training and testing share.

No MM library is imported before the device has been chosen: MMEngine looks for a GPU when it is imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config


def make_parser(description: str, argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Makes a parser with the options that training and testing share.

    Args:
        description: What the tool does, one line.
        argv: The command line; by default that of the process. Its ``--device`` takes effect at once.

    Returns:
        The parser, for a tool to add its own options to.

    Raises:
        UserError: ``--device cuda`` on a machine without CUDA.
        MissingLibraryError: No MM library is installed.
    """
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to run; auto (the default) takes a GPU if there is one",
    )
    choose_device(device.parse_known_args(argv)[0].device)

    from . import mm  # noqa: F401  # isort: skip
    from mmengine.config import DictAction
    from mmengine.device import utils

    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        utils.DEVICE = "cpu"  # not another accelerator that MMEngine has found

    parser = argparse.ArgumentParser(description=description, parents=[device])
    parser.add_argument("config", help="config file, for detection or segmentation")
    parser.add_argument("--data-root", metavar="DIR", help="data directory, in place of the config's")
    parser.add_argument("--work-dir", metavar="DIR", help="where to write; default work_dirs/NAME_OF_CONFIG")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="values that replace the config's, e.g. train_dataloader.batch_size=4",
    )
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="who started the processes"
    )
    # torchrun's predecessor passes the rank on the command line.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def choose_device(name: str) -> None:
    """Lets PyTorch see a GPU or not.

    Args:
        name: ``'auto'``, ``'cpu'`` or ``'cuda'``.

    Raises:
        UserError: ``'cuda'`` on a machine without CUDA.
    """
    import torch

    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device cuda, but this torch ({torch.__version__}) finds no CUDA device; write --device cpu, or check "
            "the driver with nvidia-smi."
        )


def make_config(args: argparse.Namespace, loaders: tuple[str, ...]) -> Config:
    """Reads, adapts and checks the config that the shared options describe.

    Args:
        args: From :func:`make_parser`.
        loaders: The data loaders that the run will use, whose data is checked.

    Returns:
        The config of the run. As launchers expect, ``LOCAL_RANK`` is set too.

    Raises:
        UserError: Something in the config, the data or the options does not fit.
    """
    from .mm.config import check_config, load_config

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    config = load_config(args.config, args.cfg_options, args.data_root)
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs", Path(args.config).stem))
    check_config(config, loaders)
    return config


def find_checkpoint(weights: str) -> str:
    """The checkpoint that a command line means.

    Args:
        weights: A checkpoint, an address, a published name (``'xcit://...'``), or a training's work directory, of which
            it is the last one written.

    Raises:
        UserError: There is none.
    """
    if "://" in weights:
        return weights
    path = Path(weights)
    if path.is_dir():
        from mmengine.runner import find_latest_checkpoint

        latest = find_latest_checkpoint(weights)
        if latest is None:
            raise UserError(f"No training has left a checkpoint in {path}; name a checkpoint or a work directory.")
        path = Path(latest)
    if not path.is_file():
        raise UserError(f"No checkpoint at {path}; check the path.")
    return str(path)
