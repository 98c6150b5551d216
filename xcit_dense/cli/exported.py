"""The arguments of predict for an exported model, which needs no MM library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from xcit_dense.cli.options import band_options, choose_device
from xcit_dense.errors import UserError


def read_exported_arguments(args: argparse.Namespace) -> tuple[str, Sequence[str]]:
    """Checks the options, and chooses the device.

    Args:
        args: The parsed arguments of predict. The first word is an exported model.

    Returns:
        The model and the inputs.

    Raises:
        UserError: The inputs are missing, or an option has no meaning for an exported model.
    """
    path, *inputs = args.words
    given = [("--cfg-options", args.cfg_options), ("--launcher", args.launcher != "none")]
    given += [(f"--{name.replace('_', '-')}", value) for name, value in band_options(args).items()]
    for option, value in given:
        if value:
            raise UserError(f"{path} is an exported model, for which {option} has no meaning; leave it out.")
    if not inputs:
        raise UserError(f"No input after {path}; write images, videos or directories after the model.")
    choose_device(args.device)
    return path, inputs
