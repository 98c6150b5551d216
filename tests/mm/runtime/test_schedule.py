"""What a run says about its learning rate and its length."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import Dataset

from tests.helpers.models import raises_user_error
from xcit_dense.mm.runtime.launch import make_runner


@MODELS.register_module()
class Slope(BaseModel):
    """One number."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode="tensor"):
        return {"loss": self.layer(torch.stack(inputs)).square().mean()}


@DATASETS.register_module()
class Farm(Dataset):
    """Four images of animals."""

    def __init__(self, classes=("cow", "hen")):
        self.metainfo = {"classes": classes}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"inputs": torch.ones(1)}


@pytest.fixture
def train(tmp_path, capsys):
    """Trains for some steps, from a checkpoint if one is given; returns what the console shows."""

    def run(steps=4, resume=None, rate=0.1, schedule=(), by_epoch=False, **options):
        config = Config(
            {
                "model": {"type": "Slope"},
                "work_dir": str(tmp_path / "run"),
                "train_dataloader": {
                    "dataset": {"type": "Farm"},
                    "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": False},
                    "collate_fn": {"type": "pseudo_collate"},
                    "batch_size": 2,
                    "num_workers": 0,
                },
                "train_cfg": {"by_epoch": by_epoch, "max_epochs" if by_epoch else "max_iters": steps},
                "optim_wrapper": {"optimizer": {"type": "SGD", "lr": rate, "weight_decay": 0.0}},
                "param_scheduler": list(schedule),
                "default_hooks": {
                    "checkpoint": {"type": "AtomicCheckpointHook", "by_epoch": by_epoch, "interval": 1},
                    "logger": {"type": "LoggerHook", "interval": 1},
                },
                "log_processor": {"by_epoch": by_epoch},
                # MMEngine keeps objects by name and second, and warns at a second object of a name.
                "experiment_name": f"{tmp_path.name}_{len(list(tmp_path.rglob('*.log')))}",
            }
        )
        config.merge_from_dict(options)
        make_runner(config, resume).train()
        return capsys.readouterr().out

    return run


def warm_up(end, **options):
    return {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": end, **options}


def test_a_warm_up_that_is_longer_than_the_training_is_named(train):
    out = train(steps=3, schedule=[{"type": "MultiStepLR", "milestones": [2], "by_epoch": False}, warm_up(5)])
    assert "warning: param_scheduler.1 raises the learning rate for 5 iterations, but the training has 3" in out
    out = train(steps=1, by_epoch=True, schedule=[{"type": "ConstantLR", "factor": 0.1, "end": 2}])
    assert "warning: param_scheduler.0 raises the learning rate for 2 epochs, but the training has 1" in out


def test_a_warm_up_within_the_training_and_a_falling_rate_are_not_named(train):
    falls = {"type": "LinearLR", "start_factor": 1.0, "end_factor": 0.1, "by_epoch": False, "end": 50}
    assert "warning" not in train(steps=3, schedule=[warm_up(3), falls])


def test_a_resumed_training_names_each_setting_that_comes_from_the_checkpoint(train, tmp_path):
    train(schedule=[warm_up(3)])
    checkpoint = tmp_path / "run/iter_4.pth"
    out = train(6, checkpoint, 0.5, [warm_up(4)], **{"optim_wrapper.optimizer.weight_decay": 0.25})
    assert f"come from {checkpoint}, not from the config" in out
    for change in (
        "lr 0.1 (config: 0.5)",
        "weight_decay 0.0 (config: 0.25)",
        "param_scheduler.0.end 3 (config: 4)",
        f"load_from={checkpoint}",
    ):
        assert change in out
    assert "learning rate 0.1," in out or "learning rate 0.1\n" in out


@pytest.mark.parametrize("options", [{}, {"optim_wrapper.paramwise_cfg": {"bias_lr_mult": 2.0}}], ids=["one", "many"])
def test_a_resumed_training_with_the_same_settings_names_none(train, tmp_path, options):
    train(schedule=[warm_up(3)], **options)
    out = train(6, tmp_path / "run/iter_4.pth", schedule=[warm_up(3)], **options)
    assert "not from the config" not in out
    assert "already over" not in out


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_resumed_training_without_iterations_left_is_already_over(train, tmp_path, by_epoch):
    train(2, by_epoch=by_epoch)
    out = train(2, tmp_path / f"run/{'epoch' if by_epoch else 'iter'}_2.pth", by_epoch=by_epoch)
    done = 4 if by_epoch else 2
    assert f"The training is already over: {done} of {done} iterations are done." in out
    assert f"train_cfg.{'max_epochs' if by_epoch else 'max_iters'}" in out


def test_a_training_that_resumes_after_the_end_of_its_schedule_is_named(train, tmp_path):
    falls = {"type": "CosineAnnealingLR", "by_epoch": False, "T_max": 1, "end": 2, "eta_min": 0}
    train(2, schedule=[falls])
    out = train(4, tmp_path / "run/iter_2.pth", schedule=[falls])
    assert "warning: The schedule of the checkpoint has ended, so the learning rate stays at 0;" in out


@pytest.mark.parametrize("classes", [["hen", "cow"], ["cow"], ["cow", "hen", "pig"]])
def test_a_resume_with_other_classes_is_refused(train, tmp_path, classes):
    train()
    checkpoint = tmp_path / "run/iter_4.pth"
    with raises_user_error(f"{checkpoint} was trained on 2 classes (cow, hen)", ", ".join(classes), "load_from="):
        train(6, checkpoint, **{"train_dataloader.dataset.classes": classes})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": []}, ["1 parts", "has 0"]),
        ({"schedule": [{"type": "MultiStepLR", "milestones": [2], "by_epoch": False}]}, ["of another type"]),
        ({"optim_wrapper.optimizer": {"type": "AdamW", "lr": 0.1}}, ["only one", "'betas'"]),
        ({"optim_wrapper.paramwise_cfg": {"bias_lr_mult": 2.0}}, ["1 groups", "has 2"]),
    ],
    ids=["fewer parts", "another type", "another optimizer", "other groups"],
)
def test_a_resume_with_an_optimizer_or_schedule_of_another_kind_is_refused(train, tmp_path, options, words):
    train(schedule=[warm_up(3)])
    checkpoint = tmp_path / "run/iter_4.pth"
    with raises_user_error(f"{checkpoint} cannot be resumed", *words, f"load_from={checkpoint}"):
        train(6, checkpoint, **{"schedule": [warm_up(3)], **options})


def test_settings_of_workers_without_workers_are_corrected_and_named(train):
    out = train(1, **{"train_dataloader.persistent_workers": True})
    assert "train_dataloader.persistent_workers is set to False" in out
    assert "Trained 1 iterations" in out
