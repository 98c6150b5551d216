"""Mixed precision on GPUs, and learning rates that decrease with the depth of a layer."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import cuda, nn

from xcit_dense.errors import UserError
from xcit_dense.models.backbone import Backbone


@OPTIM_WRAPPERS.register_module(name="AutoAmpOptimWrapper", force=True)
def auto_amp_optim_wrapper(
    loss_scale: Any = "dynamic", dtype: Any = None, use_fsdp: bool = False, **kwargs: Any
) -> OptimWrapper:
    """Returns MMEngine's ``AmpOptimWrapper`` on a GPU, and an ``OptimWrapper`` with full precision without a GPU.

    The same config trains with mixed precision on a GPU, as published, and runs on a laptop.

    Args:
        loss_scale: As for ``AmpOptimWrapper``.
        dtype: As for ``AmpOptimWrapper``; by default float16.
        use_fsdp: As for ``AmpOptimWrapper``.
        **kwargs: As for ``OptimWrapper``.
    """
    if cuda.is_available():
        return AmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
    print_log("Mixed precision needs a GPU; training in float32.", logger="current", level=logging.WARNING)
    return OptimWrapper(**kwargs)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name="XCiTLayerDecay", force=True)
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor with a learning rate that decreases from the last block of a backbone to its stem.

    ``optim_wrapper = dict(constructor='XCiTLayerDecay', paramwise_cfg=dict(layer_decay=0.8, ...), ...)``
    multiplies the learning rate of each parameter by 0.8 ** n. For the last block, n is 1. For each earlier block,
    n grows by 1. For the stem and the positional encoding, n is depth + 1. For the pyramid and modules outside the
    backbone, n is 0. Other entries of ``paramwise_cfg`` keep their meaning. The constructor asks each backbone of this
    package in the model (XCiT, TokenPyramid, CoaT) for the depth of its parameters.

    Source: Bao et al. 2022 (BEiT), for isotropic transformers in general. The published recipe of XCiT does not use a
    layer decay.

    Raises:
        UserError: ``layer_decay`` is missing or not in (0, 1], or the model has no backbone of
            this package.
    """

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        # Checked here, because MMEngine does not call add_params if paramwise_cfg is empty.
        decay = (paramwise_cfg or {}).get("layer_decay")
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise UserError(
                f"layer_decay={decay!r} must be above 0 and at most 1; write paramwise_cfg=dict(layer_decay=0.8)."
            )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **kwargs: Any) -> None:
        """Adds a group for each parameter of ``module``, as MMEngine does, and scales the learning rates."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:  # MMEngine calls this method for each submodule; the rates are scaled once, for the model
            return
        backbones = [part for part in module.modules() if isinstance(part, Backbone)]
        if not backbones:
            raise UserError(
                "The constructor 'XCiTLayerDecay' found no XCiT, TokenPyramid or CoaT in the model; remove the "
                "constructor."
            )
        scales = {
            id(parameter): self.paramwise_cfg["layer_decay"]
            ** (len(backbone.list_blocks()) + 1 - backbone.layer_of(name))
            for backbone in backbones
            for name, parameter in backbone.named_parameters()
        }
        for group in params:
            scale = scales.get(id(group["params"][0]), 1.0)
            rate = group.get("lr", self.base_lr)
            if rate is not None and scale != 1:
                group["lr"] = rate * scale
