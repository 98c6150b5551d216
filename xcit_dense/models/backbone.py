"""What xcit_dense asks of a backbone, and what all backbones share.

Training, layer-wise learning rates, shards, drawings, checks and commands know no list of backbones: they ask a
:class:`Backbone`. A new backbone is a subclass that answers the abstract methods.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from xcit_dense.errors import UserError
from xcit_dense.models.interface import StandardInterface
from xcit_dense.models.loading import Report, mark_strictness
from xcit_dense.models.pyramid import ALL_STRIDES, STRIDES
from xcit_dense.models.saving import Saveable, saved_arguments
from xcit_dense.ops.checkpointing import recompute_contexts
from xcit_dense.ops.layers import floating_weight
from xcit_dense.variants import spread_levels
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

if TYPE_CHECKING:
    from typing_extensions import Self


class Backbone(StandardInterface, nn.Module, Saveable):
    """A transformer with levels of features, four by default.

    A subclass makes its modules in ``__init__``, between ``super().__init__(...)`` and :meth:`finish`, and answers the
    abstract methods.

    Args:
        in_channels: Channels of the images.
        norm_eval: Whether the batch norms stay in evaluation mode in training, so that their statistics do not change.
        with_cp: Activation checkpointing: blocks are recomputed in the backward pass, which saves memory.
        out_strides: Strides of the levels in pixels, ascending, out of 4, 8, 16, 32 and 64.

    Attributes:
        kind: The name of the architecture in messages.
        out_channels: Channels of each level.
        out_strides: Strides of the levels in pixels.
        patch_size: Pixels of a token of the first block along each side.
        deployed: Whether :func:`xcit_dense.deploy` has prepared the model for inference. A deployed model cannot train.
        load_report: The :class:`xcit_dense.models.loading.Report` of the last load of weights, or None before it.

    Raises:
        UserError: ``in_channels`` is not a positive integer, or ``out_strides`` are other strides.
    """

    kind: ClassVar[str]
    out_channels: tuple[int, ...]
    patch_size: int
    out_strides: tuple[int, ...] = STRIDES

    def __init__(
        self,
        in_channels: int = 3,
        norm_eval: bool = False,
        with_cp: bool = False,
        out_strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        _check_out_strides(out_strides)
        self.out_strides = tuple(out_strides)
        if not is_integer(in_channels) or in_channels < 1:
            raise UserError(f"in_channels={in_channels!r} must be an integer of at least 1; write 3 for RGB.")
        self.in_channels = in_channels
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deployed = False
        self.load_report: Report | None = None
        self._frozen_stages = -1
        self._frozen_parameters: set[str] = set()

    def finish(self, frozen_stages: int) -> None:
        """Ends the construction, after the modules of the backbone have been made.

        Args:
            frozen_stages: -1 trains everything. 0 freezes the embedding. n > 0 also freezes the first n blocks.

        Raises:
            UserError: ``frozen_stages`` is out of range.
        """
        for block in self.list_blocks():
            block.is_backbone_block = True  # type: ignore[assignment]
        self.register_load_state_dict_pre_hook(adapt_state_dict)
        self.frozen_stages = frozen_stages

    @property
    @abstractmethod
    def name(self) -> str:
        """The variant in words, for messages: ``'XCiT small_12_p16'``."""

    @abstractmethod
    def list_blocks(self) -> Sequence[nn.Module]:
        """Lists the blocks from the input to the output. Each block is a unit of recomputation, freezing and shards."""

    @abstractmethod
    def embedding(self) -> Iterable[nn.Module | nn.Parameter]:
        """Lists what turns images into the input of the first block: modules, and parameters outside of them."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Returns the depth of a parameter, for learning rates that decrease with the depth.

        Args:
            name: The name of the parameter in this backbone.

        Returns:
            0 for the embedding, n for the n-th block, counted from 1, and one more than the number of blocks for what
            follows the blocks.
        """

    @abstractmethod
    def make_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels.

        Args:
            images: (B, in_channels, H, W), checked, in the dtype of the weights and in channels-last memory.
        """

    @classmethod
    @abstractmethod
    def find_roots(cls, state: Mapping[str, Any]) -> list[str]:
        """Finds the prefix of each backbone of this architecture: ``'backbone.'``, for example, or ``''``.

        Args:
            state: Entries of a checkpoint in any dialect.
        """

    @abstractmethod
    def translate(
        self, state: Mapping[str, Any], prefix: str = "", strict: bool = True
    ) -> tuple[dict[str, Tensor], Report]:
        """Finds the weights of this backbone in a checkpoint.

        Args:
            state: Entries of a checkpoint in any dialect.
            prefix: The prefix of the backbone's names in the model. If no entry begins with the prefix, the entries may
                be those of a single backbone.
            strict: Whether the entries must fill the backbone. Shapes must always agree.

        Returns:
            The weights by the backbone's own names, and a report. Entries that a classifier does not contain have the
            backbone's own values.

        Raises:
            UserError: The entries do not contain a backbone of this architecture, or contain one that fits in part.
        """

    @abstractmethod
    def adapt_input(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Adapts the weights of the stem in a checkpoint to the number of input channels.

        Args:
            state: Entries of a checkpoint in any dialect.

        Returns:
            The entries, and a clause that describes the change. The clause is empty if nothing changes.
        """

    @classmethod
    @abstractmethod
    def infer_options(cls, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Finds the arguments that build the backbone of some weights, from their names and shapes.

        Args:
            weights: Entries of a checkpoint in any dialect.

        Raises:
            UserError: The entries do not contain a complete backbone of this architecture.
        """

    @classmethod
    def name_options(cls, checkpoint: str | Path) -> dict[str, Any]:
        """Finds arguments in the name of a published checkpoint, if the weights do not determine them.

        Args:
            checkpoint: As for :func:`xcit_dense.load_weights`.
        """
        return {}

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """Builds a backbone of the shape of a checkpoint, and loads the checkpoint.

        Args:
            checkpoint: As for :func:`xcit_dense.load_weights`: a directory of :meth:`save_pretrained`,
                ``'hf://USER/REPOSITORY'``, ``'small_12_p16_384_dist'``, ``'coco/small_12_p16'``, an address, a file.
                The names of all published checkpoints are understood. A classifier does not contain a pyramid; the
                pyramid keeps its random weights.
            **options: Further arguments of the class. They override the values from the checkpoint. A saved backbone
                gives all arguments, and the dtype. Another checkpoint gives all arguments except ``out_indices`` (the
                default is the variant's) and the arguments about training.
                With another ``in_channels`` than the checkpoint's, the weights of the stem are adapted
                (:func:`xcit_dense.models.loading.adapt_channels`).

        Returns:
            The backbone, in training mode like any new module.

        Raises:
            UserError: The checkpoint cannot be read, or does not contain a complete backbone of this class, or
                ``options`` do not fit.

        Example:
            >>> import tempfile, torch
            >>> from xcit_dense import XCiT
            >>> path = f"{tempfile.mkdtemp()}/weights.pth"
            >>> torch.save(XCiT("nano_12_p8").state_dict(), path)
            >>> XCiT.from_pretrained(path).patch_size
            8
            >>> XCiT.from_pretrained(path, in_channels=4)(torch.rand(1, 4, 32, 32))[0].shape
            torch.Size([1, 128, 8, 8])
        """
        path = resolve(checkpoint)
        saved = saved_arguments(path, cls.kind)
        weights = read_weights(path)
        with naming(path):
            if saved is None:
                model = cls(**{**cls.infer_options(weights), **cls.name_options(checkpoint), **options})
            else:
                model = cls(**{**saved, **options})
                _take_dtype(model, weights)
            model.source = str(checkpoint)
            adapted, change = model.adapt_input(weights)
            model.load_state_dict(adapted)
            if change and model.load_report is not None:
                changes = ", ".join(filter(None, (change, model.load_report.adapted)))
                model.load_report = replace(model.load_report, adapted=changes)
                model.log(logging.INFO, f"{model.kind}: {change}.")
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads a state dict with the names of any published checkpoint.

        Args:
            state_dict: Entries of a checkpoint.
            strict: Whether an incomplete state dict raises an error. A classifier may lack the pyramid.
            assign: As in PyTorch.

        Returns:
            Missing and unexpected names, as in PyTorch; both are empty if ``strict``.

        Raises:
            UserError: The entries belong to another variant or shape. If ``strict``, also: the entries do not belong to
                a backbone of this class, or only to a part of one.
        """
        return super().load_state_dict(mark_strictness(state_dict, strict), strict, assign)

    def log(self, level: int, text: str) -> None:
        """Logs a message about a checkpoint. A subclass may override this method, to write to another log.

        Args:
            level: As in :mod:`logging`.
            text: The message.
        """
        logging.getLogger(type(self).__module__).log(level, text)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes pyramid features.

        Args:
            images: (B, in_channels, H, W), normalised, of any height and width, in any memory format and
                floating-point dtype. The dtype is converted to the dtype of the weights. The published weights expect
                RGB in [0, 1], minus the mean (0.485, 0.456, 0.406), divided by the standard deviation (0.229, 0.224,
                0.225), unless their documentation says otherwise. A NaN pixel makes every level of its image NaN,
                unless the model leaves the pixel out because it does not fill a patch. In evaluation mode, other images
                of the batch are unaffected.

        Returns:
            A map (B, C, H', W') for each of ``out_strides``, finest first: by default four maps, at strides 4, 8, 16
            and 32.

        Raises:
            UserError: ``images`` is not a tensor (B, in_channels, H, W) of floating-point numbers with at least one
                pixel.
        """
        _check_images(images, self.in_channels)
        return self.make_levels(images.to(floating_weight(self).dtype))

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """Runs a block. With ``with_cp``, the backward pass recomputes the block.

        Args:
            block: A block of this backbone.
            *inputs: What the block takes.
        """
        if not (self.with_cp and self.training):
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=partial(recompute_contexts, block))

    def prepare_inference(self) -> None:
        """Prepares for inference with weights that do not change. :func:`xcit_dense.deploy` calls this method."""

    @property
    def frozen_stages(self) -> int:
        """Number of frozen stages, see the argument of the same name.

        Assigning a number freezes and unfreezes at once. Unfreezing makes the parameters require gradients again that
        freezing has stopped, and no others.
        """
        return self._frozen_stages

    @frozen_stages.setter
    def frozen_stages(self, stages: int) -> None:
        _check_frozen_stages(stages, len(self.list_blocks()))
        for name, parameter in self.named_parameters():
            if name in self._frozen_parameters:
                parameter.requires_grad_(True)
        self._frozen_stages = stages
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for part in self._frozen():
            part.requires_grad_(False)
        self._frozen_parameters = {name for name in trained if not self.get_parameter(name).requires_grad}
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switches training mode. Frozen stages, and with ``norm_eval`` batch norms, stay in evaluation mode.

        Raises:
            UserError: The model is deployed.
        """
        if mode and self.deployed:
            raise UserError(
                f"A deployed {self.kind} cannot train; build a new one, and deploy a copy: "
                "deploy(copy.deepcopy(model))."
            )
        super().train(mode)
        for part in self._frozen():
            if isinstance(part, nn.Module):
                part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _frozen(self) -> Sequence[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return []
        return [*self.embedding(), *self.list_blocks()[: self.frozen_stages]]


def _take_dtype(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Converts a model to the floating-point dtype of some weights, if the weights have one."""
    found = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(found) == 1:
        model.to(found.pop())


def is_block(module: nn.Module) -> bool:
    """Returns whether a module is a block of a :class:`Backbone`."""
    return getattr(module, "is_backbone_block", False) is True


def adapt_state_dict(
    backbone: Backbone, state_dict: MutableMapping[str, Any], prefix: str, metadata: Any, strict: bool, *_: Any
) -> None:
    """Translates entries of any dialect to the names of the backbone, in place. A pre-hook of ``load_state_dict``.

    If loading is not strict, entries without a backbone do not change: a checkpoint of a head, for example. Only
    :meth:`Backbone.load_state_dict` can be not strict. A backbone inside a larger model always loads strictly.

    Args:
        backbone: The backbone that loads.
        state_dict: The entries.
        prefix: The prefix of the backbone's names in the model that loads.
        metadata: The metadata of the backbone's entries. :func:`mark_strictness` adds the key ``'strict'``.
        strict: Not used: PyTorch and MMEngine pass True whatever the caller asks for.

    Raises:
        UserError: The entries do not contain a backbone, or contain another variant or a backbone that fits in part.
            The backbone does not change.
    """
    if backbone.deployed:
        raise UserError(f"A deployed {backbone.kind} does not load weights; load them before deploy(model).")
    strict = metadata.get("strict", True)
    if not strict and not any(root.startswith(prefix) for root in backbone.find_roots(state_dict)):
        return
    weights, report = backbone.translate(state_dict, prefix, strict)
    for name in [name for name in state_dict if name.startswith(prefix)]:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in weights.items()})
    backbone.load_report = report
    if report.missing or report.left_out or report.not_built or report.unexpected or report.adapted:
        level = logging.WARNING if report.missing else logging.INFO
        backbone.log(level, f"{backbone.kind}: {report.outcome}.")


def _check_images(images: Any, in_channels: int) -> None:
    if isinstance(images, Proxy):
        raise UserError(
            "torch.fx cannot record the inside of a backbone, because the operators depend on the size of the image; "
            'keep the backbone whole with tracer_kwargs={"leaf_modules": [type(backbone)]}, and take inner outputs '
            "with register_forward_hook."
        )
    if not isinstance(images, Tensor):
        raise UserError(
            f"images must be a tensor (B, {in_channels}, H, W), got {type(images).__name__}; write "
            "torch.from_numpy(array), or torch.stack(list)."
        )
    if images.ndim != 4:
        raise UserError(
            f"images must be (B, {in_channels}, H, W), got {tuple(images.shape)}; make a batch of one image with "
            "image[None]."
        )
    if images.shape[1] != in_channels:
        raise UserError(
            f"images must be (B, {in_channels}, H, W), got {tuple(images.shape)}; convert them to {in_channels} "
            f"channels, or build the backbone with in_channels={images.shape[1]}."
        )
    if images.shape[2] == 0 or images.shape[3] == 0:
        raise UserError(f"images do not have pixels, got {tuple(images.shape)}; give at least 1 x 1.")
    if not images.is_floating_point():
        raise UserError(
            f"images are {images.dtype}, not floating-point numbers; normalise them: (images.float() / 255 - mean) / "
            "std."
        )


def is_integer(value: object) -> bool:
    """Returns whether a value is an integer and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Returns whether a value is a real number."""
    return isinstance(value, Real)


def check_rates(**rates: float) -> None:
    """Checks that dropout rates are probabilities.

    Args:
        **rates: The rates by the names of the arguments, without ``_rate``.

    Raises:
        UserError: A rate is not a number from 0 to 1.
    """
    for name, rate in rates.items():
        if not is_number(rate) or not 0 <= rate <= 1:
            raise UserError(f"{name}_rate={rate} is not a probability; write a number from 0 to 1.")


def choose_out_indices(indices: Any, depth: int, strides: Sequence[int]) -> tuple[int, ...]:
    """Returns the numbers of the blocks that make the levels, counted from 0.

    Args:
        indices: The value of the argument ``out_indices``. None takes the blocks of :func:`spread_levels`: the level of
            a stride takes the same block, whichever other strides there are. Stride 64 takes the block of stride 32.
        depth: The number of blocks.
        strides: The strides of the levels.

    Raises:
        UserError: The numbers are not one number of a block for each stride, in ascending order.

    Example:
        >>> from xcit_dense.models.backbone import choose_out_indices
        >>> choose_out_indices(None, depth=12, strides=(8, 16, 32))
        (5, 7, 11)
    """
    spread = spread_levels(depth)
    by_stride = dict(zip(ALL_STRIDES, (*spread, spread[-1])))
    default = tuple(by_stride[stride] for stride in strides)
    if indices is None:
        return default
    fits = isinstance(indices, Sequence) and len(indices) == len(strides) and all(map(is_integer, indices))
    if not fits or list(indices) != sorted(indices) or not 0 <= indices[0] <= indices[-1] < depth:
        given = tuple(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else indices
        raise UserError(
            f"out_indices={given!r} must be a block out of 0..{depth - 1} for each of the strides {tuple(strides)}, in "
            f"ascending order; write for example out_indices={default}."
        )
    return tuple(indices)


def _check_out_strides(strides: Any) -> None:
    fits = isinstance(strides, Sequence) and bool(strides) and all(map(is_integer, strides))
    if not fits or list(strides) != [stride for stride in ALL_STRIDES if stride in strides]:
        given = tuple(strides) if isinstance(strides, Sequence) and not isinstance(strides, str) else strides
        raise UserError(
            f"out_strides={given!r} must be strides out of {ALL_STRIDES} in ascending order; write {STRIDES} for all "
            "levels of the published models, or for example (8, 16, 32)."
        )


def _check_frozen_stages(stages: int, depth: int) -> None:
    if not is_integer(stages) or not -1 <= stages <= depth:
        raise UserError(
            f"frozen_stages={stages!r} is out of range; write -1 (train all), 0 (freeze the stem) or up to {depth} "
            "(also freeze this number of blocks)."
        )
