"""The check before a training or a test prints what it finds, and refuses data that a run cannot use."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.cli.data_check import check_data
from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
OBJECTS = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
LABELS = CONFIGS / "segmentation/sem_fpn_xcit_n12_p8_shapes.py"
TRAINING, TEST = ("train_dataloader", "val_dataloader"), ("test_dataloader",)


@pytest.fixture
def root(shapes, tmp_path):
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))


def load(config, root, **options):
    return load_config(config, {"model.backbone.init_cfg": None, **options}, str(root))


def without_annotations(root):
    path = root / "annotations/instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    return path


@pytest.mark.parametrize("config", [OBJECTS, LABELS])
@pytest.mark.parametrize("loaders", [TRAINING, TEST])
def test_data_without_faults_is_summed_up(root, capsys, config, loaders):
    check_data(load(config, root), loaders, limit=1)
    printed = capsys.readouterr().out
    assert printed.count(" images (1 of them opened)") == len(loaders)
    assert "error" not in printed


def test_a_test_without_ground_truth_is_refused(root):
    path = without_annotations(root)
    with raises_user_error(path, "no ground truth", "xcit-dense predict"):
        check_data(load(OBJECTS, root), TEST, limit=1)


def test_a_validation_without_ground_truth_is_refused_before_the_training(root, capsys):
    path = without_annotations(root)
    with raises_user_error("The data has 1 kind of error", "--classes auto"):
        check_data(load(OBJECTS, root), TRAINING, limit=1)
    assert f"annotation files without any usable object: 1 ({path.name})" in capsys.readouterr().out


def test_a_test_of_segmentation_without_label_maps_is_refused(root):
    config = load(LABELS, root)
    del config.test_dataloader.dataset.data_prefix["seg_map_path"]
    with raises_user_error(root, "no ground truth", "xcit-dense predict"):
        check_data(config, TEST, limit=1)


def test_a_test_of_segmentation_that_only_writes_predictions_needs_no_label_maps(root):
    config = load(LABELS, root, **{"test_evaluator.format_only": True})
    del config.test_dataloader.dataset.data_prefix["seg_map_path"]
    check_data(config, TEST, limit=1)


def test_faults_of_the_test_data_are_refused_before_the_test(root, capsys):
    (root / "val2017").rename(root / "gone")
    (root / "val2017").mkdir()
    with raises_user_error("The data has 1 kind of error"):
        check_data(load(OBJECTS, root), TEST, limit=1)
    assert "missing images: 4" in capsys.readouterr().out
