"""Turns the text that names a checkpoint into a file on this machine. Every part of the package uses this resolver."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from xcit_dense.errors import UserError, did_you_mean, nearest
from xcit_dense.weights import hub
from xcit_dense.weights.download import download
from xcit_dense.weights.safe_load import download_directory
from xcit_dense.weights.saved import WEIGHTS
from xcit_dense.weights.work_dir import last_intact_checkpoint
from xcit_dense.weights.zoo import HUB, SCHEME, TIMM, ZOO


def resolve(checkpoint: str | Path) -> Path:
    """Finds the file of a checkpoint, and downloads the file first if it is not on this machine.

    Downloads are kept in the checkpoint directory of torch.hub (``TORCH_HOME``). The files of ``timm://NAME`` are kept
    in the cache of the Hugging Face hub (``HF_HOME``).

    Args:
        checkpoint: One of:

            - a path of a file;
            - a directory of a saved model: its ``model.safetensors`` is taken;
            - a work directory: its last intact checkpoint is taken;
            - an http or https address;
            - ``xcit://NAME`` or NAME, with a name of :func:`xcit_dense.list_weights`;
            - ``timm://NAME``, with a name of ``timm.list_pretrained()``. The file comes from the Hugging Face hub;
            - ``hf://USER/REPOSITORY``, ``hf://USER/REPOSITORY@REVISION`` or ``hf://USER/REPOSITORY/FILE``: a repository
              of the Hugging Face hub. ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have their usual effect.

            A text without ``://`` never reaches the network, unless it is exactly the name of a published weight.

    Returns:
        The path of the file. For a checkpoint in shards, the path of its directory.

    Raises:
        UserError: The text does not name a checkpoint, or the download fails. After a failed download, the message
            contains the address and the path at which a user can place the file by hand.
    """
    return _fetcher(checkpoint)()


def check(checkpoint: str | Path) -> None:
    """Checks that a text names a checkpoint. Downloads nothing.

    Args:
        checkpoint: As for :func:`resolve`. The server of an http address is not asked.

    Raises:
        UserError: The text does not name a checkpoint.
    """
    _fetcher(checkpoint)


def _fetcher(checkpoint: str | Path) -> Callable[[], Path]:
    """Returns the function that fetches the file of a checkpoint."""
    text = str(checkpoint)
    scheme, separator, name = text.partition("://")
    if not separator:
        return _fetcher_of_path_or_name(text)
    if scheme + separator == SCHEME:
        if name not in ZOO:
            raise UserError(did_you_mean("published weight", name, ZOO))
        return partial(_fetch, ZOO[name].url)
    if scheme + separator == TIMM:
        return _fetcher_of_timm(name)
    if scheme + separator == HUB:
        return partial(hub.fetch, hub.read_address(name))
    if scheme in ("http", "https"):
        return partial(_fetch, text)
    known = ", ".join([SCHEME, TIMM, HUB, "http://", "https://"])
    raise UserError(
        f"{text} begins with the unknown {scheme}://; write a path, or an address that begins with {known}."
    )


def _fetcher_of_path_or_name(text: str) -> Callable[[], Path]:
    path = Path(text).expanduser()
    found = _find_in(path) if path.is_dir() else path if path.is_file() else None
    if found is not None:
        return lambda: found
    if text in ZOO:
        return partial(_fetch, ZOO[text].url)
    if path.is_dir():
        raise UserError(
            f"The directory {path} does not contain an intact checkpoint of a training, nor a {WEIGHTS}; give a file, "
            "a work directory or the directory of a saved model."
        )
    near = nearest(text, ZOO)
    near_path = nearest_path(path)
    hint = "Check the path."
    if near:
        hint = f"Did you mean the published weight {near!r}?"
    elif near_path:
        hint = f"Did you mean {near_path}?"
    elif hub.is_repository(text):
        hint = f"For a repository of the Hugging Face hub, write {HUB}{text}. Or check the path."
    raise UserError(
        f"No checkpoint at {path}, and no published weight has that name. {hint} xcit_dense.list_weights() returns "
        "all names."
    )


def _find_in(directory: Path) -> Path | None:
    """Finds the weights of a saved model, or the last intact checkpoint of a work directory."""
    saved = directory / WEIGHTS
    return saved if saved.is_file() else last_intact_checkpoint(directory)


def nearest_path(path: Path) -> Path | None:
    """Finds the existing path next to a missing path whose name is most similar. None if there is none.

    Args:
        path: The missing path.

    Example:
        >>> Path("work_dirs/mine").mkdir(parents=True)
        >>> nearest_path(Path("work_dirs/mnie")).as_posix()
        'work_dirs/mine'
    """
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return None
    near = nearest(path.name, names)
    return path.with_name(near) if near else None


def _fetcher_of_timm(name: str) -> Callable[[], Path]:
    import timm

    valid = timm.list_pretrained()
    if name not in valid:
        tagged = [one for one in valid if one.startswith(f"{name}.")]
        if tagged:
            raise UserError(f"{TIMM}{name} has no tag of its weights; write {TIMM} and one of {', '.join(tagged)}.")
        raise UserError(did_you_mean("pretrained model of timm", name, valid))
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    if published.hf_hub_id:
        return partial(_fetch_of_timm, name, published.hf_hub_id)
    return partial(_fetch, str(published.url))  # a few models are not on the hub


def _fetch(address: str) -> Path:
    """Downloads the file of an http address, unless it has been downloaded before."""
    served = Path(urlsplit(address).path)
    file = served.name
    # Many files are called model.safetensors or epoch_36.pth, so a hash of the address becomes part of the name. The
    # names of the zoo's files and names with a hash are unique; PyTorch or MMEngine may have downloaded these files.
    published = next((weights for weights in ZOO.values() if weights.url == address), None)
    is_unique = published or re.search(r"-[0-9a-f]{8,}$", served.stem)
    if not is_unique:
        file = f"{served.stem}-{hashlib.sha256(address.encode()).hexdigest()[:8]}{served.suffix}"
    path = download_directory() / file
    if not path.exists():
        download(address, path, published.sha256 if published else None)
    return path


def _fetch_of_timm(name: str, repository: str) -> Path:
    """Downloads the weights of a timm model from the Hugging Face hub, unless they are in the hub's cache."""
    by_hand = download_directory() / f"{name}.safetensors"
    if by_hand.exists():
        return by_hand
    try:
        return hub.fetch(hub.Repository(repository))
    except UserError as error:
        raise UserError(
            f"Could not download {TIMM}{name}. {error} Or download {WEIGHTS} of {repository} elsewhere and put it at "
            f"{by_hand}."
        ) from error
