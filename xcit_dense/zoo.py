"""Published weights by name: ``xcit://small_12_p16_384_dist`` is an address, and a file once downloaded.

Source: the model table of the original repository. ``224`` and ``384`` are training resolutions; ``dist`` marks models
distilled from a convolutional teacher.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from .errors import UserError
from .variants import VARIANTS, unknown_name

SCHEME = "xcit://"

CLASSIFIERS: dict[str, str] = {
    f"{variant}_{training}": f"https://dl.fbaipublicfiles.com/xcit/xcit_{variant}_{training}.pth"
    for variant in VARIANTS
    for training in ("224", "224_dist", "384_dist")
}
"""Addresses of the ImageNet-1k classifiers, by variant and training."""


def locate(checkpoint: str | Path) -> Path:
    """Finds a checkpoint on this machine, downloading it first where need be.

    Downloads are kept in torch.hub's directory (``TORCH_HOME``), written whole or not at all.

    Args:
        checkpoint: ``xcit://NAME`` with a name of :data:`CLASSIFIERS`, an http(s) address, or a path.

    Returns:
        The path of the file.

    Raises:
        UserError: An unknown name, no such file, or a download that fails; the message has the address and the place
            where the file can be put by hand.
    """
    address = str(checkpoint)
    if address.startswith(SCHEME):
        name = address.removeprefix(SCHEME)
        if name not in CLASSIFIERS:
            raise UserError(unknown_name("published weight", name, CLASSIFIERS))
        address = CLASSIFIERS[name]
    if not address.startswith(("http://", "https://")):
        return Path(address)
    path = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(address, path)
        except OSError as error:
            raise UserError(
                f"Could not download {address} ({error}); download it elsewhere and put it at {path}."
            ) from error
    return path


def _download(address: str, path: Path) -> None:
    from tqdm import tqdm  # comes with timm

    # Some servers refuse the name that Python gives itself.
    request = Request(address, headers={"User-Agent": "xcit_dense"})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with urlopen(request) as response, partial.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0))
            with tqdm.wrapattr(response, "read", total=size, desc=path.name) as source:
                shutil.copyfileobj(source, file)
        # A connection that breaks off looks like the end of the file.
        if size and partial.stat().st_size < size:
            raise OSError(f"the connection broke off after {partial.stat().st_size} of {size} bytes")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
