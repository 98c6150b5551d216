"""MMDetection's and MMSegmentation's own scripts and inferencers, unchanged, with configs from here."""

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.runs import short_run

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.both]


def scripts(library):
    """Finds the directory of a library's own scripts."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    directory = Path(importlib.util.find_spec(library).origin).parent / ".mim" / "tools"
    if not directory.is_dir():
        pytest.skip(f"this {library} has no scripts at {directory}")
    return directory


@pytest.fixture
def roots(shapes):
    """Options that put the shapes data set in place of the config's, for scripts without ``--data-root``."""
    return [f"{split}_dataloader.dataset.data_root={shapes}/" for split in ("train", "val", "test")]


@pytest.fixture
def at(roots, shapes):
    """Those options for a detection config, whose evaluators read annotations too."""
    annotations = shapes / "annotations" / "instances_val2017.json"
    return [*roots, *(f"{split}_evaluator.ann_file={annotations}" for split in ("val", "test"))]


def test_mmdetections_train_and_test_scripts_take_the_config(python, tools, at, tmp_path):
    directory = scripts("mmdet")
    python(directory / "train.py", tools.shapes, "--work-dir", tmp_path, *short_run(2), *at, CUDA_VISIBLE_DEVICES="")
    checkpoint = tmp_path / "iter_2.pth"
    assert checkpoint.is_file()
    assert (tmp_path / "learning_curve.png").is_file()
    command = [directory / "test.py", tools.shapes, checkpoint, "--work-dir", tmp_path / "test", "--cfg-options", *at]
    process = python(*command, CUDA_VISIBLE_DEVICES="")
    assert "coco/segm_mAP" in process.stdout + process.stderr


def test_mmdetections_inferencer_takes_the_config(python, tools, trained, shapes):
    process = python(
        "-c",
        "import sys\n"
        "from mmdet.apis import DetInferencer\n"
        "config, weights, *images = sys.argv[1:]\n"
        "inferencer = DetInferencer(model=config, weights=weights, device='cpu')\n"
        "print([sorted(each) for each in inferencer(images)['predictions']])",
        tools.shapes,
        trained.checkpoint,
        *sorted((shapes / "val2017").iterdir())[:2],
    )
    assert process.stdout.splitlines()[-1] == str([["bboxes", "labels", "masks", "scores"]] * 2)


def test_mmsegmentations_train_and_test_scripts_take_the_config(python, tools, roots, tmp_path):
    directory = scripts("mmseg")
    config = tools.segmentation["upernet_xcit_n12_p8_shapes"]
    python(directory / "train.py", config, "--work-dir", tmp_path, *short_run(2), *roots, CUDA_VISIBLE_DEVICES="")
    checkpoint = tmp_path / "iter_2.pth"
    assert checkpoint.is_file()
    assert (tmp_path / "learning_curve.png").is_file()
    command = [directory / "test.py", config, checkpoint, "--work-dir", tmp_path / "test", "--out", tmp_path / "labels"]
    process = python(*command, "--cfg-options", *roots, CUDA_VISIBLE_DEVICES="")
    assert "mIoU" in process.stdout + process.stderr
    assert len(list((tmp_path / "labels").iterdir())) == 4


def test_mmsegmentations_inferencer_takes_the_config(python, tools, train, shapes):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    config = tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]
    process = python(
        "-c",
        "import sys\n"
        "from mmseg.apis import MMSegInferencer\n"
        "config, weights, *images = sys.argv[1:]\n"
        "inferencer = MMSegInferencer(model=config, weights=weights, device='cpu')\n"
        "print([(each.shape, each.max() < 5) for each in inferencer(images)['predictions']])",
        config,
        train(config).checkpoint,
        *sorted((shapes / "val2017").iterdir())[:2],
    )
    assert process.stdout.splitlines()[-1].replace("np.True_", "True") == str([((96, 96), True)] * 2)
