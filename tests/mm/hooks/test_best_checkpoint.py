"""The best checkpoint of a run by the main metric of its task."""

import math

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmseg.evaluation import IoUMetric
from torch.utils.data import Dataset

from xcit_dense.mm.runtime.launch import make_runner


@MODELS.register_module()
class Guess(BaseModel):
    """One number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode="tensor"):
        out = self.layer(torch.stack(inputs))
        return {"loss": out.square().mean()} if mode == "loss" else list(out)


@DATASETS.register_module()
class Ones(Dataset):
    """Two samples."""

    metainfo = {"classes": ("cow",)}  # noqa: RUF012

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"inputs": torch.ones(1)}


class Scores:
    """Metrics that rise and fall: the main metric is best at the second of three validations."""

    validation = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.validation += 1
        return {"cow_precision": math.nan, "aAcc": 10.0 - self.validation, **self.main[self.validation - 1]}


@METRICS.register_module()
class BoxScores(Scores, CocoMetric):
    main = [{"segm_mAP": 1 - value, "bbox_mAP": value} for value in (0.1, 0.3, 0.2)]  # noqa: RUF012


@METRICS.register_module()
class PixelScores(Scores, IoUMetric):
    main = [{"mIoU": value} for value in (0.1, 0.3, 0.2)]  # noqa: RUF012


@pytest.mark.parametrize(
    ("evaluator", "best"),
    [
        ({"type": "BoxScores", "metric": ["segm", "bbox"]}, "coco/bbox_mAP"),
        ({"type": "PixelScores"}, "mIoU"),
    ],
    ids=["detection", "segmentation"],
)
def test_auto_takes_the_main_metric_of_the_task(tmp_path, capsys, evaluator, best):
    loader = {
        "dataset": {"type": "Ones"},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "pseudo_collate"},
        "batch_size": 2,
        "num_workers": 0,
    }
    checkpoint = {"type": "AtomicCheckpointHook", "by_epoch": False, "interval": 1, "save_best": "auto"}
    config = {
        "model": {"type": "Guess"},
        "work_dir": str(tmp_path),
        "train_dataloader": loader,
        "val_dataloader": loader,
        "train_cfg": {"by_epoch": False, "max_iters": 3, "val_interval": 1},
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": evaluator,
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
        "default_hooks": {"checkpoint": checkpoint},
        "log_processor": {"by_epoch": False},
        "experiment_name": best,
    }
    make_runner(Config(config)).train()
    assert f"the highest {best} (save_best=auto)" in capsys.readouterr().out
    (found,) = tmp_path.glob("best_*.pth")
    assert found.name == f"best_{best.replace('/', '_')}_iter_2.pth"
