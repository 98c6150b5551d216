"""Checkpoints in any dialect, written anew as files of weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.state_dict import Report, find_roots, infer_options, translate
from xcit_dense.models.xcit import XCiT
from xcit_dense.utils import files
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

SUFFIXES = (".safetensors", ".pth")


def convert_checkpoint(checkpoint: str | Path, out: str | Path, whole: bool = False) -> Report:
    """Writes the weights of a checkpoint under the names of :class:`xcit_dense.XCiT`.

    Args:
        checkpoint: As for :func:`xcit_dense.load_weights`.
        out: The file to write, ``.safetensors`` or ``.pth``; an older one is replaced.
        whole: Write neck and heads too, under their own names; by default the backbone alone.

    Returns:
        What was written of the backbone (``matched``), left out, and missing from a classifier.

    Raises:
        UserError: The checkpoint cannot be had or holds no whole XCiT, or ``out`` cannot be written.
    """
    source, out = resolve(checkpoint), Path(out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} must end in {' or '.join(SUFFIXES)}, which says how to write it.")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is the checkpoint to read; write to another file.")
    weights = read_weights(source)
    with naming(source):
        options = infer_options(weights)
        with torch.device("meta"):  # no memory, no time: for names and shapes alone
            model = XCiT(**options)
        backbone, report = translate(weights, "", model.state_dict())
    root = find_roots(weights)[0] if whole else ""
    rest = {name: value for name, value in weights.items() if whole and not name.startswith(root)}
    weights = {**rest, **{root + name: backbone[name] for name in report.matched}}
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    described = ("variant", "embed_dim", "depth", "patch_size", "num_heads")
    save_weights(weights, out, {name: str(options[name]) for name in described if name in options})
    return report


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes tensors to a file, whole or not at all.

    Args:
        weights: Tensors by name, which may share memory or be views; the file holds each by itself.
        path: ``.safetensors`` or ``.pth``; its directory is made.
        metadata: What a ``.safetensors`` file says about itself; a ``.pth`` file cannot.

    Raises:
        UserError: The file cannot be written.
    """
    own = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    with files.atomic_write(path) as part:
        try:
            if path.suffix == ".safetensors":
                save_file(own, part, {"format": "pt", **metadata})
            else:
                with part.open("wb") as file:
                    torch.save(own, file)
        except (RuntimeError, SafetensorError) as error:  # what the two make of a full disk
            raise OSError(error.__context__ or error) from error
