"""A run reads repaired annotation files, and its config still serves with other data and in other places."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
from tests.helpers.reports import found
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.data_checks import check_data
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.repaired import use_repaired
from xcit_dense.mm.config.splits import LOADERS

DETECTION = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
TRAIN, VAL = (f"annotations/instances_{split}2017.json" for split in ("train", "val"))


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the shapes, with a change to the annotations of one split."""
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)

    def change(file=VAL, annotation=None, **content):
        old = json.loads((root / file).read_text())
        old |= content
        for entry in old["annotations"]:
            entry.update(annotation(entry) if annotation else {})
        (root / file).write_text(json.dumps(old))
        return root

    change.root = root
    return change


def load(root, work_dir, loaders=LOADERS, path=DETECTION, crowd=False, **options):
    """The config of a run, and what is printed."""
    config = load_config(path, {"model.backbone.init_cfg": None, **options}, str(root))
    config.work_dir = str(work_dir)
    if crowd:
        config.crowd_as_objects = True
    lines = use_repaired(config, loaders, work_dir)
    check_config(config, loaders)
    return config, lines


def annotations(config, loader):
    leaf = config[loader].dataset
    return json.loads(Path(leaf.data_root, leaf.ann_file).read_text())["annotations"]


def from_zero(entry):
    return {"id": entry["id"] - 1}


def test_files_without_faults_are_used_as_they_are(data, tmp_path):
    config, lines = load(data.root, tmp_path / "work")
    assert lines == []
    assert "repaired_data" not in config
    assert config.val_dataloader.dataset.ann_file == VAL
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["CocoDataset", "mmdet.CocoDataset"])
def test_data_sets_and_evaluators_read_the_repaired_file(data, tmp_path, kind):
    root = data(annotation=from_zero)
    config, lines = load(root, tmp_path / "work", **{"val_dataloader.dataset.type": kind})
    assert [entry["id"] for entry in annotations(config, "val_dataloader")][:3] == [1, 2, 3]
    path = config.val_dataloader.dataset.ann_file
    assert Path(path).is_relative_to(tmp_path / "work/data")
    assert path == config.test_dataloader.dataset.ann_file
    assert path == config.val_evaluator.ann_file == config.test_evaluator.ann_file
    assert config.train_dataloader.dataset.ann_file == TRAIN
    assert lines[0].startswith(f"{root / VAL} is read with repairs")
    assert len(lines) == 2
    assert check_data(config, LOADERS)[1].source == root / VAL


@pytest.mark.parametrize("is_copy", [False, True])
def test_an_evaluator_of_the_same_annotations_in_another_place_reads_the_repaired_file(data, tmp_path, is_copy):
    root = data(annotation=from_zero)
    other = tmp_path / "other.json"
    if is_copy:
        shutil.copy(root / VAL, other)
    else:
        other.symlink_to(root / VAL)
    config, _ = load(root, tmp_path / "work", **{"val_evaluator.ann_file": str(other)})
    assert config.val_evaluator.ann_file == config.val_dataloader.dataset.ann_file


def test_a_file_is_repaired_once_and_again_when_it_changes(data, tmp_path):
    root = data(annotation=from_zero)
    first, _ = load(root, tmp_path / "work")
    path = Path(first.val_dataloader.dataset.ann_file)
    time = path.stat().st_mtime_ns
    second, lines = load(root, tmp_path / "work")
    assert second.val_dataloader.dataset.ann_file == str(path)
    assert path.stat().st_mtime_ns == time
    assert len(lines) == 2
    data(annotation=lambda entry: {"id": entry["id"] * 2})
    third, _ = load(root, tmp_path / "work")
    assert third.val_dataloader.dataset.ann_file != str(path)
    assert not path.exists()


def test_only_the_files_of_the_run_are_repaired(data, tmp_path):
    data(TRAIN, annotation=lambda entry: {"iscrowd": None})
    config, lines = load(data.root, tmp_path / "work", ("test_dataloader",))
    assert lines == []
    assert config.train_dataloader.dataset.ann_file == TRAIN


def test_the_config_of_a_run_can_be_used_with_other_data_and_in_another_place(data, tmp_path):
    root = data(annotation=from_zero)
    config, _ = load(root, tmp_path / "work")
    config.dump(tmp_path / "run.py")
    shutil.rmtree(tmp_path / "work")
    other = tmp_path / "other"
    shutil.copytree(root, other)
    again, lines = load(other, tmp_path / "moved", path=tmp_path / "run.py")
    assert len(lines) == 2
    for file in (again.val_dataloader.dataset.ann_file, again.val_evaluator.ann_file):
        assert Path(file).is_relative_to(tmp_path / "moved/data")
    clean = tmp_path / "clean"
    shutil.copytree(root, clean)
    content = json.loads((clean / VAL).read_text())
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
    (clean / VAL).write_text(json.dumps(content))
    unchanged, lines = load(clean, tmp_path / "moved", path=tmp_path / "run.py")
    assert lines == []
    assert unchanged.val_dataloader.dataset.ann_file == VAL
    assert unchanged.val_evaluator.ann_file == str(clean / VAL)


def test_a_config_without_repairs_loads_as_before(data, tmp_path):
    config, _ = load(data.root, tmp_path / "work")
    assert (
        load_config(DETECTION, {"model.backbone.init_cfg": None}, str(data.root)).val_evaluator == config.val_evaluator
    )


def test_crowds_become_objects_if_the_config_says_so(data, tmp_path):
    root = data(annotation=lambda entry: {"iscrowd": 1})
    config, _ = load(root, tmp_path / "work")
    reports = check_data(config, ("test_dataloader",))
    assert any("objects all have iscrowd=1" in what for what in found(reports[0]))
    config, _ = load(root, tmp_path / "work", crowd=True)
    assert {entry["iscrowd"] for entry in annotations(config, "test_dataloader")} == {0}
    assert check_data(config, ("test_dataloader",))[0].errors == 0


def test_images_of_another_directory_are_read_and_checked(data, tmp_path):
    root = data.root
    shutil.rmtree(root / "images")  # the same images, for segmentation
    (root / "photos").mkdir()
    (root / "val2017").rename(root / "photos/held out")
    config, lines = load(root, tmp_path / "work")
    assert "images found in another directory by their names" in lines[1]
    assert check_data(config, ("val_dataloader",))[0].errors == 0


def test_images_of_the_training_are_not_taken_for_missing_images_of_the_validation(data, tmp_path):
    shutil.rmtree(data.root / "val2017")  # its names are those of the training images
    shutil.rmtree(data.root / "images")
    config = load_config(DETECTION, {"model.backbone.init_cfg": None}, str(data.root))
    assert use_repaired(config, LOADERS, tmp_path / "work") == []


def test_a_test_that_only_writes_predictions_needs_no_ground_truth(data, tmp_path):
    root = data(annotations=[])
    config, _ = load(root, tmp_path / "work")
    assert check_data(config, ("test_dataloader",))[0].errors == 1
    options = {"test_evaluator.format_only": True, "test_evaluator.outfile_prefix": "a"}
    config, _ = load(root, tmp_path / "work", **options)
    assert check_data(config, ("test_dataloader",))[0].errors == 0


def test_a_large_file_without_faults_is_read_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr("xcit_dense.mm.config.repaired._LARGE", 0)
    _, lines = load(data.root, tmp_path / "work", ("val_dataloader",))
    (note,) = tmp_path.glob("work/data/*/*")
    time = note.stat().st_mtime_ns
    config, again = load(data.root, tmp_path / "work", ("val_dataloader",))
    assert lines == again == []
    assert config.val_dataloader.dataset.ann_file == VAL
    assert note.stat().st_mtime_ns == time
