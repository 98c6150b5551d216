"""Mixed precision where the machine has it, and learning rates that fall with depth."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import cuda, nn

from xcit_dense.errors import UserError
from xcit_dense.models.xcit import XCiT


@OPTIM_WRAPPERS.register_module(name="AutoAmpOptimWrapper", force=True)
def auto_amp_optim_wrapper(
    loss_scale: Any = "dynamic", dtype: Any = None, use_fsdp: bool = False, **kwargs: Any
) -> OptimWrapper:
    """MMEngine's ``AmpOptimWrapper`` on a GPU; full precision on a machine without one.

    So that one config trains with mixed precision, as published, and still runs on a laptop.

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
    """MMEngine's constructor, with a learning rate that shrinks from an XCiT's last block to its stem.

    ``optim_wrapper = dict(constructor='XCiTLayerDecay', paramwise_cfg=dict(layer_decay=0.8, ...), ...)`` multiplies
    the rate of each parameter by 0.8 ** n, where n is 0 for the pyramid and all that is not XCiT, 1 for the last
    block, one more for each block before it, and depth + 1 for stem and positional encoding. Other entries of
    ``paramwise_cfg`` keep their meaning. Wherever the backbone sits in the model, it is found by its class.

    Source: Bao et al. 2022 (BEiT), for isotropic transformers in general; XCiT's published recipe does without.

    Raises:
        UserError: ``layer_decay`` is absent or not in (0, 1], or the model has no XCiT.
    """

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any = None) -> None:
        # Here, because MMEngine adds no groups where paramwise_cfg is empty.
        decay = (paramwise_cfg or {}).get("layer_decay")
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise UserError(
                f"layer_decay={decay!r} must be above 0 and at most 1; write paramwise_cfg=dict(layer_decay=0.8)."
            )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **kwargs: Any) -> None:
        """Adds a group for each parameter of ``module``, as MMEngine does, and scales their rates."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:  # MMEngine descends through this method; the rates are scaled once, for the whole model
            return
        backbones = [part for part in module.modules() if isinstance(part, XCiT)]
        if not backbones:
            raise UserError("The constructor 'XCiTLayerDecay' found no XCiT in the model; leave the constructor out.")
        scales = {
            id(parameter): self.paramwise_cfg["layer_decay"] ** _layers_above(name, len(backbone.blocks))
            for backbone in backbones
            for name, parameter in backbone.named_parameters()
        }
        for group in params:
            scale = scales.get(id(group["params"][0]), 1.0)
            rate = group.get("lr", self.base_lr)
            if rate is not None and scale != 1:
                group["lr"] = rate * scale


def _layers_above(name: str, depth: int) -> int:
    """How many layers lie between a parameter of an XCiT and the pyramid, its own included."""
    part, _, rest = name.partition(".")
    if part == "blocks":
        return depth - int(rest.partition(".")[0])
    return depth + 1 if part in ("patch_embed", "pos_embeder") else 0
