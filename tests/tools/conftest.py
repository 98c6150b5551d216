"""What the tests of the tools share: short runs on the small shapes data set, each as its user starts it."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools():
    """Paths of the command lines and configs."""
    return SimpleNamespace(
        train=ROOT / "tools/train.py",
        test=ROOT / "tools/test.py",
        shapes=ROOT / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py",
        s12=ROOT / "configs/detection/mask_rcnn_xcit_s12.py",
        segmentation={
            name: ROOT / f"configs/segmentation/{name}.py"
            for head in ("sem_fpn", "upernet")
            for name in (f"{head}_xcit_n12", f"{head}_xcit_n12_p8_shapes")
        },
    )


@pytest.fixture(scope="session")
def read():
    """Reads a checkpoint of a training as MMEngine does."""
    import xcit_dense.mm  # noqa: F401  isort: skip
    from mmengine.runner import CheckpointLoader

    return lambda path: CheckpointLoader.load_checkpoint(str(path), map_location="cpu")


@pytest.fixture(scope="session")
def logged():
    """What a run logged, one dictionary an iteration or evaluation."""

    def lines(work_dir):
        return [json.loads(line) for path in sorted(work_dir.glob("*/vis_data/scalars.json")) for line in path.open()]

    return lines


@pytest.fixture(scope="session")
def records(logged):
    """What a training logged, one dictionary an iteration."""
    return lambda work_dir: [record for record in logged(work_dir) if "loss" in record]


@pytest.fixture(scope="session")
def steps(read):
    """Steps that the optimizer of a checkpoint has made, one number if all parameters agree."""
    return lambda checkpoint: {int(state["step"]) for state in read(checkpoint)["optimizer"]["state"].values()}


@pytest.fixture(scope="session")
def short():
    """Makes the ``--cfg-options`` of a run of a few iterations, which logs each."""

    def options(iterations, **more):
        values = {
            "train_cfg.max_iters": iterations,
            "train_cfg.val_interval": iterations,
            "default_hooks.checkpoint.interval": iterations,
            "default_hooks.logger.interval": 1,
            "train_dataloader.batch_size": 2,
            "randomness.seed": 0,
            **more,
        }
        return ["--cfg-options", *(f"{name}={value}" for name, value in values.items())]

    return options


@pytest.fixture(scope="session")
def train(python, tools, short, shapes, tmp_path_factory):
    """Trains a shapes config for four iterations; gives the work directory and what the run said."""

    @functools.cache
    def run(config):
        work_dir = tmp_path_factory.mktemp("runs") / "trained"
        command = [tools.train, config, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu"]
        process = python(*command, *short(4))
        return SimpleNamespace(
            work_dir=work_dir, checkpoint=work_dir / "iter_4.pth", output=process.stdout + process.stderr
        )

    return run


@pytest.fixture(scope="session")
def trained(train, tools):
    """A training of Mask R-CNN of four iterations: its work directory and what it said."""
    return train(tools.shapes)
