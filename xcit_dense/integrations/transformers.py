"""Backbones of this package in Hugging Face transformers: UperNet, MaskFormer, Mask2Former and others.

The import of this module adds the model type ``'xcit_dense'`` to ``AutoConfig`` and ``AutoBackbone``. So a program that
loads a saved model with such a backbone imports this module first.

Example:
    >>> import torch
    >>> from transformers import UperNetConfig, UperNetForSemanticSegmentation
    >>> from xcit_dense.integrations.transformers import DenseBackboneConfig
    >>> backbone = DenseBackboneConfig(variant="nano_12_p16")
    >>> config = UperNetConfig(backbone_config=backbone, hidden_size=32, auxiliary_in_channels=128, num_labels=5)
    >>> model = UperNetForSemanticSegmentation(config).eval()
    >>> model(torch.rand(1, 3, 64, 64)).logits.shape
    torch.Size([1, 5, 64, 64])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.errors import MissingLibraryError, UserError, did_you_mean
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.pretrained import BACKBONES
from xcit_dense.models.pyramid import STRIDES

try:
    from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_outputs import BackboneOutput
    from transformers.utils.generic import can_return_tuple
except ImportError as error:
    raise MissingLibraryError(
        "This module needs transformers 5; write pip install 'xcit-dense[transformers]'."
    ) from error

CLASSES: dict[str, Callable[..., Backbone]] = {kind.__name__: kind for kind in BACKBONES}
"""The backbones by the names of their classes."""

STAGES = [f"stage{number}" for number in range(1, len(STRIDES) + 1)]
"""The names of the levels at strides 4, 8, 16 and 32, as in the library's own backbones."""


class DenseBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """What a :class:`DenseBackbone` is built from. All values are arguments, and are saved in ``config.json``.

    Further arguments are those of ``PreTrainedConfig``.

    Attributes:
        backbone: The class: ``'XCiT'``, ``'CoaT'`` or ``'TokenPyramid'``.
        variant: The name of a variant of the class.
        options: Further arguments of the class. ``out_features`` takes the place of the argument ``out_strides``.
        out_features (list[str]): The levels that the backbone returns: all or some of ``'stage1'`` to ``'stage4'``,
            for strides 4, 8, 16 and 32. Other levels are not built. By default all four.
        out_indices (list[int]): The same as ``out_features`` in numbers from 0 to 3. The blocks that make the levels
            are ``options={"out_indices": ...}``.

    Raises:
        UserError: The class does not exist, or ``options`` has ``out_strides``.

    Example:
        >>> config = DenseBackboneConfig(variant="small_12_p16", out_features=["stage2", "stage3"])
        >>> config.out_indices
        [1, 2]
    """

    model_type = "xcit_dense"

    backbone: str = "XCiT"
    variant: str | None = None
    options: dict[str, Any] | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Checks the values."""
        if self.backbone not in CLASSES:
            raise UserError(did_you_mean("backbone", self.backbone, CLASSES))
        if self.options and "out_strides" in self.options:
            raise UserError(
                f"options has out_strides={self.options['out_strides']!r}; write out_features with names out of "
                f"{', '.join(STAGES)}."
            )
        self.stage_names = STAGES
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        if out_features is None and out_indices is None:
            out_features = STAGES
        self.set_output_features_output_indices(out_features, out_indices)
        super().__post_init__(**kwargs)

    def build(self) -> Backbone:
        """Builds the backbone, with random weights."""
        strides = [stride for stage, stride in zip(STAGES, STRIDES) if stage in self.out_features]
        options: dict[str, Any] = {**(self.options or {}), "out_strides": strides}
        return CLASSES[self.backbone](variant=self.variant, **options)


class DenseBackbone(BackboneMixin, PreTrainedModel):
    """A backbone of this package, as the models of transformers take it.

    ``AutoBackbone.from_config`` builds it, and so does each model whose config has a ``backbone_config``.

    Args:
        config: The config.

    Attributes:
        body: The backbone. ``load_weights(model.backbone.body, ...)`` loads published weights into it.

    Example:
        >>> import torch
        >>> from xcit_dense.integrations.transformers import DenseBackbone, DenseBackboneConfig
        >>> model = DenseBackbone(DenseBackboneConfig(variant="nano_12_p16", out_features=["stage3", "stage4"]))
        >>> [tuple(level.shape) for level in model(torch.rand(2, 3, 64, 64)).feature_maps]
        [(2, 128, 4, 4), (2, 128, 2, 2)]
    """

    config_class = DenseBackboneConfig
    base_model_prefix = "body"
    main_input_name = "pixel_values"
    input_modalities = "image"
    has_attentions = False
    supports_gradient_checkpointing = True

    def __init__(self, config: DenseBackboneConfig) -> None:
        super().__init__(config)
        self.body = config.build()
        self.built = list(config.out_features)
        channels = dict(zip(self.built, self.body.out_channels))
        self.num_features = [channels.get(stage, self.body.out_channels[-1]) for stage in STAGES]
        if not next(self.body.parameters()).is_meta:
            for module in self.body.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]  # the library does not draw new weights
        self.post_init()

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the backward pass recomputes blocks. ``activation_checkpointing_enable`` sets it."""
        return self.body.with_cp

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.body.set_grad_checkpointing(enable)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Gives the weights that a checkpoint does not contain the values of a new backbone.

        The library builds a model without memory, loads the checkpoint, and calls this method for each module with
        missing weights. The first call fills all of them.
        """
        missing = {name: value for name, value in _tensors(self.body) if not hasattr(value, "_is_hf_initialized")}
        if missing:
            for name, value in _tensors(self.config.build()):
                if name in missing:
                    missing[name].copy_(value)
                    missing[name]._is_hf_initialized = True  # type: ignore[attr-defined]

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, return_dict: bool | None = None
    ) -> BackboneOutput:
        """Computes the levels.

        Args:
            pixel_values: (B, in_channels, H, W), normalised as for the backbone.
            output_hidden_states: Whether ``hidden_states`` has all levels that were built. ``feature_maps`` has those
                of ``out_features``.
            return_dict: False returns a tuple.

        Raises:
            UserError: ``out_features`` has changed to a level that was not built.
        """
        unbuilt = [stage for stage in self.out_features if stage not in self.built]
        if unbuilt:
            raise UserError(
                f"{', '.join(unbuilt)} was not built, because the config had out_features={self.built}; build the "
                "backbone with all levels that it returns later."
            )
        levels = dict(zip(self.built, self.body(pixel_values)))
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return BackboneOutput(
            feature_maps=tuple(levels[stage] for stage in self.out_features),
            hidden_states=tuple(levels.values()) if wanted else None,
        )


def _tensors(backbone: Backbone) -> Iterator[tuple[str, Tensor]]:
    yield from backbone.named_parameters()
    yield from backbone.named_buffers()


AutoConfig.register(DenseBackboneConfig.model_type, DenseBackboneConfig)
AutoBackbone.register(DenseBackboneConfig, DenseBackbone)
