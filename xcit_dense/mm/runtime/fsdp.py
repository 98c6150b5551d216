"""Fully sharded training (FSDP): MMEngine's strategy, adapted to XCiT and to current PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import FUNCTIONS, OPTIM_WRAPPERS, STRATEGIES
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel

from xcit_dense.mm.runtime.optim import auto_amp_optim_wrapper
from xcit_dense.models.backbone import is_block
from xcit_dense.ops.checkpointing import recompute_contexts


@FUNCTIONS.register_module(name="is_xca_block", force=True)
def is_xca_block(module: nn.Module) -> bool:
    """Returns whether a module is a block of a backbone. The backward pass recomputes only these modules."""
    return is_block(module)


@FUNCTIONS.register_module(name="shard_xca_blocks", force=True)
def shard_xca_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Returns whether FSDP makes a separate shard of a module: yes for each block of a backbone.

    Args:
        module: The module.
        recurse: Whether PyTorch asks if it shall look at the children of the module. The answer is always yes.
        nonwrapped_numel: The number of parameters that are not in a shard yet. Unused.
    """
    return recurse or is_xca_block(module)


def recompute(block: nn.Module) -> nn.Module:
    """Wraps a block so that the backward pass recomputes the block. Its batch norms count each batch once.

    Args:
        block: A block of a backbone.
    """
    return checkpoint_wrapper(block, context_fn=partial(recompute_contexts, block))


@STRATEGIES.register_module(force=True)
class XCiTFSDPStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy`` with a shard for each block of a backbone and with unsharded checkpoints.

    Besides its defaults, the strategy differs in four points: the processes do not need GPUs, gradients are clipped by
    the norm over all shards, optimizers resume under current PyTorch, and checkpoints load with all names of weights
    that an unsharded model accepts.

    Args:
        model_wrapper: As for ``FSDPStrategy``; by default ``auto_wrap_policy='shard_xca_blocks'``.
        state_dict_cfg: As for ``FSDPStrategy``; by default ``'full'``, so that other trainings can load the
            checkpoints.
        activation_checkpointing: As for ``FSDPStrategy``, or ``True`` for ``dict(check_fn='is_xca_block')``.
        **kwargs: As for ``FSDPStrategy``.
    """

    def __init__(
        self,
        *,
        model_wrapper: Mapping[str, Any] | None = None,
        state_dict_cfg: Any = "full",
        activation_checkpointing: Mapping[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> None:
        wrapper = {
            "type": "MMFullyShardedDataParallel",
            "auto_wrap_policy": "shard_xca_blocks",
            **(model_wrapper or {}),
        }
        if get_device() == "cpu":
            wrapper["device_id"] = "cpu"
        if activation_checkpointing:
            given = {} if activation_checkpointing is True else activation_checkpointing
            activation_checkpointing = {"check_fn": "is_xca_block", "checkpoint_wrapper_fn": recompute, **given}
        super().__init__(
            model_wrapper=wrapper,
            state_dict_cfg=state_dict_cfg,
            activation_checkpointing=activation_checkpointing or None,
            **kwargs,
        )
        if get_device() == "cpu":
            # PyTorch would free the storage of tensors that it offloads, also if the tensors were on the CPU before.
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        weightless = {id(weight): nn.Parameter(weight.detach().to("meta")) for weight in model.parameters()}
        self._skeleton = copy.deepcopy(model, weightless).to("meta")
        return super()._wrap_model(model)

    def build_optim_wrapper(self, optim_wrapper: Any, model: Any = None) -> BaseOptimWrapper:
        """Builds the optimizer wrapper. The wrapper scales losses and clips gradients over all shards.

        Args:
            optim_wrapper: As for ``FSDPStrategy``.
            model: As for ``FSDPStrategy``.
        """
        if isinstance(optim_wrapper, dict):
            kind = optim_wrapper.get("type", "OptimWrapper")
            if (OPTIM_WRAPPERS.get(kind) if isinstance(kind, str) else kind) is auto_amp_optim_wrapper:
                optim_wrapper.setdefault("use_fsdp", True)
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, "clip_func", None) is nn.utils.clip_grad_norm_:
            built.clip_func = lambda _, **norm: model.clip_grad_norm_(**norm)
        return built

    def make_unsharded(self) -> nn.Module:
        """Makes the model without shards, on the CPU, with arbitrary values."""
        return copy.deepcopy(self._skeleton).to_empty(device="cpu")

    def load_model_state_dict(self, state_dict: dict[str, Any], **options: Any) -> None:
        """Loads weights into the unsharded model, as MMEngine does, and copies the weights to the shards.

        PyTorch would load the weights of each module under names that only shards have.

        Args:
            state_dict: The weights of a checkpoint, with any names that an unsharded model accepts.
            **options: As for ``FSDPStrategy``.
        """
        unsharded = self.make_unsharded()
        with torch.no_grad(), FullyShardedDataParallel.summon_full_params(self.model):
            own = _by_plain_name(self.model)
            for name, value in _by_plain_name(unsharded).items():
                value.copy_(own[name])
            _load_checkpoint_to_model(unsharded, state_dict, **options)
            for name, value in _by_plain_name(unsharded).items():
                own[name].copy_(value)

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the part of the optimizer's state that belongs to the shard of this process.

        Args:
            state_dict: The state of the optimizer in a checkpoint.
        """
        optimizer = self.optim_wrapper.optimizer
        shard = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(shard)


def _by_plain_name(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by their names in the unsharded model."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    wrappers = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."
    return {name.replace(wrappers[0], "").replace(wrappers[1], ""): tensor for name, tensor in tensors}
