"""Downloads weights from repositories of the Hugging Face hub, or from the mirror in ``HF_ENDPOINT``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xcit_dense.errors import UserError
from xcit_dense.weights.read import SUFFIXES
from xcit_dense.weights.saved import CARD, CONFIG, WEIGHTS
from xcit_dense.weights.zoo import HUB

_FILES = (WEIGHTS, "pytorch_model.bin", "model.pth")  # tried in this order
_NAME = r"[\w-][\w.-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})", re.ASCII)
_ADDRESS = re.compile(rf"({_NAME}/{_NAME})(?:@([^/@]+))?(?:/(.+))?", re.ASCII)


@dataclass(frozen=True)
class Repository:
    """What an address of the hub names.

    Attributes:
        name: ``'USER/REPOSITORY'``.
        revision: A branch, a tag or a commit. None means the main branch.
        file: A file in the repository. None means the weights under a usual name.
    """

    name: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"{HUB}{self.name}{revision}{file}"


def read_address(text: str) -> Repository:
    """Reads what follows ``hf://``. Asks no server.

    Args:
        text: ``'USER/REPOSITORY'``, with ``'@REVISION'`` after it and ``'/FILE'`` after that, where wanted.

    Raises:
        UserError: The text is something else.

    Example:
        >>> read_address("someone/cells@v2/weights/epoch_12.pth")
        Repository(name='someone/cells', revision='v2', file='weights/epoch_12.pth')
    """
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text:
        raise UserError(
            f"{HUB}{text} is not a repository of the Hugging Face hub; write {HUB}USER/REPOSITORY, "
            f"{HUB}USER/REPOSITORY@REVISION or {HUB}USER/REPOSITORY/FILE."
        )
    return Repository(match[1], match[2], match[3])


def is_repository(text: str) -> bool:
    """Returns whether a text may be a repository's name, ``'USER/REPOSITORY'``, and not the path of a file of weights.

    Args:
        text: The text.
    """
    return _REPOSITORY.fullmatch(text) is not None and not text.endswith(SUFFIXES)


def fetch(repository: Repository) -> Path:
    """Downloads the weights of a repository, unless they are in the cache of the hub (``HF_HOME``).

    Without a file in the address, ``model.safetensors`` is preferred to pickles.

    Args:
        repository: The repository.

    Returns:
        The path of the file in the cache.

    Raises:
        UserError: The repository, the revision or the file does not exist, or the hub cannot be reached. The message
            says which.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    for file in [repository.file] if repository.file else _FILES:
        try:
            return Path(hf_hub_download(repository.name, file, revision=repository.revision))
        except errors.LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError
            if not constants.HF_HUB_OFFLINE:
                raise _unreachable(repository, error) from error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError as error:  # a kind of RepositoryNotFoundError
            raise UserError(
                f"{repository} is open only to users who have accepted its conditions; accept them on "
                f"{constants.ENDPOINT}/{repository.name}, and log in with `hf auth login`."
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise UserError(
                f"{constants.ENDPOINT} has no repository {repository.name}, or it is private; check the name, or log "
                "in with `hf auth login`."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"The repository {repository.name} has no revision {repository.revision}; write a branch, a tag or a "
                "commit of it."
            ) from error
        except Exception as error:  # the errors of the hub's HTTP library differ between its versions
            raise _unreachable(repository, error) from error
    wanted = repository.file or ", ".join(_FILES)
    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{repository} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids a download; "
            "download it once with a network, or unset HF_HUB_OFFLINE."
        )
    raise UserError(
        f"The repository {repository.name} has no file of weights ({wanted}); write {HUB}{repository.name}/FILE with "
        "the name of its file."
    )


def push(directory: Path, name: str) -> str:
    """Pushes a saved model to a repository of the hub, which is created if it does not exist.

    Args:
        directory: The directory of the saved model.
        name: ``'USER/REPOSITORY'``.

    Returns:
        The address of the repository.

    Raises:
        UserError: The name is malformed, or the hub refuses the upload.
    """
    from huggingface_hub import HfApi, constants

    read_address(name)
    api = HfApi()
    try:
        repository = api.create_repo(name, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            allow_patterns=[WEIGHTS, CONFIG, CARD],
            commit_message="Save the model with xcit_dense",
        )
    except Exception as error:  # the errors of the hub's HTTP library differ between its versions
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{directory} could not be pushed to {constants.ENDPOINT}/{name} ({reason}); log in with `hf auth login`, "
            "or upload the directory elsewhere."
        ) from error
    return f"{HUB}{repository}"


def _unreachable(repository: Repository, error: Exception) -> UserError:
    from huggingface_hub import constants

    reason = str(error.__cause__ or error).partition("\n")[0]
    return UserError(
        f"{repository} could not be downloaded from {constants.ENDPOINT} ({reason}); check the network, or download "
        "the file elsewhere and give its path."
    )
