"""Trains small models, by one process or by each of several: ``python trainings.py DIRECTORY LAUNCHER NAME...``.

A training NAME leaves its checkpoints in DIRECTORY/NAME, and in DIRECTORY/NAME.pth the gradients of its first step.
"""

import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, OPTIM_WRAPPERS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import Dataset

import xcit_dense.mm  # noqa: F401
from xcit_dense.mm.runtime.launch import leave, make_runner

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "out_indices": (0, 1, 2, 3), "type": "XCiT"}
STEPS, BATCH, SIZE = 3, 4, (32, 40)


@MODELS.register_module()
class Regressor(BaseModel):
    """A backbone that learns two numbers an image."""

    def __init__(self, backbone):
        super().__init__()
        torch.manual_seed(3)  # the runner for shards may have drawn more random numbers than the other runner
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(16, 2)

    def forward(self, inputs, targets=None, mode="tensor"):
        got = self.head(sum(level.mean((2, 3)) for level in self.backbone(torch.stack(inputs))))
        return {"loss": (got - torch.stack(targets)).square().mean()} if mode == "loss" else [got]


@OPTIM_WRAPPERS.register_module()
class Recording(OptimWrapper):
    """Keeps the gradients of the first step."""

    gradients = None

    def step(self, **kwargs):
        if self.gradients is None:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            self.gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        super().step(**kwargs)


@DATASETS.register_module()
class Noise(Dataset):
    """Random images, each with two numbers or with a label map of three classes."""

    metainfo = {}  # noqa: RUF012

    def __init__(self, length, labels):
        self.samples = []
        generator = torch.Generator().manual_seed(7)
        for _ in range(length):
            image = torch.randn(3, *SIZE, generator=generator)
            if labels:
                data = PixelData(data=torch.randint(3, (1, *SIZE), generator=generator))
                self.samples.append({"inputs": image, "data_samples": SegDataSample(gt_sem_seg=data)})
            else:
                self.samples.append({"inputs": image, "targets": torch.randn(2, generator=generator)})

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def regressor(**backbone):
    return {
        "model": {"type": "Regressor", "backbone": {**TINY, "norm_eval": True, **backbone}},
        "dataset": {"type": "Noise", "length": BATCH * STEPS, "labels": False},
    }


def segmentor(**backbone):
    return {
        "model": {
            "type": "EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", "size": SIZE},
            "backbone": {**TINY, "norm_eval": True, **backbone},
            "neck": {"type": "FPN", "in_channels": [16] * 4, "out_channels": 16, "num_outs": 4},
            "decode_head": {
                "type": "FPNHead",
                "in_channels": [16] * 4,
                "in_index": [0, 1, 2, 3],
                "feature_strides": [4, 8, 16, 32],
                "channels": 16,
                "dropout_ratio": 0.0,
                "num_classes": 3,
                "norm_cfg": {"type": "GN", "num_groups": 2},
            },
        },
        "dataset": {"type": "Noise", "length": BATCH, "labels": True},
        "default_scope": "mmseg",
    }


def config(directory, name, launcher, model, dataset, clip=False, **changes):
    processes = 1 if launcher == "none" else 2
    return Config(
        {
            "model": model,
            "work_dir": str(directory / name),
            "train_dataloader": {
                "dataset": dataset,
                "sampler": {"type": "DefaultSampler", "shuffle": False},
                "collate_fn": {"type": "pseudo_collate"},
                "batch_size": BATCH // processes,
                "num_workers": 0,
            },
            "train_cfg": {"by_epoch": False, "max_iters": dataset["length"] // BATCH},
            "optim_wrapper": {
                "type": "Recording",
                "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
                "clip_grad": {"max_norm": 0.1} if clip else None,
            },
            "default_hooks": {"checkpoint": {"type": "AtomicCheckpointHook", "by_epoch": False, "interval": 2}},
            "custom_hooks": [{"type": name} for name in ("LearningCurveHook", "CheckWeightsHook", "ReproducibleHook")],
            "randomness": {"seed": 3},
            "launcher": launcher,
            "experiment_name": name,
            "log_level": "WARNING",
            **changes,
        }
    )


def sharded(norm_eval=True, with_cp=False, recompute=False, **changes):
    strategy = {"type": "XCiTFSDPStrategy", "activation_checkpointing": recompute}
    return {**regressor(norm_eval=norm_eval, with_cp=with_cp), "clip": True, "strategy": strategy, **changes}


TRAININGS = {
    "whole": lambda directory: regressor(),
    "clipped": lambda directory: {**regressor(), "clip": True},
    "batch_statistics": lambda directory: regressor(norm_eval=False),
    "segmentor": lambda directory: segmentor(),
    "shards": lambda directory: sharded(),
    "shards_resumed": lambda directory: sharded(resume=True, load_from=str(directory / "shards/iter_2.pth")),
    "shards_loaded": lambda directory: sharded(
        load_from=str(directory / "start.pth"), optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.0}}
    ),
    "shards_kept": lambda directory: sharded(norm_eval=False),
    "shards_recomputed": lambda directory: sharded(norm_eval=False, recompute=True),
    "shards_with_cp": lambda directory: sharded(norm_eval=False, with_cp=True),
}


def main():
    directory, launcher, *names = Path(sys.argv[1]), *sys.argv[2:]
    for name in names:
        runner = make_runner(config(directory, name, launcher, **TRAININGS[name](directory)))
        runner.train()
        if is_main_process() and not runner.cfg.get("strategy"):
            torch.save(runner.optim_wrapper.gradients, directory / f"{name}.pth")
    leave()


if __name__ == "__main__":
    main()
