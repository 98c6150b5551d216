"""What the tests of the tools share: short runs on the small shapes data set, each as its user starts it."""

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
    )


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
def trained(python, tools, short, shapes, tmp_path_factory):
    """A training of four iterations: its work directory and what it said."""
    work_dir = tmp_path_factory.mktemp("runs") / "trained"
    process = python(
        tools.train, tools.shapes, "--data-root", shapes, "--work-dir", work_dir, "--device", "cpu", *short(4)
    )
    return SimpleNamespace(
        work_dir=work_dir, checkpoint=work_dir / "iter_4.pth", output=process.stdout + process.stderr
    )
