"""MMDetection's and MMSegmentation's own scripts and inferencers, unchanged, with configs from here."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripts():
    """Directory of MMDetection's own scripts."""
    directory = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim" / "tools"
    if not directory.is_dir():
        pytest.skip(f"this MMDetection has no scripts at {directory}")
    return directory


@pytest.fixture
def at(shapes):
    """Options that put the shapes data set in place of the config's, for scripts without ``--data-root``."""
    annotations = shapes / "annotations" / "instances_val2017.json"
    roots = [f"{split}_dataloader.dataset.data_root={shapes}/" for split in ("train", "val", "test")]
    return [*roots, *(f"{split}_evaluator.ann_file={annotations}" for split in ("val", "test"))]


def test_mmdetections_train_and_test_scripts_take_the_config(scripts, python, tools, short, at, tmp_path):
    python(scripts / "train.py", tools.shapes, "--work-dir", tmp_path, *short(2), *at, CUDA_VISIBLE_DEVICES="")
    checkpoint = tmp_path / "iter_2.pth"
    assert checkpoint.is_file()
    assert (tmp_path / "learning_curve.png").is_file()
    command = [scripts / "test.py", tools.shapes, checkpoint, "--work-dir", tmp_path / "test", "--cfg-options", *at]
    process = python(*command, CUDA_VISIBLE_DEVICES="")
    assert "coco/segm_mAP" in process.stdout + process.stderr


def test_mmdetections_inferencer_takes_the_config(python, tools, trained, shapes):
    process = python(
        "-c",
        "import sys\n"
        "from mmdet.apis import DetInferencer\n"
        "config, weights, *pictures = sys.argv[1:]\n"
        "inferencer = DetInferencer(model=config, weights=weights, device='cpu')\n"
        "print([sorted(each) for each in inferencer(pictures)['predictions']])",
        tools.shapes,
        trained.checkpoint,
        *sorted((shapes / "val2017").iterdir())[:2],
    )
    assert process.stdout.splitlines()[-1] == str([["bboxes", "labels", "masks", "scores"]] * 2)


def test_mmsegmentations_inferencer_can_be_imported(python):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    assert python("-c", "from mmseg.apis import MMSegInferencer; print(MMSegInferencer.__name__)").stdout == (
        "MMSegInferencer\n"
    )
