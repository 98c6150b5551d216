"""Models in shards, each process with its own: MMEngine's FSDP strategy, for XCiT and for current PyTorch."""

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
from mmengine.registry import FUNCTIONS, STRATEGIES
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel

from xcit_dense.models.blocks import XCABlock
from xcit_dense.ops.checkpointing import recompute_contexts


@FUNCTIONS.register_module(name="is_xca_block", force=True)
def is_xca_block(module: nn.Module) -> bool:
    """Whether to recompute a module in the backward pass: XCiT's blocks, and nothing else."""
    return isinstance(module, XCABlock)


@FUNCTIONS.register_module(name="shard_xca_blocks", force=True)
def shard_xca_blocks(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Whether a module makes a shard of its own: XCiT's blocks, and the rest of the model together.

    Args:
        module: The module.
        recurse: Whether PyTorch asks only if to look inside.
        nonwrapped_numel: The parameters in it that are in no shard yet.
    """
    return recurse or is_xca_block(module)


def recompute(block: nn.Module) -> nn.Module:
    """Makes a block recompute itself in the backward pass, its batch norms counting each batch once.

    Args:
        block: An XCA block.
    """
    return checkpoint_wrapper(block, context_fn=partial(recompute_contexts, block))


@STRATEGIES.register_module(force=True)
class XCiTFSDPStrategy(FSDPStrategy):
    """MMEngine's ``FSDPStrategy``, which shards an XCiT by its blocks and writes whole checkpoints.

    Beside better defaults, four differences: processes need no GPU; gradients are clipped by the norm of all shards;
    optimizers resume under current PyTorch; checkpoints load in every dialect that a whole model takes.

    Args:
        model_wrapper: As for ``FSDPStrategy``; by default ``auto_wrap_policy='shard_xca_blocks'``.
        state_dict_cfg: As for ``FSDPStrategy``; by default ``'full'``, checkpoints as those of other trainings.
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
            # PyTorch frees what it has moved there, though it was there before.
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        weightless = {id(weight): nn.Parameter(weight.detach().to("meta")) for weight in model.parameters()}
        self._skeleton = copy.deepcopy(model, weightless).to("meta")
        return super()._wrap_model(model)

    def build_optim_wrapper(self, optim_wrapper: Any, model: Any = None) -> BaseOptimWrapper:
        """Builds the optimizer wrapper, which scales losses and clips gradients for all shards together.

        Args:
            optim_wrapper: As for ``FSDPStrategy``.
            model: As for ``FSDPStrategy``.
        """
        if isinstance(optim_wrapper, dict) and optim_wrapper.get("type") == "AutoAmpOptimWrapper":
            optim_wrapper.setdefault("use_fsdp", True)
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, "clip_func", None) is nn.utils.clip_grad_norm_:
            built.clip_func = lambda _, **norm: model.clip_grad_norm_(**norm)
        return built

    def make_unsharded(self) -> nn.Module:
        """Makes the model anew without shards, on CPU, its numbers arbitrary."""
        return copy.deepcopy(self._skeleton).to_empty(device="cpu")

    def load_model_state_dict(self, state_dict: dict[str, Any], **options: Any) -> None:
        """Loads weights into the whole model, as MMEngine does without shards, and cuts it into shards again.

        PyTorch would show each module its part of the checkpoint under names that only shards have.

        Args:
            state_dict: That of a checkpoint, in any dialect.
            **options: As for ``FSDPStrategy``.
        """
        whole = self.make_whole()
        with torch.no_grad(), FullyShardedDataParallel.summon_full_params(self.model):
            own = _by_plain_name(self.model)
            for name, value in _by_plain_name(whole).items():
                value.copy_(own[name])
            _load_checkpoint_to_model(whole, state_dict, **options)
            for name, value in _by_plain_name(whole).items():
                own[name].copy_(value)

    def load_optim_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the optimizer's state, each process its shard.

        Args:
            state_dict: That of a checkpoint.
        """
        optimizer = self.optim_wrapper.optimizer
        shard = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict(shard)


def _by_plain_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by the names that they have without shards."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    wrappers = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."
    return {name.replace(wrappers[0], "").replace(wrappers[1], ""): tensor for name, tensor in tensors}
