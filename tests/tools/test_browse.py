"""tools/browse.py draws the inputs of a training: augmented images and their ground truth."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

TOOL = Path(__file__).parents[2] / "tools/browse.py"
OVERVIEWS = ("contact_sheet.jpg", "classes.png", "sizes.png")
FLIP = "train_dataloader.dataset.pipeline.3.prob"


@pytest.fixture
def browse(monkeypatch, tmp_path, shapes, capsys):
    """Runs the tool in another directory. Returns the names of the images and their drawings, in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(config, *arguments, out="out", root=shapes):
        arguments = [config, "--out", out, "--data-root", root, *arguments]
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name="__main__")
        drawn = sorted(path for path in (tmp_path / out).iterdir() if path.name not in OVERVIEWS)
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{out}/")]
        assert printed == [path.relative_to(tmp_path).as_posix() for path in drawn] + [f"{out}/{n}" for n in OVERVIEWS]
        return [(path.stem.partition("_")[2], np.asarray(Image.open(path))) for path in drawn]

    return run


@pytest.fixture
def refused(browse):
    def check(*arguments, **options):
        with pytest.raises(SystemExit) as exit_:
            browse(*arguments, **options)
        assert str(exit_.value).startswith("error: ")
        return str(exit_.value)

    return check


@pytest.fixture(scope="module")
def configs(tools):
    return {"detection": tools.shapes, "segmentation": tools.segmentation["sem_fpn_xcit_n12_p8_shapes"]}


def likeness(drawing, image):
    """Correlation of an image and the left square of its drawing. A legend can be to the right."""
    height = drawing.shape[0]
    small = Image.fromarray(drawing[:, :height]).resize(image.size)
    return np.corrcoef(np.asarray(small).ravel(), np.asarray(image).ravel())[0, 1]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("flipped", [True, False])
def test_drawings_are_of_the_augmented_images(browse, configs, shapes, task, flipped):
    drawn = browse(configs[task], "--number", 4, "--cfg-options", f"{FLIP}={float(flipped)}")
    assert len({name for name, _ in drawn}) == 4
    for name, drawing in drawn:
        with Image.open(shapes / "train2017" / f"{name}.jpg") as image:
            seen = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image.copy()
        assert likeness(drawing, seen) > 0.6
        assert likeness(drawing, seen) > likeness(drawing, seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@pytest.mark.parametrize("changes", [["bgr_to_rgb=False"], ["mean=None", "std=None"]])
def test_drawings_have_the_colours_of_the_file_for_any_preprocessing(browse, configs, shapes, changes):
    changes = [f"model.data_preprocessor.{change}" for change in changes]
    for name, drawing in browse(configs["detection"], "--number", 2, "--cfg-options", f"{FLIP}=0.0", *changes):
        with Image.open(shapes / "train2017" / f"{name}.jpg") as image:
            assert likeness(drawing, image) > 0.6


def test_boxes_move_with_their_objects(browse, configs, shapes):
    (name, drawing), *_ = browse(configs["detection"], "--number", 1, "--cfg-options", f"{FLIP}=1.0")
    truth = json.loads((shapes / "annotations/instances_train2017.json").read_text())
    (number,) = (image["id"] for image in truth["images"] if image["file_name"] == f"{name}.jpg")
    palette = [(230, 85, 70), (70, 150, 230), (80, 190, 100), (245, 190, 50)]
    factor = drawing.shape[1] / 96
    for annotation in truth["annotations"]:
        if annotation["image_id"] == number:
            x, y, width, height = (factor * value for value in annotation["bbox"])
            left = drawing.shape[1] - x - width  # mirrored
            column = drawing[int(y + height / 4) : int(y + 3 * height / 4), max(0, int(left) - 4) : int(left) + 5]
            near = abs(column.astype(int) - palette[annotation["category_id"] - 1]).max(axis=-1) < 40
            assert near.any(axis=1).mean() > 0.9, "no line at the left side of the box"


def test_the_seed_determines_the_images_and_their_augmentation(browse, configs):
    one, same, other = (
        browse(configs["detection"], "--number", 6, "--seed", seed, out=out)
        for seed, out in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert all(name == again and np.array_equal(a, b) for (name, a), (again, b) in zip(one, same, strict=True))
    assert [name for name, _ in one] != [name for name, _ in other]


def test_images_repeat_with_another_augmentation_after_all_were_shown(browse, configs):
    drawn = browse(configs["detection"], "--number", 17)
    assert len({name for name, _ in drawn}) == 8


def test_user_data_is_drawn_with_its_own_classes(browse, configs, shapes, tmp_path):
    root = tmp_path / "mine"
    shutil.copytree(shapes / "train2017", root / "train")
    content = json.loads((shapes / "annotations/instances_train2017.json").read_text())
    content["categories"] = [{"id": 1 + number, "name": f"thing {number}"} for number in range(4)]
    (root / "train/_annotations.coco.json").write_text(json.dumps(content))
    assert len(browse(configs["detection"], "--number", 2, "--classes", "auto", root=root)) == 2


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_overviews_are_images(browse, configs, tmp_path, task):
    browse(configs[task], "--number", 5)
    for name in OVERVIEWS:
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
            assert min(image.size) > 300


def test_a_split_without_files_is_left_out(browse, configs, shapes, tmp_path, capsys):
    root = tmp_path / "half"
    shutil.copytree(shapes / "train2017", root / "train2017")
    (root / "annotations").mkdir()
    shutil.copy(shapes / "annotations/instances_train2017.json", root / "annotations")
    assert len(browse(configs["detection"], "--number", 1, root=root)) == 1


def test_the_weights_that_training_starts_from_are_not_needed(browse, configs):
    init_cfg = "model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint=/nowhere.pth"
    assert len(browse(configs["detection"], "--number", 1, "--cfg-options", *init_cfg)) == 1


def test_impossible_options_are_refused(refused, configs, tmp_path):
    assert "--number 0" in refused(configs["detection"], "--number", 0)
    assert "gone" in refused(configs["detection"], root="gone")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    assert "--out full is not an empty directory" in refused(configs["detection"], out="full")
    assert "--out full/a.txt is not" in refused(configs["detection"], out="full/a.txt")
    assert not (tmp_path / "out").exists()
