"""What the subcommands share.

A command line is parsed before torch or an MM library is imported: ``--help`` is quick and works without them, and
``--device cpu`` hides the GPUs before a library looks for one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

    from xcit_dense.cli.positionals import Positionals

# Environment variables in which launchers other than torchrun pass the rank of a process on its machine.
LOCAL_RANKS = {"slurm": "SLURM_LOCALID", "mpi": "OMPI_COMM_WORLD_LOCAL_RANK"}

CONFIG_HELP = "a config file, or the name of a shipped config such as mask_rcnn_xcit_s12"
WEIGHTS_HELP = (
    "a checkpoint, the work directory of a training, a saved model, an address (hf://USER/REPOSITORY), or a published "
    "name such as {}"
)


def add_words(parser: argparse.ArgumentParser, usage: str, explanation: str, required: str = "") -> None:
    """Adds positional arguments, which :mod:`xcit_dense.cli.positionals` interprets.

    Args:
        parser: The parser.
        usage: The positional arguments as the usage line shows them.
        explanation: What they mean.
        required: The options that must be given, as the usage line shows them.
    """
    parser.usage = f"%(prog)s {usage} {required} [options]" if required else f"%(prog)s {usage} [options]"
    parser.add_argument("words", nargs="+", metavar=usage.replace("[", "").replace("]", ""), help=explanation)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values that replace the config's, e.g. train_dataloader.batch_size=4",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that training and testing share.

    Args:
        parser: The parser.
    """
    add_config_options(parser)
    add_device(parser)
    add_data_root(parser)
    add_crowds(parser)
    parser.add_argument("--work-dir", metavar="DIR", help="where to write; default work_dirs/NAME_OF_CONFIG")
    add_launcher(parser, ["none", "pytorch", "slurm", "mpi"])


def add_crowds(parser: argparse.ArgumentParser) -> None:
    """Adds ``--crowd-as-objects``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--crowd-as-objects",
        action="store_true",
        help="use objects with iscrowd=1 as single objects, for tools that write iscrowd=1 for each mask",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="where to run; auto (the default) takes a GPU if there is one",
    )


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data-root``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="data directory (or a .yaml, .json, .csv or .zip file), in place of the config's",
    )


def add_launcher(parser: argparse.ArgumentParser, launchers: Sequence[str]) -> None:
    """Adds ``--launcher``, and the rank that some launchers pass.

    Args:
        parser: The parser.
        launchers: The launchers that the command supports, ``'none'`` first.
    """
    parser.add_argument("--launcher", choices=launchers, default=launchers[0], help="what started the processes")
    # torchrun's predecessor passes the rank on the command line.
    parser.add_argument("--local-rank", "--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def add_own_data(parser: argparse.ArgumentParser, has_seed: bool = False) -> None:
    """Adds the options of a command that takes data with classes of its own.

    Args:
        parser: The parser.
        has_seed: Whether the command has an option ``--seed`` already, which then also chooses validation images.
    """
    parser.add_argument(
        "--classes",
        metavar="auto|A,B,C",
        help="data of your own in --data-root, with the classes that the data has (auto), or with these",
    )
    parser.add_argument(
        "--ignore-zero",
        action="store_true",
        help="0 in your label images marks pixels without a label, and classes begin with 1",
    )
    add_colours(parser)
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="split this share of the training images off for validation, e.g. 0.1",
    )
    if not has_seed:
        parser.add_argument("--seed", type=int, metavar="N", help="of --val-fraction's choice of images; default 0")


def add_colours(parser: argparse.ArgumentParser) -> None:
    """Adds ``--colours``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--colours",
        metavar="FILE",
        help="the class of each colour in your label images, one a line, e.g. road: 128,64,128",
    )


def read_own_data(args: argparse.Namespace) -> dict[str, Any]:
    """Reads the options of :func:`add_own_data`.

    Args:
        args: The parsed arguments.

    Returns:
        Arguments for :func:`xcit_dense.mm.config.load.load_config`. Empty if the command does not have the options.
    """
    from xcit_dense.datasets.formats.validation import Validation

    if "val_fraction" not in args:
        return {}
    values: dict[str, Any] = {"classes": args.classes, "ignore_zero": args.ignore_zero, "colours": args.colours}
    if args.val_fraction is not None:
        values["validation"] = Validation(args.val_fraction, args.seed or 0)
    return values


def add_bands(parser: argparse.ArgumentParser, trains: bool) -> None:
    """Adds the options for images with other bands than red, green and blue, or with more than 8 bits.

    Args:
        parser: The parser.
        trains: Whether the command uses training images, so that it can measure the mean and the standard deviation.
            Other commands measure only on request, because the model needs the values of its training.
    """
    parser.add_argument(
        "--bands", metavar="N,N,N", help="bands of the image files, counted from 1, in the order for the model"
    )
    parser.add_argument("--draw-bands", metavar="N,N,N", help="three of --bands for drawings; default the first three")
    parser.add_argument(
        "--normalize",
        choices=["data", "config"],
        default="auto" if trains else None,
        help="mean and standard deviation: measured from training images, or the config's; default with --bands: "
        + ("data" if trains else "those in the config of the training"),
    )


def band_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of :func:`xcit_dense.mm.config.load.load_config` about bands.

    Args:
        args: With the options of :func:`add_bands`.
    """
    return {"bands": args.bands, "draw_bands": args.draw_bands, "normalize": args.normalize}


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Adds ``--verbose``.

    Args:
        parser: The parser.
    """
    parser.add_argument("--verbose", action="store_true", help="print all that the log file receives")


def choose_device(name: str) -> None:
    """Lets PyTorch see a GPU or not.

    Args:
        name: ``'auto'``, ``'cpu'`` or ``'cuda'``.

    Raises:
        UserError: ``'cuda'`` on a machine without CUDA.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"--device cuda, but this torch ({torch.__version__}) finds no CUDA device; write --device cpu, or "
                "check the driver with nvidia-smi."
            )


def start_mm(device: str = "auto") -> None:
    """Chooses the device, then imports the MM libraries and registers xcit_dense in them.

    Args:
        device: As for :func:`choose_device`.

    Raises:
        UserError: ``'cuda'`` on a machine without CUDA.
        MissingLibraryError: No MM library is installed.
    """
    choose_device(device)
    from xcit_dense import mm  # noqa: F401  # isort: skip

    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        from xcit_dense.mm.patches import cpu_only

        cpu_only.install()


def read_config_options(options: Sequence[str] | dict[str, Any]) -> dict[str, Any]:
    """Reads ``--cfg-options`` as MMEngine does.

    Args:
        options: Each ``KEY=VALUE``. A call from Python gives values by dotted key, which are returned.

    Returns:
        Values by dotted key.

    Raises:
        UserError: An option is not ``KEY=VALUE``.
    """
    if isinstance(options, dict):
        return options
    from xcit_dense.mm.config.load import OptionAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionAction, default={})
    values: dict[str, Any] = parser.parse_args(["--cfg-options", *options] if options else []).cfg_options
    return values


def make_config(
    args: argparse.Namespace, positionals: Positionals, loaders: tuple[str, ...], weights: bool = True
) -> Config:
    """Reads, adapts and checks the config of a training or test.

    Args:
        args: With the options of :func:`add_run_options` and :func:`add_bands`, and perhaps those of
            :func:`add_own_data`.
        positionals: What the positional arguments mean.
        loaders: The data loaders that the run will use, whose data is checked.
        weights: Whether the weights that a training starts from are checked too.

    Returns:
        The config of the run. As launchers expect, ``LOCAL_RANK`` is set too.

    Raises:
        UserError: Something in the config, the data or the options does not fit.
    """
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.config.repaired import use_repaired
    from xcit_dense.utils.ranks import is_local_rank_zero

    set_local_rank(args)
    if getattr(args, "seed", None) is not None and args.val_fraction is None:
        raise UserError(
            "--seed chooses the images of --val-fraction; write --val-fraction 0.1 too, or --cfg-options "
            f"randomness.seed={args.seed} for the seed of the training."
        )
    config = load_config(
        positionals.config,
        read_config_options(args.cfg_options),
        args.data_root,
        work_dir=args.work_dir or positionals.work_dir,
        keep_classes="train_dataloader" not in loaders,
        **read_own_data(args),
        **band_options(args),
    )
    config.launcher = args.launcher
    # A work directory may have been moved since its config was written.
    work_dir = args.work_dir or positionals.work_dir or config.get("work_dir")
    config.work_dir = str(work_dir or Path("work_dirs", positionals.config.stem))
    if args.crowd_as_objects:
        config.crowd_as_objects = True
    repairs = use_repaired(config, loaders, config.work_dir)
    if is_local_rank_zero():
        print(*repairs, sep="\n", end="\n" * bool(repairs), flush=True)
    check_config(config, loaders, weights)
    return config


def set_local_rank(args: argparse.Namespace) -> None:
    """Sets ``LOCAL_RANK`` where a launcher passes the rank in another way.

    Args:
        args: With the options of :func:`add_launcher`.
    """
    rank = os.environ.get(LOCAL_RANKS.get(args.launcher, ""), args.local_rank)
    os.environ.setdefault("LOCAL_RANK", str(rank))


def find_checkpoint(weights: str) -> str:
    """Finds the checkpoint that a command line means, and downloads nothing. No MM library is needed.

    Published weights stay an address: MMEngine's loader downloads the file on rank 0 while other processes wait.

    Args:
        weights: As for :func:`xcit_dense.weights.resolve.resolve`.

    Returns:
        A path or an address.

    Raises:
        UserError: There is no such checkpoint.
    """
    from xcit_dense.cli.positionals import is_exported
    from xcit_dense.weights.resolve import check, resolve
    from xcit_dense.weights.zoo import SCHEME, ZOO

    if is_exported(weights):
        raise UserError(f"{weights} is an exported model; write the checkpoint that it was exported from.")
    if "://" in weights:
        check(weights)
        return weights
    if weights in ZOO and not Path(weights).exists():
        return SCHEME + weights
    return str(resolve(weights))
