"""Boxes and polygons of any format in a config: the same data gives the same classes, checks and losses."""

import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from tests.helpers.layouts import (
    CLASSES,
    IMAGES,
    boxes,
    coco_content,
    expected_boxes,
    shape,
    write_coco,
    write_image,
    write_labelme,
    write_text,
    write_voc,
    write_yolo,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.validation import Validation
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.data_checks import check_data
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.own_data import describe_data

CONFIG = Path(__file__).parents[3] / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@pytest.fixture
def load(tmp_path):
    """Loads the config for the data in a directory, with a work directory next to it."""

    def load(root, classes="auto", config=CONFIG, **more):
        return load_config(config, None, str(root), classes, work_dir=tmp_path / "work", **more)

    return load


def annotation_file(config, loader="train_dataloader"):
    dataset = config[loader].dataset
    return Path(dataset.data_root) / dataset.ann_file


def read(config, loader="train_dataloader"):
    return json.loads(annotation_file(config, loader).read_text())


def test_data_of_another_format_is_written_once_as_coco_in_the_work_directory(load, tmp_path, capsys):
    root = write_yolo(tmp_path / "mine", masks=True)
    config = load(root)
    path = annotation_file(config)
    assert path.is_relative_to(tmp_path / "work/data")
    assert boxes(read(config)) == expected_boxes("abc")
    assert boxes(read(config, "val_dataloader")) == expected_boxes("d")
    for evaluator in (config.val_evaluator, config.test_evaluator):
        assert evaluator.ann_file == str(annotation_file(config, "val_dataloader"))
    assert config.train_dataloader.dataset.data_root == str(root)
    assert config.train_dataloader.dataset.metainfo.classes == CLASSES
    assert config.model.roi_head.bbox_head.num_classes == len(CLASSES)
    check_config(config, weights=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"YOLO data in {root}:",
        "  train: 3 images, 3 objects (cat 2, dog 1)",
        "  val: 1 images, 1 objects (cat 0, dog 1)",
    ]
    written = path.stat().st_mtime_ns
    assert annotation_file(load(root)) == path
    assert path.stat().st_mtime_ns == written, "written again"
    assert capsys.readouterr().out.splitlines() == lines


def test_a_changed_label_file_is_read_again(load, tmp_path):
    root = write_yolo(tmp_path / "mine")
    load(root)
    write_text(root / "labels/train/c.txt", "0 0.5 0.5 0.5 0.5")
    assert boxes(read(load(root)))["c"] == [("cat", (10, 10, 20, 20))]


def test_a_new_image_without_a_label_file_is_noticed(load, tmp_path):
    root = write_yolo(tmp_path / "mine")
    load(root)
    write_image(root / "images/train/e.png", (8, 8))
    assert "e" in boxes(read(load(root)))


def test_coco_files_in_a_usual_layout_are_used_as_they_are_and_counted(load, tmp_path, capsys):
    root = write_coco(tmp_path / "mine")
    config = load(root)
    assert annotation_file(config) == root / "annotations/instances_train.json"
    assert not (tmp_path / "work").exists()
    assert "  train: 3 images, 3 objects (cat 2, dog 1)" in capsys.readouterr().out.splitlines()


def test_every_format_without_masks_trains_a_detector_of_boxes(load, tmp_path):
    config = load(write_voc(tmp_path / "mine"))
    assert config.model.type == "FasterRCNN"
    assert config.val_evaluator.metric == "bbox"
    assert "boxes only" in " ".join(describe_data(config))


def losses(config):
    """The losses of one step on all training images, with the same seed."""
    import torch
    from mmdet.registry import DATASETS, MODELS
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmengine.runner import set_random_seed

    init_default_scope("mmdet")
    set_random_seed(0)
    data = DATASETS.build(config.train_dataloader.dataset)
    model = MODELS.build(config.model)
    model.init_weights()
    batch = model.data_preprocessor(pseudo_collate([data[number] for number in range(len(data))]), training=True)
    with torch.no_grad():
        found = model(**batch, mode="loss")
    return {
        name: [float(part) for part in (value if isinstance(value, list) else [value])] for name, value in found.items()
    }


def test_the_same_data_as_coco_and_as_yolo_gives_the_same_check_and_the_same_losses(load, tmp_path):
    configs = [load(write_coco(tmp_path / "coco")), load(write_yolo(tmp_path / "yolo", masks=True))]
    reports = [check_data(config, LOADERS) for config in configs]
    first, second = (
        [(report.summary, {what: (f.is_error, f.count) for what, f in report.faults.items()}) for report in found]
        for found in reports
    )
    assert first == second
    assert first[0][0] == "3 images, 3 objects, 2 classes"
    coco, yolo = map(losses, configs)
    assert coco == yolo
    assert {"loss_cls", "loss_bbox", "loss_mask", "loss_rpn_cls"} <= coco.keys()
    assert all(value > 0 for value in coco["loss_mask"])


def test_validation_images_are_split_off_with_a_note(load, tmp_path, capsys):
    root = write_coco(tmp_path / "mine")
    (root / "annotations/instances_val.json").unlink()
    config = load(root)
    assert config.val_dataloader is None
    assert "--val-fraction 0.1" in " ".join(describe_data(config))
    capsys.readouterr()
    config = load(root, validation=Validation(0.3, seed=5))
    train, val = boxes(read(config)), boxes(read(config, "val_dataloader"))
    assert (len(train), len(val)) == (2, 1)
    assert train | val == expected_boxes("abc")
    assert "has split the validation images off the training images, with --seed 5" in capsys.readouterr().out
    other = [load(root, validation=Validation(0.3, seed=seed)) for seed in range(8)]
    assert len({tuple(boxes(read(config, "val_dataloader"))) for config in other}) > 1
    assert all(annotation_file(config).is_file() for config in other), "a later run has removed the files of a config"
    with raises_user_error("already"):
        load(write_yolo(tmp_path / "yolo"), validation=Validation(0.3))


def test_val_fraction_needs_data_and_takes_the_classes_of_the_data(load, tmp_path):
    with raises_user_error("--val-fraction", "--data-root"):
        load_config(CONFIG, validation=Validation(0.1))
    root = write_yolo(tmp_path / "mine", splits={"train": tuple(IMAGES)})
    assert load(root, None, validation=Validation(0.3)).train_dataloader.dataset.metainfo.classes == CLASSES


def test_named_classes_choose_and_are_checked_in_every_format(load, tmp_path):
    root = write_yolo(tmp_path / "mine")
    assert load(root, "dog").model.roi_head.bbox_head.num_classes == 1
    with raises_user_error("--classes names bird", "cat, dog"):
        load(root, "dog,bird")


@pytest.mark.parametrize("name", ["data.yaml", "mine.zip"])
def test_a_description_or_an_archive_takes_the_place_of_a_directory(load, tmp_path, name):
    root = write_yolo(tmp_path / "mine")
    path = root / name
    if name == "mine.zip":
        files = [file for file in root.rglob("*") if file.is_file()]
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, Path("export", file.relative_to(root)))
    config = load(path)
    assert boxes(read(config)) == expected_boxes("abc")
    check_config(config, weights=False)


def test_a_coco_file_takes_the_place_of_a_directory(load, tmp_path):
    root = write_coco(tmp_path / "mine")
    assert annotation_file(load(root / "annotations/instances_val.json")) == root / "annotations/instances_val.json"


def test_without_training_images_the_splits_are_named(load, tmp_path):
    root = tmp_path / "mine"
    write_labelme(root / "val", [shape("cat", "polygon", [[1, 1], [9, 1], [9, 9]])])
    with raises_user_error("has the splits val, but no training images"):
        load(root)


# Without --classes


def test_a_root_without_the_files_of_the_config_gives_the_classes(load, tmp_path, capsys):
    config = load(write_yolo(tmp_path / "mine"), None)
    assert config.train_dataloader.dataset.metainfo.classes == CLASSES
    assert "The data gives the classes (--classes auto)" in capsys.readouterr().out


def test_a_root_with_the_files_of_the_config_keeps_the_classes_of_the_config(load, shapes, capsys):
    config = load(shapes, None)
    assert config.train_dataloader.dataset.ann_file == "annotations/instances_train2017.json"
    assert config.train_dataloader.dataset.metainfo.classes == ("circle", "square", "triangle", "star")
    assert capsys.readouterr().out == ""


def test_a_root_without_data_is_refused_by_the_check(load, tmp_path):
    (tmp_path / "mine").mkdir()
    config = load(tmp_path / "mine", None)
    with raises_user_error("mine"):
        check_config(config, weights=False)


# A test of a trained model


@pytest.fixture
def trained(load, tmp_path):
    """A config that a training has written, on data whose classes are dog and cat."""
    root = write_yolo(tmp_path / "trained", masks=True)
    text = (root / "data.yaml").read_text()
    write_text(root / "data.yaml", text.replace("[cat, dog]", "[dog, cat, bird]"))
    config = load(root)
    path = tmp_path / "work/trained.py"
    config.dump(path)
    return path


def test_a_test_keeps_the_classes_of_the_model_in_their_order(load, tmp_path, trained, capsys):
    capsys.readouterr()
    config = load(write_coco(tmp_path / "other"), None, trained, keep_classes=True)
    assert config.test_dataloader.dataset.metainfo.classes == ("dog", "cat", "bird")
    assert [category["name"] for category in read(config, "test_dataloader")["categories"]] == ["dog", "cat", "bird"]
    assert boxes(read(config, "test_dataloader")) == expected_boxes("d")
    assert config.test_evaluator.ann_file == str(annotation_file(config, "test_dataloader"))
    assert config.model.roi_head.bbox_head.num_classes == 3
    said = capsys.readouterr().out
    assert "classes of the model that the data does not have: 1 (test: bird)" in said
    assert "The model keeps its classes" in said
    check_config(config, LOADERS[2:], weights=False)


def test_a_test_takes_the_only_split_and_a_model_with_masks_is_tested_on_boxes(load, tmp_path, trained):
    root = tmp_path / "other"
    write_labelme(root, [shape("cat", "rectangle", [[4, 2], [24, 12]]), shape("x", "rectangle", [[1, 2], [3, 4]])])
    config = load(root, None, trained, keep_classes=True)
    assert boxes(read(config, "test_dataloader")) == {"a": [("cat", (4, 2, 20, 10))]}
    assert config.test_evaluator.metric == "bbox"
    assert config.model.type == "MaskRCNN"


def test_a_test_on_other_classes_is_refused(load, tmp_path, trained):
    root = write_labelme(tmp_path / "other", [shape("house", "rectangle", [[4, 2], [24, 12]])])
    with raises_user_error("the classes house, but the model knows dog, cat, bird"):
        load(root, None, trained, keep_classes=True)


def test_a_test_on_the_data_of_the_training_needs_no_data_root(trained):
    config = load_config(trained)
    assert annotation_file(config, "test_dataloader").is_file()
    check_config(config, LOADERS[2:], weights=False)


def test_categories_may_differ_between_splits_of_coco_files_only_with_an_error(load, tmp_path):
    root = write_coco(tmp_path / "mine")
    content = coco_content("d")
    content["categories"].reverse()
    write_text(root / "annotations/instances_val.json", json.dumps(content))
    with raises_user_error("instances_val.json", "dog, cat"):
        check_config(load(root), weights=False)
