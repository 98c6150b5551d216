"""Label images of every recognised format in a config for segmentation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.validation import Validation
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.data_checks import check_data
from xcit_dense.mm.config.load import load_config

CONFIG = Path(__file__).parents[3] / "configs/segmentation/sem_fpn_xcit_n12.py"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


@pytest.fixture
def own(tmp_path):
    """Reads data of a user into a config, with a work directory next to the data."""

    def read(root, **options):
        options = {"classes": "auto", "work_dir": tmp_path / "work", **options}
        return load_config(CONFIG, {"model.backbone.init_cfg": None}, str(root), **options)

    return read


@pytest.fixture
def pairs(tmp_path):
    """Makes four images, two of them for validation, with label images of two rows of the given pixels."""

    def make(pixels, suffixes=("jpg", "png"), splits=("train", "val"), root="data"):
        for split in splits:
            for number, suffix in enumerate(suffixes):
                for kind, name in (("images", f"{number}.{suffix}"), ("masks", f"{number}.png")):
                    path = tmp_path / root / kind / split / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = Image.fromarray(np.asarray([pixels, pixels], np.uint8))
                    (image.convert("RGB") if kind == "images" else image).save(path)
        return tmp_path / root

    return make


def labels_of(config, loader="train_dataloader"):
    """The label maps of a data set after the training pipeline has loaded them."""
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    register_all_modules()
    dataset = config[loader].dataset.copy()
    dataset.pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    return [sample["gt_seg_map"].tolist() for sample in DATASETS.build(dataset)]


def test_images_with_several_suffixes_are_read_from_a_list(own, pairs):
    config = own(pairs([0, 1, 2, 255]))
    dataset = config.train_dataloader.dataset
    assert dataset.type == "PairsDataset"
    assert dataset.metainfo.classes == ("class 0", "class 1", "class 2")
    assert "xcit_dense.mm.pairs_dataset" in config.custom_imports.imports
    check_config(config)
    reports = check_data(config, LOADERS)
    summary = "2 images, 3 classes (class 0 33.3 %, class 1 33.3 %, class 2 33.3 %)"
    assert [(report.errors, report.summary) for report in reports] == [(0, summary)] * 2
    assert labels_of(config) == [[[0, 1, 2, 255]] * 2] * 2


def test_masks_of_0_and_255_are_converted_once(own, pairs, tmp_path, capsys):
    root = pairs([0, 255])
    (root / "classes.txt").write_text("ground\ncup\n")
    config = own(root)
    assert labels_of(config) == [[[0, 1]] * 2] * 2
    assert "0 is read as 'ground', and 255 as 'cup'" in capsys.readouterr().out
    (made,) = (tmp_path / "work/data").glob("labels_*")
    written = made.stat().st_mtime_ns
    assert own(root).train_dataloader.dataset == config.train_dataloader.dataset
    assert made.stat().st_mtime_ns == written


def test_changed_label_images_are_converted_again(own, pairs):
    own(pairs([0, 255]))
    assert labels_of(own(pairs([255, 255, 0]))) == [[[1, 1, 0]] * 2] * 2


def test_a_file_of_colours_numbers_the_classes(own, pairs, tmp_path):
    (tmp_path / "colours.txt").write_text("sky: 9,9,9\nroad: 200,0,0\nvoid: 224,224,192\n")
    root = pairs([[9, 9, 9], [200, 0, 0], [224, 224, 192]])
    config = own(root, colours=str(tmp_path / "colours.txt"))
    assert config.train_dataloader.dataset.metainfo.classes == ("sky", "road")
    assert config.train_dataloader.dataset.metainfo.palette == [(9, 9, 9), (200, 0, 0)]
    assert labels_of(config, "val_dataloader") == [[[0, 1, 255]] * 2] * 2


def test_validation_images_are_split_off_directories(own, pairs):
    config = own(pairs([0, 1], ("jpg",) * 5, splits=("train",)), validation=Validation(0.4))
    assert (len(labels_of(config)), len(labels_of(config, "val_dataloader"))) == (3, 2)


def test_a_test_on_other_data_keeps_the_classes_of_the_model(own, pairs, tmp_path):
    trained = pairs([0, 1])
    (trained / "classes.txt").write_text("road\ncar\n")
    config = own(trained)
    config.dump(tmp_path / "trained.py")
    other = pairs([0, 1, 2], splits=("test",), root="other")
    for kind in ("images", "masks"):
        (other / kind / "test").rename(other / kind / "train")
    (other / "classes.txt").write_text("car\ncow\nroad\n")
    test = load_config(tmp_path / "trained.py", {}, str(other), work_dir=tmp_path / "work", keep_classes=True)
    assert test.test_dataloader.dataset.metainfo.classes == ("road", "car")
    assert labels_of(test, "test_dataloader") == [[[1, 255, 0]] * 2] * 2


def test_polygons_are_painted_and_give_the_losses_of_label_maps(own, shapes, tmp_path):
    from xcit_dense.datasets.convert import convert_data

    convert_data(shapes, tmp_path / "coco", "coco")
    convert_data(tmp_path / "coco", tmp_path / "labels", "labels")
    painted, label_maps = own(tmp_path / "coco"), own(tmp_path / "labels")
    assert painted.train_dataloader.dataset.metainfo.classes == label_maps.train_dataloader.dataset.metainfo.classes
    assert labels_of(painted) == labels_of(label_maps)
    assert [report.summary for report in check_data(painted, LOADERS)] == [
        report.summary for report in check_data(label_maps, LOADERS)
    ]


def test_a_file_of_colours_needs_data_of_the_user(tmp_path):
    with raises_user_error("--colours", "--data-root DIR"):
        load_config(CONFIG, {}, colours=str(tmp_path / "colours.txt"))
