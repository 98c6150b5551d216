"""Memory stays constant over many steps and predictions with different image sizes."""

import gc
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.models import tiny_xcit
from xcit_dense import deploy

STEPS, WARM = 1000, 300  # libraries keep something for each of the first sizes
CONFIGS = Path(__file__).parents[1] / "configs"


def tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


class Watch:
    """Checks that the tensors and the memory do not grow after the first steps of a run."""

    def __init__(self, memory):
        self.memory = memory
        self.steps = 0

    def step(self):
        """Counts a step."""
        self.steps += 1
        if self.steps == WARM:
            self.before = self.memory(), tensors()
        elif self.steps == STEPS:
            assert tensors() == self.before[1]
            assert self.memory() - self.before[0] < 8


class Images:
    """Random images. Each image has a different size."""

    metainfo = None

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        chance = random.Random(index)
        return {"inputs": torch.rand(3, chance.randrange(16, 65), chance.randrange(16, 65))}


def check_flat(step, memory):
    """Takes a step with each image."""
    watch, images = Watch(memory), Images()
    for index in range(STEPS):
        step(images[index]["inputs"][None])
        watch.step()


@pytest.fixture(autouse=True)
def _one_thread():
    """The images are so small that a second thread would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.long
def test_memory_stays_constant_over_a_thousand_training_steps(memory, tmp_path):
    """MMEngine's runner trains, with the hooks of every config."""
    pytest.importorskip("mmengine", reason="MMEngine is not installed")
    pytest.importorskip("mmcv", reason="mmcv is not installed")
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = tiny_xcit(norm_cfg="BN")

        def forward(self, inputs, mode):
            levels = self.backbone(torch.stack(inputs))
            return {f"loss_{number}": level.square().mean() for number, level in enumerate(levels)}

    class WatchHook(Hook):
        priority = "LOWEST"

        def after_train_iter(self, *_, **__):
            watch.step()

    watch = Watch(memory)
    config = Config.fromfile(CONFIGS / "_base_/runtime.py")
    runner = Runner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader={
            "dataset": Images(),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "batch_size": 1,
            "num_workers": 0,
        },
        train_cfg={"by_epoch": False, "max_iters": STEPS},
        optim_wrapper={"type": "AutoAmpOptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-4}},
        default_hooks=config.default_hooks,
        custom_hooks=[*config.custom_hooks, WatchHook()],
        log_processor={"by_epoch": False},
        default_scope="mmengine",
        experiment_name="long",
    )
    runner.train()
    assert watch.steps == STEPS


@pytest.mark.slow
@pytest.mark.long
def test_memory_stays_constant_over_a_thousand_predictions(memory):
    """The model is deployed, so it keeps the positional encodings of the last sizes."""
    model = deploy(tiny_xcit(norm_cfg="BN").eval())
    with torch.no_grad():
        check_flat(model, memory)


@pytest.mark.parametrize("keep", [torch.clone, lambda images: b"x" * 100_000], ids=["tensors", "memory"])
def test_the_check_sees_a_leak(keep, memory):
    kept = []
    with pytest.raises(AssertionError):
        check_flat(lambda images: kept.append(keep(images)), memory)


def test_logged_values_are_removed_from_memory():
    pytest.importorskip("mmengine", reason="MMEngine is not installed")
    pytest.importorskip("mmcv", reason="mmcv is not installed")
    from mmengine.logging import MessageHub
    from mmengine.registry import HOOKS

    import xcit_dense.mm  # noqa: F401

    hub = MessageHub("long")
    hook = HOOKS.build({"type": "ShortHistoryHook", "length": 50})
    for step in range(200):
        hub.update_scalar("train/loss", step)
        hook.after_train_iter(SimpleNamespace(message_hub=hub), step)
    values, counts = hub.get_scalar("train/loss").data
    assert values.tolist() == list(range(150, 200))
    assert len(counts) == 50
