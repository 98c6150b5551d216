"""MMDetection's and MMSegmentation's own scripts and inferencers, unchanged, with configs from here."""

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.runs import short_run

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.both, pytest.mark.long]  # CI runs them on the original stack

SPLITS_AND_RESIZES = (("train", 2), ("val", 1), ("test", 1))
"""The position of Resize in the pipelines of MMDetection."""


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


def test_mmdetections_script_and_ours_train_a_config_of_theirs_with_an_xcit(python, shapes, at, tmp_path):
    directory = scripts("mmdet")
    name = "retinanet_r50_fpn_1x_coco"
    python("-m", "xcit_dense", "config", "--backbone", "nano_12_p16", name, "--copy", tmp_path)
    leaf = tmp_path / f"{name}_xcit_n12.py"
    small = [f"{split}_dataloader.dataset.pipeline.{step}.scale=(128,128)" for split, step in SPLITS_AND_RESIZES]
    options = ["model.backbone.init_cfg=None", "train_cfg.max_epochs=1", "param_scheduler=None", *small]
    classes = [f"{split}_dataloader.dataset.metainfo.classes=('circle','square')" for split, _ in SPLITS_AND_RESIZES]
    theirs = ["--cfg-options", *options, *classes, "model.bbox_head.num_classes=2", *at]
    python(directory / "train.py", leaf, "--work-dir", tmp_path / "theirs", *theirs, CUDA_VISIBLE_DEVICES="")
    assert (tmp_path / "theirs" / "epoch_1.pth").is_file()
    ours = ["--data-root", shapes, "--classes", "auto", "--device", "cpu", "--cfg-options", *options]
    python("-m", "xcit_dense", "train", leaf, "--work-dir", tmp_path / "ours", *ours)
    assert (tmp_path / "ours" / "epoch_1.pth").is_file()


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


def test_mmsegmentations_script_and_ours_train_a_config_of_theirs_with_an_xcit(python, shapes, roots, tmp_path):
    directory = scripts("mmseg")
    name = "segformer_mit-b0_8xb2-160k_ade20k-512x512"
    python("-m", "xcit_dense", "config", "--backbone", "nano_12_p16", name, "--copy", tmp_path)
    leaf = tmp_path / f"{name}_xcit_n12.py"
    pipeline = "train_dataloader.dataset.pipeline"
    small = [f"{pipeline}.2.scale=(128,64)", f"{pipeline}.3.crop_size=(64,64)", "model.data_preprocessor.size=(64,64)"]
    options = [*short_run(2), "model.backbone.init_cfg=None", "train_dataloader.num_workers=0", *small]
    options += ["train_dataloader.persistent_workers=False"]
    theirs = [*options, *roots]
    python(directory / "train.py", leaf, "--work-dir", tmp_path / "theirs", *theirs, CUDA_VISIBLE_DEVICES="")
    assert (tmp_path / "theirs" / "iter_2.pth").is_file()
    ours = ["--data-root", shapes, "--classes", "auto", "--ignore-zero", "--device", "cpu", *options]
    python("-m", "xcit_dense", "train", leaf, "--work-dir", tmp_path / "ours", *ours)
    assert (tmp_path / "ours" / "iter_2.pth").is_file()


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
