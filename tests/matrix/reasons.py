"""Reasons why a model family does not work with an XCiT, each with a check that the reason holds."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from mmengine.config import Config
from mmengine.registry import MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import is_a


@dataclass(frozen=True)
class Reason:
    """Why a family does not work.

    Attributes:
        text: The reason, for the table in the documentation.
    """

    text: str

    @property
    def outcome(self) -> str:
        """What the table says about the family."""
        return f"no: {self.text}"

    def applies(self) -> bool:
        """Returns whether the family is expected to fail in this environment."""
        return True

    def holds(self, config: Config | None, error: BaseException) -> bool:
        """Decides whether the reason explains an error.

        Args:
            config: The config of the family. None if the config cannot be read.
            error: The error of a training step or a prediction.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NeedsPackage(Reason):
    """The family imports a package. The family must work where the package is installed.

    Attributes:
        package: The name that Python imports.
        install: The name that pip installs.
    """

    package: str
    install: str

    @property
    def outcome(self) -> str:
        """What the table says about the family."""
        return f"after `pip install {self.install}`: {self.text}"

    def applies(self) -> bool:
        """Returns whether the package is missing."""
        return find_spec(self.package) is None

    def holds(self, config: Config | None, error: BaseException) -> bool:
        return self.package in str(error)


@dataclass(frozen=True)
class IsModel(Reason):
    """The model is of a class that takes other data than images with boxes."""

    base: str

    def holds(self, config: Config | None, error: BaseException) -> bool:
        return config is not None and is_a(config, config.model, self.base, MODELS)


@dataclass(frozen=True)
class Refused(Reason):
    """:func:`xcit_dense.mm.config.swap.replace_backbone` refuses the config with one sentence."""

    sentence: str

    def holds(self, config: Config | None, error: BaseException) -> bool:
        return isinstance(error, UserError) and self.sentence in str(error)


@dataclass(frozen=True)
class Fails(Reason):
    """The library itself raises an error, whatever the backbone is."""

    message: str

    def holds(self, config: Config | None, error: BaseException) -> bool:
        return self.message in f"{type(error).__name__}: {error}"
