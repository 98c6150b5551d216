"""Training steps of segmentors: in one process, or run as one of several processes by test_training.py."""

import copy
import os
import sys
from pathlib import Path

import torch

import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import distributed

from tests.helpers.models import random_images, randomise
from tests.helpers.tiny import tiny_config
from xcit_dense.errors import UserError

AVERAGE = {"type": "CrossEntropyLoss", "avg_non_ignore": True}
WEIGHTS = {"type": "CrossEntropyLoss", "class_weight": [0.5, 1.0, 2.0, 1.0, 1.5]}
ONE_LOGIT = {"num_classes": 2, "out_channels": 1, "threshold": 0.4, "loss_decode": {**AVERAGE, "use_sigmoid": True}}
# The head, changes of backbone and decode head, and the shape of the images.
CASES = {
    "sem_fpn": ("sem_fpn", {}, {"dropout_ratio": 0.3}, (2, 3, 133, 50)),
    "upernet": ("upernet", {}, {"dropout_ratio": 0.3, "loss_decode": [AVERAGE, WEIGHTS]}, (2, 3, 150, 61)),
    "one image": ("sem_fpn", {"drop_path_rate": 0.4, "with_cp": True}, {"loss_decode": AVERAGE}, (1, 3, 97, 75)),
    "one logit": ("sem_fpn", {}, {**ONE_LOGIT, "align_corners": True}, (2, 3, 96, 40)),
}
# The head, changes of backbone and decode head, and the number of images.
REFUSED = {
    "training norms": ("sem_fpn", {"norm_eval": False}, {}, 2),
    "another loss": ("sem_fpn", {}, {"loss_decode": {"type": "DiceLoss"}}, 2),
    "a sampler": ("sem_fpn", {}, {"sampler": {"type": "OHEMPixelSampler"}}, 2),
    "group norm": ("sem_fpn", {}, {"norm_cfg": {"type": "GN", "num_groups": 2}}, 2),
    "another head": ("segformer", {}, {}, 2),
    "one value": ("upernet", {}, {}, 1),
    "other images": ("sem_fpn", {}, {}, 3),
}


def make_model(kind, head, of_backbone=None, of_head=None):
    """A tiny segmentor in training mode, with random weights.

    The weights are float64, because a batch norm of the few values behind a pooling multiplies rounding errors.
    """
    settings = copy.deepcopy(tiny_config("segmentation", head).model)
    settings.update(type=kind)
    settings.backbone.update({"norm_eval": True, **(of_backbone or {})})
    for name, value in (of_head or {}).items():  # no merge, because a list has to stay a list
        settings.decode_head[name] = value
    init_default_scope("mmseg")
    return randomise(MODELS.build(settings)).double().train()


def make_batch(shape, classes, ignores=True):
    """Images and labels. A part of the labels is ignored on request."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (shape[0], 1, *shape[2:]), generator=generator)
    if ignores:
        labels[:, :, : shape[2] // 3, 5:20] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]
    return random_images(*shape).double(), samples


def refusal(name, rank):
    """Returns the message with which a training step is refused."""
    head, of_backbone, of_head, images = REFUSED[name]
    model = make_model("ShardedEncoderDecoder", head, of_backbone, of_head)
    inputs, samples = make_batch((images, 3, 96, 40), 5)
    if name == "other images" and rank:
        inputs = inputs.flip(3)
    try:
        model.loss(inputs, samples)
    except UserError as error:
        return str(error)
    return ""


def mixed_losses(kind):
    """Computes losses in mixed precision, and checks that the gradients are finite."""
    model = make_model(kind, "upernet").float()
    inputs, samples = make_batch((2, 3, 120, 61), 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss, values = model.parse_losses(model.loss(inputs.float(), samples))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    return {key: float(value.detach()) for key, value in values.items()}


def step(kind, name, seed=0):
    """Computes losses, gradients and buffers after a training step of a case."""
    head, of_backbone, of_head, shape = CASES[name]
    model = make_model(kind, head, of_backbone, of_head)
    torch.manual_seed(seed)
    # MMSegmentation 1.2 has no ignored labels together with weights of classes.
    losses = model.loss(*make_batch(shape, of_head.get("num_classes", 5), ignores=head != "upernet"))
    loss, values = model.parse_losses(losses)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    return {key: float(value.detach()) for key, value in values.items()}, gradients, dict(model.named_buffers())


def main(directory, processes):
    """Computes a step of each case, averages the gradients as DistributedDataParallel does, and saves the results."""
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo", init_method=f"file://{directory}/group", rank=rank, world_size=processes)
    results = {}
    for name in CASES:
        results[name] = step("ShardedEncoderDecoder", name, seed=rank)
        for gradient in results[name][1].values():
            distributed.all_reduce(gradient)
            gradient /= processes
    results["mixed"] = mixed_losses("ShardedEncoderDecoder")
    results["refused"] = {name: refusal(name, rank) for name in REFUSED}
    torch.save(results, Path(directory, f"{rank}.pt"))
    distributed.barrier()
    os._exit(0)  # gloo's threads may abort an ordinary exit


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
