"""What is compared and timed: predictions, training steps, and the outputs of the parts of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.benchmark.figures import Outcome
from xcit_dense.benchmark.options import Conditions
from xcit_dense.errors import UserError
from xcit_dense.mm.benchmark.samples import Batch


def check_heads(model: Any) -> None:
    """Checks that the heads of a model compute their outputs only from maps, so that they can be compared.

    Raises:
        UserError: A head needs more than maps.
    """
    decode_head = getattr(model, "decode_head", None)
    has_queries = any(hasattr(one, "decoder") or hasattr(one, "transformer_decoder") for one in (model, decode_head))
    if has_queries or hasattr(model, "panoptic_head") or isinstance(decode_head, nn.ModuleList):
        raise UserError(
            f"{type(model).__name__} is not measured, because its heads need more than the maps of the backbone: "
            "queries, or the output of another head. Measure a model with convolutional heads, or the backbone with "
            "--variant."
        )


def predict(model: Any, batch: Batch, options: Conditions) -> list[Any]:
    """Predicts: from normalised images to boxes and masks of the images' size, or to label maps.

    Args:
        model: A model of the MM libraries, in evaluation mode.
        batch: The images.
        options: The number format.

    Returns:
        A sample of the library for each image.
    """
    with torch.inference_mode(), options.autocast:
        return model(batch.images, batch.samples, mode="predict")


def lose(model: Any, batch: Batch, options: Conditions) -> Tensor:
    """Computes the sum of the losses.

    Args:
        model: A model of the MM libraries, in training mode.
        batch: The images and the ground truth.
        options: The number format.
    """
    torch.manual_seed(0)  # for the samplers of regions and for dropout
    with options.autocast:
        losses = model(batch.images, batch.samples, mode="loss")
        total: Tensor = model.parse_losses(losses)[0]
    return total


def train(model: Any, batch: Batch, options: Conditions) -> None:
    """Computes the losses and the gradients of all parameters, as a training step does before the optimizer.

    Args:
        model: A model of the MM libraries, in training mode. It receives the gradients.
        batch: The images and the ground truth.
        options: The number format.
    """
    model.zero_grad(set_to_none=True)
    lose(model, batch, options).backward()


def step(model: Any, batch: Batch, options: Conditions) -> None:
    """Predicts, or computes a training step."""
    if options.train:
        train(model, batch, options)
    else:
        predict(model, batch, options)


def outcome(model: Any, batch: Batch, options: Conditions) -> Outcome:
    """Computes what a contender is compared by: the outputs of the parts, and in training also the gradients.

    A detector chooses regions, and rounding can change the choice. So the heads of regions are compared in the same
    regions. In training, the regions in place of the RPN's are the same for all contenders.

    Args:
        model: A model of the MM libraries, in the mode of the options.
        batch: The images and the ground truth.
        options: The number format.

    Returns:
        Tensors in fp32 by what they are.
    """
    # torch.compile compiles once for inference mode, and another time for other modes.
    with torch.no_grad(), torch.inference_mode(not options.train), options.autocast:
        levels = model.backbone(batch.images)
        maps = model.neck(levels) if model.with_neck else levels
        found: dict[str, Any] = {"levels": levels}
        if model.with_neck:
            found["maps of the neck"] = maps
        if hasattr(model, "roi_head"):
            found["outputs of the RPN"] = model.rpn_head(maps)
            found["outputs of the heads"] = model.roi_head.forward(maps, batch.proposals, batch.samples)
        elif hasattr(model, "decode_head"):
            torch.manual_seed(0)  # for dropout
            found["logits"] = model.decode_head.forward(maps)
        else:
            found["outputs of the head"] = model.bbox_head(maps)
    compared = {name: [one.float() for one in tensors_in(value)] for name, value in found.items()}
    if options.train:
        with fixed_proposals(model, batch):
            train(model, batch, options)
        compared |= gradients_of(model)
        model.zero_grad(set_to_none=True)
    return compared


def gradients_of(model: Any) -> Outcome:
    """Returns the gradients of each part of a model as one tensor.

    The gradients of the backbone's stem are left out, because PyTorch's batch norm can compute wrong gradients for a
    single image on CPU.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in sorted(model.named_parameters()):
        part, _, rest = name.partition(".")
        if parameter.grad is not None and not (part == "backbone" and not rest.startswith(("blocks", "fpn"))):
            parts.setdefault(f"gradients of {part}", []).append(parameter.grad.float().flatten())
    return {part: [torch.cat(values)] for part, values in parts.items()}


@contextmanager
def fixed_proposals(model: Any, batch: Batch) -> Iterator[None]:
    """Replaces the RPN's regions by the regions of the batch. Other models are not changed."""
    head = getattr(model, "rpn_head", None)
    if head is None:
        yield
        return
    head.predict_by_feat = lambda *_, **__: [one.clone() for one in batch.proposals]
    try:
        yield
    finally:
        del head.predict_by_feat


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Iterates over the tensors of nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
