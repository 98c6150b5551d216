"""Saving a backbone with its arguments, and sharing it on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import ModelCard, ModelHubMixin  # comes with timm
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.weights.card import write_card
from xcit_dense.weights.saved import plain, read_description, write_saved
from xcit_dense.weights.zoo import SCHEME, ZOO

if TYPE_CHECKING:
    from typing_extensions import Self

_ABOUT_TRAINING = ("norm_eval", "with_cp", "frozen_stages")  # arguments that may be changed later, as attributes


class Saveable(ModelHubMixin):
    """What a backbone can do with its arguments: save itself, and be built again.

    ``from_pretrained`` of :class:`xcit_dense.models.backbone.Backbone` takes the place of the mixin's.
    """

    kind: ClassVar[str]
    deployed: bool
    out_strides: tuple[int, ...]
    source: str | None = None
    """The checkpoint that :meth:`from_pretrained` has loaded, as the caller named it."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...  # noqa: D102
        def state_dict(self) -> dict[str, Tensor]: ...  # noqa: D102

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Makes an object, and keeps the arguments. Only ``variant`` may be positional."""
        made = object.__new__(cls)
        kwargs.pop("init_cfg", None)  # of the MM libraries: where weights come from
        vars(made)["_arguments"] = {**dict(zip(("variant",), args)), **kwargs}
        return made

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that build this backbone, as plain values.

        Raises:
            UserError: An argument is not a plain value.

        Example:
            >>> from xcit_dense import XCiT
            >>> XCiT("nano_12_p16", out_strides=(8, 16)).arguments
            {'variant': 'nano_12_p16', 'out_strides': [8, 16]}
        """
        given: dict[str, Any] = vars(self)["_arguments"]
        changed = {}
        for name in _ABOUT_TRAINING:
            value = getattr(self, name)
            if name in given or value not in (False, -1):
                changed[name] = value
        return plain({**given, **changed})

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Saves the backbone: ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

        ``from_pretrained`` of the directory, or of the file ``model.safetensors``, builds the same backbone with the
        same values. No file is a pickle. An existing ``README.md`` stays as it is.

        Args:
            save_directory: The directory, which is created.
            config: Must be None: the backbone's own arguments are saved.
            repo_id: As for :meth:`push_to_hub`, if ``push_to_hub`` is True; by default the name of the directory.
            push_to_hub: Whether to push the backbone to the Hugging Face hub too.
            model_card_kwargs: What the model card states: ``data`` (what the weights were trained on), ``metrics`` (a
                dictionary of figures by name), ``license`` (``'apache-2.0'`` by default).
            **push_to_hub_kwargs: Further arguments of :meth:`push_to_hub`.

        Returns:
            The address of the commit if ``push_to_hub`` is True, or else None.

        Raises:
            UserError: The backbone is deployed, sharded or quantized, layers of it have been replaced, an argument is
                not a plain value, or a file cannot be written.

        Example:
            >>> import tempfile, torch
            >>> from xcit_dense import XCiT
            >>> directory = tempfile.mkdtemp()
            >>> backbone = XCiT("nano_12_p16", out_strides=(8, 16, 32)).eval()
            >>> backbone.save_pretrained(directory, model_card_kwargs={"data": "my images", "metrics": {"AP": 41.5}})
            >>> again = XCiT.from_pretrained(directory).eval()
            >>> images = torch.rand(1, 3, 64, 64)
            >>> all(map(torch.equal, backbone(images), again(images)))
            True
        """
        if config is not None:
            raise UserError("config: a backbone saves its own arguments; leave config out.")
        self._check_saveable()
        self.generate_model_card(**(model_card_kwargs or {}))  # refuses unknown words before a file is written
        return super().save_pretrained(
            save_directory,
            repo_id=repo_id,
            push_to_hub=push_to_hub,
            model_card_kwargs=model_card_kwargs,
            **push_to_hub_kwargs,
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        write_saved(save_directory, {"backbone": {"type": self.kind, **self.arguments}}, self.state_dict())

    def _check_saveable(self) -> None:
        """Refuses a backbone that its arguments do not describe."""
        if self.deployed:
            raise UserError(
                f"A deployed {self.kind} cannot be saved, because its batch norms are part of other weights; save the "
                "model before deploy(model)."
            )
        for name, value in self.state_dict().items():
            if type(value) is not Tensor:  # in shards, or quantized
                raise UserError(
                    f"{self.name} has {name} as a {type(value).__name__}, and a saved backbone has plain tensors; save "
                    "the backbone before it is sharded or quantized, or load its full state dict into a new one."
                )
        with torch.device("meta"):  # needs no memory: only names and shapes are used
            rebuilt = type(self)(**self.arguments)
        expected = {name: value.shape for name, value in rebuilt.state_dict().items()}
        found = {name: value.shape for name, value in self.state_dict().items()}
        for name in {**expected, **found}:
            if expected.get(name) != found.get(name):
                raise UserError(
                    f"{self.name} has other layers than its arguments build: {name} has the shape "
                    f"{_shape(found, name)}, not {_shape(expected, name)}; save the backbone before layers are "
                    "replaced, or after adapters are merged."
                )

    def generate_model_card(
        self,
        data: str | None = None,
        metrics: Mapping[str, float] | None = None,
        license: str | None = None,
        **unknown: Any,
    ) -> ModelCard:
        """Writes the model card of the backbone.

        Args:
            data: What the weights were trained on.
            metrics: Figures by name.
            license: An identifier of the Hugging Face hub, ``'apache-2.0'`` for example.
            **unknown: Refused.

        Raises:
            UserError: There is an unknown argument.
        """
        if unknown:
            raise UserError(
                f"The model card has no {', '.join(unknown)}; write any of data, metrics and license in "
                "model_card_kwargs."
            )
        rows = {"Backbone": self.name, "Levels at strides": ", ".join(map(str, self.out_strides))}
        if self.source:
            rows["Initial weights"] = f"`{self.source}`"
            published = ZOO.get(self.source.removeprefix(SCHEME))
            if published and published.metrics:
                figures = ", ".join(f"{name} {figure}" for name, figure in published.metrics.items())
                rows["Published figures of the initial weights"] = f"{figures} ({_DATA[published.task]})"
        usage = (
            f"from xcit_dense import {self.kind}\n\n"
            f'backbone = {self.kind}.from_pretrained("DIRECTORY")  # or "hf://USER/REPOSITORY"'
        )
        return ModelCard(
            write_card(self.name, rows, usage, "image-feature-extraction", data=data, metrics=metrics, licence=license)
        )


_DATA = {
    "classification": "ImageNet-1k",
    "self-supervision": "ImageNet-1k",
    "detection": "COCO",
    "segmentation": "ADE20K",
}


def saved_arguments(path: Path, kind: str) -> dict[str, Any] | None:
    """Reads the arguments of a saved backbone.

    Args:
        path: A file of weights.
        kind: The class that the caller wants to build.

    Returns:
        The arguments. None if the file is not a saved backbone.

    Raises:
        UserError: The file has a backbone of another class, or its description is invalid.
    """
    description = read_description(path)
    if description is None or "backbone" not in description:
        return None
    backbone = description["backbone"]
    if not isinstance(backbone, dict) or not isinstance(backbone.get("type"), str):
        raise UserError(f"{path} has a damaged description in its header; save the backbone again.")
    arguments = dict(backbone)
    found = arguments.pop("type")
    if found != kind:
        raise UserError(f"{path} is a saved {found}, not a {kind}; write {found}.from_pretrained.")
    return arguments


def _shape(shapes: Mapping[str, torch.Size], name: str) -> str:
    return str(tuple(shapes[name])) if name in shapes else "of a missing tensor"
