"""What the command lines share.

No MM library is imported before the device has been chosen: MMEngine looks for a GPU when it is imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

# Where launchers other than torchrun say which of its machine's processes this is.
LOCAL_RANKS = {"slurm": "SLURM_LOCALID", "mpi": "OMPI_COMM_WORLD_LOCAL_RANK"}


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
    parser = make_config_parser(description, [make_device_parser(argv)])
    add_data_root(parser)
    parser.add_argument("--work-dir", metavar="DIR", help="where to write; default work_dirs/NAME_OF_CONFIG")
    add_launcher(parser, ["none", "pytorch", "slurm", "mpi"])
    return parser


def make_device_parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Makes a parser of ``--device`` alone, to be a parent of others.

    Args:
        argv: As for :func:`make_parser`.

    Raises:
        UserError: ``--device cuda`` on a machine without CUDA.
    """
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to run; auto (the default) takes a GPU if there is one",
    )
    choose_device(device.parse_known_args(argv)[0].device)
    return device


def make_config_parser(description: str, parents: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    """Makes a parser of a config and of what changes it, once the device has been chosen.

    Args:
        description: What the tool does.
        parents: Parsers whose options come first.

    Raises:
        MissingLibraryError: No MM library is installed.
    """
    from xcit_dense import mm  # noqa: F401  # isort: skip
    from mmengine.device import utils

    from xcit_dense.mm.config.load import OptionAction

    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        utils.DEVICE = "cpu"  # not another accelerator that MMEngine has found

    parser = argparse.ArgumentParser(
        description=description, parents=list(parents), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file, for detection or segmentation")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionAction,
        default={},
        metavar="KEY=VALUE",
        help="values that replace the config's, e.g. train_dataloader.batch_size=4",
    )
    return parser


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data-root``.

    Args:
        parser: The parser.
    """
    parser.add_argument("--data-root", metavar="DIR", help="data directory, in place of the config's")


def add_launcher(parser: argparse.ArgumentParser, launchers: Sequence[str]) -> None:
    """Adds ``--launcher``, and the rank that some launchers pass.

    Args:
        parser: The parser.
        launchers: Those that the tool knows, ``'none'`` first.
    """
    parser.add_argument("--launcher", choices=launchers, default=launchers[0], help="who started the processes")
    # torchrun's predecessor passes the rank on the command line.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


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


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a tool that takes data with classes of its own.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--classes",
        metavar="auto|A,B,C",
        help="data of your own in --data-root, with the classes that it has (auto), or with these",
    )
    parser.add_argument(
        "--ignore-zero",
        action="store_true",
        help="0 in your label pictures marks pixels without a label, and classes begin with 1",
    )


def make_config(args: argparse.Namespace, loaders: tuple[str, ...], weights: bool = True) -> Config:
    """Reads, adapts and checks the config that the shared options describe.

    Args:
        args: From :func:`make_parser`.
        loaders: The data loaders that the run will use, whose data is checked.
        weights: Whether the weights that a training starts from are checked too.

    Returns:
        The config of the run. As launchers expect, ``LOCAL_RANK`` is set too.

    Raises:
        UserError: Something in the config, the data or the options does not fit.
    """
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config

    set_local_rank(args)
    own = {"classes": args.classes, "ignore_zero": args.ignore_zero} if "classes" in args else {}
    config = load_config(args.config, args.cfg_options, args.data_root, **own)
    config.launcher = args.launcher
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs", Path(args.config).stem))
    check_config(config, loaders, weights)
    return config


def set_local_rank(args: argparse.Namespace) -> None:
    """Sets ``LOCAL_RANK``, where a launcher says in another way which of its machine's processes this is.

    Args:
        args: With the options of :func:`add_launcher`.
    """
    rank = os.environ.get(LOCAL_RANKS.get(args.launcher, ""), args.local_rank)
    os.environ.setdefault("LOCAL_RANK", str(rank))


def find_checkpoint(weights: str) -> str:
    """The checkpoint that a command line means. No MM library is needed.

    Args:
        weights: A checkpoint, an address, a published name (``'xcit://...'``, or the name alone), or a training's work
            directory, of which it is the last whole one.

    Returns:
        A path or an address.

    Raises:
        UserError: There is none.
    """
    if "://" in weights:
        return weights
    path = Path(weights)
    if path.is_dir():
        from xcit_dense.weights.work_dir import last_intact_checkpoint

        last = last_intact_checkpoint(path)
        if last is None:
            raise UserError(f"No training has left a checkpoint in {path}; name a checkpoint or a work directory.")
        return str(last)
    if not path.is_file():
        import difflib

        from xcit_dense.weights.zoo import SCHEME, ZOO

        if weights in ZOO:
            return SCHEME + weights
        near = difflib.get_close_matches(weights, ZOO, n=1, cutoff=0.8)
        hint = f" Did you mean the published {near[0]!r}?" if near else ""
        raise UserError(f"No checkpoint at {path}, and no published weights of that name; check the path.{hint}")
    return str(path)
