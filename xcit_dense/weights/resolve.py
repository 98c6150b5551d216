"""From what a user writes to a checkpoint file on this machine."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.weights import zoo
from xcit_dense.weights.download import download
from xcit_dense.weights.safe_load import download_directory
from xcit_dense.weights.zoo import SCHEME, TIMM, ZOO


def find(checkpoint: str | Path) -> Path:
    """:func:`xcit_dense.weights.resolve.locate`, to which the name of published weights is enough.

    Args:
        checkpoint: As for :func:`load_weights`.

    Returns:
        The path of the file, which may not exist where a path was given.

    Raises:
        UserError: As :func:`xcit_dense.weights.resolve.locate`, or the text is neither a path nor a published name.
    """
    text = str(checkpoint)
    if "://" in text:
        return locate(text)
    path = Path(text).expanduser()
    if path.is_file() or path.suffix or text.startswith(("/", ".", "~")):
        return path
    if text not in zoo.ZOO:
        nearest = difflib.get_close_matches(text, zoo.ZOO, n=3, cutoff=0.4)
        hint = f" The nearest names are {', '.join(nearest)};" if nearest else " Check the path;"
        raise UserError(
            f"There is no file at {text}, and no published weight of that name.{hint} xcit_dense.list_weights() gives "
            "all names."
        )
    return locate(zoo.SCHEME + text)


def locate(checkpoint: str | Path) -> Path:
    """Finds a checkpoint on this machine, downloading it first where need be.

    Downloads are kept in torch.hub's directory (``TORCH_HOME``), written whole or not at all, and only if they are
    checkpoints.

    Args:
        checkpoint: ``xcit://NAME`` with a name of :data:`ZOO`; ``timm://NAME`` with a name of
            ``timm.list_pretrained('xcit*')``, from the Hugging Face hub or its mirror ``HF_ENDPOINT``; an http(s)
            address; or a path.

    Returns:
        The path of the file.

    Raises:
        UserError: An unknown name, or a download that fails; the message has the address and the place where the file
            can be put by hand.
    """
    text = str(checkpoint)
    if text.startswith(SCHEME):
        name = text.removeprefix(SCHEME)
        if name not in ZOO:
            raise UserError(did_you_mean("published weight", name, ZOO))
        address = ZOO[name].url
        file = address.rsplit("/", 1)[-1]
    elif text.startswith(TIMM):
        import timm

        name = text.removeprefix(TIMM)
        valid = timm.list_pretrained("xcit*")
        if name not in valid:
            raise UserError(did_you_mean("weight of timm's XCiT", name, valid))
        hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        address = f"{hub.rstrip('/')}/timm/{name}/resolve/main/model.safetensors"
        file = f"{name}.safetensors"
    elif text.startswith(("http://", "https://")):
        address = text
        served = Path(urlsplit(address).path)
        file = served.name
        # Files called model.safetensors or epoch_36.pth are many: the address tells them apart. Those of the zoo, and
        # those with part of their hash in the name, are one, and may be here from PyTorch or MMEngine.
        one = any(weights.url == address for weights in ZOO.values()) or re.search(r"-[0-9a-f]{8,}$", served.stem)
        if not one:
            file = f"{served.stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{served.suffix}"
    else:
        return Path(text)

    path = download_directory() / file
    if not path.exists():
        download(address, path)
    return path
