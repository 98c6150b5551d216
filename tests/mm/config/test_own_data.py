"""The data of a user in a config: every head, evaluator and pipeline gets the classes and paths of the data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.data_checks import check_data
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.own_data import describe_data

CONFIGS = Path(__file__).parents[3] / "configs"
DETECTION = CONFIGS / "detection/mask_rcnn_xcit_n12.py"
SEGMENTATION = {name: CONFIGS / f"segmentation/{name}_xcit_n12.py" for name in ("sem_fpn", "upernet")}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
NO_START = {"model.backbone.init_cfg": None}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(shapes, tmp_path):
    """The shapes as Roboflow lays them out, with the given splits."""

    def make(*splits):
        for split in splits:
            source = "train2017" if split == "train" else "val2017"
            shutil.copytree(shapes / source, tmp_path / split)
            shutil.copy(shapes / f"annotations/instances_{source}.json", tmp_path / f"{split}/_annotations.coco.json")
        return tmp_path

    return make


@pytest.fixture
def labelled(tmp_path):
    """Two images with label maps of the given values, in each of the given splits."""

    def make(values, *splits, palette=None):
        for split in splits:
            for number in range(2):
                for kind, suffix in (("images", "JPG"), ("masks", "png")):
                    path = tmp_path / kind / split / f"{number}.{suffix}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if kind == "images":
                        Image.new("RGB", (len(values), 2)).save(path)
                        continue
                    label = Image.fromarray(np.array([values, values], np.uint8))
                    if palette:
                        label.putpalette(palette)
                    label.save(path)
        return tmp_path

    return make


def own(path, root, classes="auto", ignore_zero=False, **options):
    return load_config(path, {**NO_START, **options}, str(root), classes, ignore_zero)


def class_counts(node):
    """Every num_classes in a model."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "num_classes" else class_counts(value)
    elif isinstance(node, list):
        for value in node:
            yield from class_counts(value)


# Detection


def test_data_classes_heads_and_evaluators_follow_the_annotation_files(coco):
    root = coco("train", "valid", "test")
    config = own(DETECTION, root)
    for loader, split in zip(LOADERS, ("train", "valid", "test")):
        dataset = config[loader].dataset
        assert dataset.type == "CocoDataset"
        assert (Path(dataset.data_root) / dataset.ann_file) == root / split / "_annotations.coco.json"
        assert (Path(dataset.data_root) / dataset.data_prefix.img) == root / split
        assert dataset.metainfo.classes == ("circle", "square", "triangle", "star")
        assert len(set(map(tuple, dataset.metainfo.palette))) == 4
    assert list(class_counts(config.model)) == [4, 4]
    assert config.val_evaluator.ann_file == str(root / "valid/_annotations.coco.json")
    assert config.test_evaluator.ann_file == str(root / "test/_annotations.coco.json")
    assert config.val_evaluator.classwise
    check_config(config)
    reports = check_data(config, LOADERS)
    assert [report.errors for report in reports] == [0, 0, 0]
    assert reports[0].summary.startswith("8 images")


def test_the_root_is_made_absolute_so_that_the_saved_config_works_anywhere(coco, monkeypatch):
    root = coco("train", "valid")
    monkeypatch.chdir(root.parent)
    config = own(DETECTION, root.name)
    assert config.train_dataloader.dataset.data_root == str(root)
    assert config.test_evaluator.ann_file == str(root / "valid/_annotations.coco.json")


def test_cascades_and_lists_of_heads_are_resized_and_the_rpn_is_not(coco):
    head = {"type": "Shared2FCBBoxHead", "num_classes": 80}
    rpn = {"type": "CascadeRPNHead", "stages": [{"type": "StageCascadeRPNHead", "num_classes": 1}]}
    options = {"model.roi_head.bbox_head": [dict(head), dict(head)], "model.rpn_head": rpn}
    path = coco("train", "valid") / "config.py"
    path.write_text(f"_base_ = {str(DETECTION)!r}\n")
    written = load_config(path, options)
    written.dump(path)
    config = own(path, path.parent)
    assert [head.num_classes for head in config.model.roi_head.bbox_head] == [4, 4]
    assert config.model.rpn_head.stages[0].num_classes == 1


def test_a_head_with_queries_has_the_number_of_things_and_a_weight_for_each(coco):
    config = own(CONFIGS / "detection/mask2former_xcit_s12.py", coco("train", "valid"))
    for part in (config.model.panoptic_head, config.model.panoptic_fusion_head):
        assert (part.num_things_classes, part.num_stuff_classes) == (4, 0)
    assert config.model.panoptic_head.loss_cls.class_weight == [1.0] * 4 + [0.1]
    check_config(config)


def test_objects_are_refused_where_the_config_needs_stuff_or_masks(coco):
    root = coco("train", "valid")
    with raises_user_error("panoptic", "detection/mask2former_xcit_s12"):
        own(CONFIGS / "detection/mask2former_xcit_s12_panoptic.py", root)
    for split in ("train", "valid"):
        edit(
            root / f"{split}/_annotations.coco.json",
            lambda content: [each.pop("segmentation") for each in content["annotations"]],
        )
    with raises_user_error("Mask2Former learns masks", "dino_xcit_s12"):
        own(CONFIGS / "detection/mask2former_xcit_s12.py", root)


def test_a_segmentation_head_with_queries_has_a_weight_for_each_class(labelled):
    root = labelled([0, 1, 2], "train", "val")
    config = own(CONFIGS / "segmentation/mask2former_xcit_s12.py", root)
    assert config.model.decode_head.num_classes == 3
    assert config.model.decode_head.loss_cls.class_weight == [1.0] * 3 + [0.1]


def test_named_categories_are_taken_in_the_order_of_the_file(coco):
    config = own(DETECTION, coco("train", "valid"), "star, circle")
    assert config.train_dataloader.dataset.metainfo.classes == ("circle", "star")
    assert list(class_counts(config.model)) == [2, 2]
    check_config(config)


def test_names_that_are_not_categories_are_refused(coco):
    with raises_user_error("cat", "circle, square, triangle, star"):
        own(DETECTION, coco("train"), "circle,cat")


def test_without_a_validation_split_the_run_does_not_validate_and_a_test_names_what_is_missing(coco):
    root = coco("train")
    config = own(DETECTION, root)
    assert config.val_dataloader is config.val_evaluator is config.val_cfg is None
    assert "without validation" in " ".join(describe_data(config))
    check_config(config, LOADERS[:2])
    with raises_user_error(root / "val"):
        check_config(config, LOADERS[2:])


def test_boxes_without_masks_train_a_detector_of_boxes(coco):
    root = coco("train", "valid")
    for split in ("train", "valid"):
        path = root / split / "_annotations.coco.json"
        edit(path, lambda content: [annotation.update(segmentation=[]) for annotation in content["annotations"]])
    config = own(DETECTION, root)
    assert config.model.type == "FasterRCNN"
    assert "mask_head" not in config.model.roi_head
    assert config.val_evaluator.metric == config.test_evaluator.metric == "bbox"
    assert "with_mask=True" not in config.pretty_text
    assert [report.errors for report in check_data(config, LOADERS)] == [0, 0]
    assert "boxes only" in " ".join(describe_data(config))


def test_a_held_out_split_with_other_categories_is_refused(coco):
    root = coco("train", "valid")
    edit(root / "valid/_annotations.coco.json", lambda content: content["categories"].reverse())
    with raises_user_error("valid/_annotations.coco.json", "star, triangle, square, circle"):
        check_config(own(DETECTION, root))


def test_faults_are_reported_for_the_split_they_are_in(coco):
    root = coco("train", "valid")
    (root / "valid/000000000002.jpg").unlink()
    train, valid = check_data(own(DETECTION, root), LOADERS)
    assert train.errors == 0
    assert valid.faults["missing images"].places == ["000000000002.jpg"]
    assert valid.source == root / "valid/_annotations.coco.json"


def test_ordinary_configs_are_checked_alike(shared):
    config = load_config(DETECTION, NO_START, str(shared / "data/coco128"))
    train, val = check_data(config, LOADERS)
    assert train.summary == "128 images, 929 objects, 80 classes"  # and ten crowds
    assert train.faults["images without objects, which training leaves out"].count == 2
    assert train.errors == val.errors == 0


# Segmentation


@pytest.mark.parametrize("path", SEGMENTATION.values(), ids=SEGMENTATION)
def test_data_classes_heads_and_pipelines_follow_the_label_maps(labelled, path):
    root = labelled([0, 1, 2, 255], "train", "val")
    config = own(path, root)
    for loader, split in zip(LOADERS, ("train", "val", "val")):
        dataset = config[loader].dataset
        assert dataset.type == "BaseSegDataset"
        assert (dataset.img_suffix, dataset.seg_map_suffix) == (".JPG", ".png")
        assert dataset.data_prefix.img_path == f"images/{split}"
        assert dataset.metainfo.classes == ("class 0", "class 1", "class 2")
        assert dataset.reduce_zero_label is False
    assert set(class_counts(config.model)) == {3}
    assert "reduce_zero_label=True" not in config.pretty_text
    check_config(config)
    assert [report.errors for report in check_data(config, LOADERS)] == [0, 0]


def loads(config):
    """The values of the first label map after the training pipeline of a config."""
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules()
    config.train_dataloader.dataset.pipeline = config.train_dataloader.dataset.pipeline[:2]
    data = DATASETS.build(config.train_dataloader.dataset)
    return data[0]["gt_seg_map"].tolist(), data.metainfo


@pytest.mark.parametrize(
    ("values", "ignore_zero", "seen", "names"),
    [
        ([0, 1, 2, 255], False, [0, 1, 2, 255], ("class 0", "class 1", "class 2")),
        ([0, 1, 2, 255], True, [255, 0, 1, 255], ("class 1", "class 2")),
        (
            [3, 1, 2, 255],
            False,
            [2, 0, 1, 255],
            ("class 1", "class 2", "class 3"),
        ),  # the value 0 is missing, so it does not become a class
    ],
    ids=["zero is a class", "zero is ignored", "no zero"],
)
def test_training_sees_the_classes_that_the_values_mean(labelled, values, ignore_zero, seen, names):
    config = own(SEGMENTATION["sem_fpn"], labelled(values, "train"), ignore_zero=ignore_zero)
    labels, metainfo = loads(config)
    assert labels == [seen, seen]
    assert metainfo["classes"] == names
    assert len(metainfo["palette"]) == len(names)
    assert metainfo["reduce_zero_label"] == (names[0] == "class 1")


def test_names_come_from_the_file_next_to_the_images(labelled):
    root = labelled([0, 1], "train", "val")
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    config = own(SEGMENTATION["upernet"], root)
    assert config.train_dataloader.dataset.metainfo.classes == ("road", "car", "sky")
    assert set(class_counts(config.model)) == {3}
    assert "0 is 'road'" in " ".join(describe_data(config))


def test_names_on_the_command_line_win(labelled):
    root = labelled([0, 1], "train", "val")
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    config = own(SEGMENTATION["upernet"], root, "ground,thing")
    assert config.train_dataloader.dataset.metainfo.classes == ("ground", "thing")


def test_values_beyond_the_named_classes_are_found_by_the_check(labelled):
    config = own(SEGMENTATION["upernet"], labelled([0, 1, 2], "train", "val"), "ground,thing")
    train, _ = check_data(config, LOADERS)
    assert train.faults["label maps with values other than 0 to 1 and 255"].count == 2


def test_colours_come_from_label_maps_with_a_palette(labelled):
    root = labelled([0, 1], "train", palette=[10, 20, 30, 200, 100, 50])
    config = own(SEGMENTATION["sem_fpn"], root)
    assert config.train_dataloader.dataset.metainfo.palette == [(10, 20, 30), (200, 100, 50)]


@pytest.mark.parametrize(
    ("values", "words"),
    [([0, 0], ["1 class", "not 255"]), ([0, 128, 200], ["3 values of 0 to 200", "0, 128, 200", "classes.txt"])],
)
def test_masks_whose_values_do_not_number_classes_are_refused(labelled, values, words):
    with raises_user_error(*words):
        own(SEGMENTATION["sem_fpn"], labelled(values, "train"))


def test_real_labels_have_the_names_next_to_them(shared):
    config = own(SEGMENTATION["upernet"], shared / "data/ADEChallengeData2016")
    dataset = config.train_dataloader.dataset
    assert dataset.metainfo.classes[:2] == ("person", "bicycle")
    assert dataset.reduce_zero_label  # the names begin with 1
    assert [report.errors for report in check_data(config, LOADERS)] == [0, 0]


# Both


@pytest.mark.parametrize(
    ("path", "arguments", "words"),
    [
        (DETECTION, (None, "auto"), ["--data-root"]),
        (DETECTION, ("gone", "auto"), ["No data directory at", "gone"]),
        (DETECTION, (".", "auto"), ["_annotations.coco.json"]),
        (SEGMENTATION["upernet"], (".", "auto"), ["images/train + masks/train"]),
        (DETECTION, (".", "a,a"), ["--classes a,a"]),
        (DETECTION, (".", ","), ["--classes ,"]),
        (DETECTION, (".", "auto", True), ["--ignore-zero", "label maps"]),
        (DETECTION, (".", None, True), ["--ignore-zero", "--classes auto"]),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, monkeypatch, path, arguments, words):
    monkeypatch.chdir(tmp_path)
    with raises_user_error(*words):
        load_config(path, NO_START, *arguments)


def test_options_override_the_data(coco):
    options = {"model.roi_head.bbox_head.num_classes": 9, "train_dataloader.dataset.filter_cfg.min_size": 5}
    config = own(DETECTION, coco("train"), **options)
    assert config.model.roi_head.bbox_head.num_classes == 9
    assert config.model.roi_head.mask_head.num_classes == 4
    assert config.train_dataloader.dataset.filter_cfg.min_size == 5


def test_all_classes_have_different_colours(labelled):
    root = labelled([0, 1], "train")
    (root / "classes.txt").write_text("\n".join(map(str, range(150))))
    palette = own(SEGMENTATION["upernet"], root).train_dataloader.dataset.metainfo.palette
    assert len(set(map(tuple, palette))) == 150
