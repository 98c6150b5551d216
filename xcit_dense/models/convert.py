"""Writes the weights of a checkpoint to a new file, under the names of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xcit_dense.errors import UserError
from xcit_dense.models.loading import Report
from xcit_dense.models.pretrained import find_class
from xcit_dense.models.saving import saved_arguments
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve
from xcit_dense.weights.write import save_weights as save_weights

SUFFIXES = (".safetensors", ".pth")
_DESCRIBED = (
    *("variant", "img_size", "embed_dim", "depth", "patch_size", "num_heads"),
    *("embed_dims", "serial_depths", "parallel_depth", "mlp_ratios"),
)
"""Options that the header of a file names."""


def convert_checkpoint(checkpoint: str | Path, out: str | Path, whole: bool = False, **options: Any) -> Report:
    """Writes the weights of a checkpoint under the names of XCiT, CoaT or TokenPyramid of this package.

    Args:
        checkpoint: As for :func:`xcit_dense.load_weights`.
        out: The file to write, ``.safetensors`` or ``.pth``. An existing file is replaced.
        whole: Whether to write the neck and the heads too, under their own names. By default only the backbone is
            written.
        **options: Arguments of the backbone that the checkpoint does not determine, for example ``variant`` for
            :class:`xcit_dense.TokenPyramid`.

    Returns:
        The entries of the backbone that were written (``matched``), left out, and missing. With ``whole``, also the
        entries of neck and heads that were written (``others``).

    Raises:
        UserError: The checkpoint does not exist or does not contain a complete backbone, or ``out`` cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from safetensors.torch import load_file
        >>> folder = Path(tempfile.mkdtemp())
        >>> from xcit_dense import XCiT
        >>> backbone = XCiT(patch_size=16, embed_dim=16, depth=4, num_heads=2)
        >>> torch.save({"model": backbone.state_dict(), "epoch": 3}, folder / "a.pth")
        >>> report = convert_checkpoint(folder / "a.pth", folder / "a.safetensors")
        >>> set(load_file(folder / "a.safetensors")) == set(report.matched) == set(backbone.state_dict())
        True
    """
    source, out = resolve(checkpoint), Path(out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out} must end in {' or '.join(SUFFIXES)}, which selects the format.")
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out} is the checkpoint to read; write to another file.")
    weights = read_weights(source)
    with naming(source):
        kind = find_class(weights)
        saved = saved_arguments(source, kind.kind)
        known = {**kind.infer_options(weights), **kind.name_options(checkpoint)} if saved is None else saved
        options = {**known, **options}
        with torch.device("meta"):  # needs no memory: only names and shapes are used
            model = kind(**options)
        backbone, report = model.translate(weights)
    root = kind.find_roots(weights)[0] if whole else ""
    rest = {name: value for name, value in weights.items() if whole and not name.startswith(root)}
    report.others.extend(rest)
    weights = {**rest, **{root + name: backbone[name] for name in report.matched}}
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    save_weights(weights, out, {name: str(options[name]) for name in _DESCRIBED if name in options})
    return report
