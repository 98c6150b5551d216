"""A user's own data, from a directory to a model: the commands of docs/custom_data.md, as they are written there."""

import argparse
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.helpers.commands import run_commands
from tests.helpers.marks import MATRIX
from tests.helpers.runs import read_checkpoint, read_text_log
from xcit_dense.weights.zoo import ZOO

ROOT = Path(__file__).parents[2]
NAMES = ("floor", "nut", "bolt", "washer")  # other names than the configs have, and another number of names


def coco(shapes, root):
    """The shapes as Roboflow exports them, three of their classes under other names."""
    for split, source in (("train", "train2017"), ("valid", "val2017")):
        shutil.copytree(shapes / source, root / split)
        content = json.loads((shapes / f"annotations/instances_{source}.json").read_text())
        content["categories"] = [{"id": 1 + label, "name": name} for label, name in enumerate(NAMES[1:])]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] <= 3]
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def labels(shapes, root):
    """The shapes as images and label maps, four of their classes under other names."""
    for split, source in (("train", "training"), ("val", "validation")):
        shutil.copytree(shapes / "images" / source, root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        for label in (shapes / "annotations" / source).iterdir():
            values = np.asarray(Image.open(label)) - 1
            Image.fromarray(np.where(values < 4, values, 255).astype(np.uint8)).save(
                root / "labels" / split / label.name
            )
    (root / "classes.txt").write_text("\n".join(NAMES))


def outline(annotation):
    """The longest polygon of an object. A line of YOLO has one polygon."""
    return max(annotation["segmentation"], key=len)


def yolo(shapes, root):
    """The shapes as YOLO's polygons, three of their classes under other names, without validation images."""
    shutil.copytree(shapes / "train2017", root / "images/train")
    (root / "labels/train").mkdir(parents=True)
    content = json.loads((shapes / "annotations/instances_train2017.json").read_text())
    for image in content["images"]:
        size = image["width"], image["height"]
        lines = []
        for each in content["annotations"]:
            if each["image_id"] == image["id"] and each["category_id"] <= 3:
                numbers = [f"{value / size[number % 2]:.6f}" for number, value in enumerate(outline(each))]
                lines.append(" ".join([str(each["category_id"] - 1), *numbers]))
        path = (root / "labels/train" / image["file_name"]).with_suffix(".txt")
        path.write_text("\n".join(lines))
    names = "\n".join(f"  {label}: {name}" for label, name in enumerate(NAMES[1:]))
    (root / "data.yaml").write_text(f"train: images/train\nnames:\n{names}\n")


COCO, YOLO, PAIRS = "A COCO export of Roboflow", "YOLO", "Pairs of images and masks"
DATA = {COCO: coco, YOLO: yolo, PAIRS: labels}
COMMANDS = {COCO: 5, YOLO: 2, PAIRS: 4}
TRAINED = {COCO: NAMES[1:], PAIRS: NAMES}


@pytest.fixture(scope="module")
def walk(shapes, tmp_path_factory):
    """Walks through a section of the page in a directory outside the clone, with data in data/mine."""

    done = {}

    def walked(section):
        if section not in done:
            root = tmp_path_factory.mktemp("walk")
            (root / "data/mine").mkdir(parents=True)
            DATA[section](shapes, root / "data/mine")
            commands = "\n".join(re.findall(r"^```bash\n(.*?)^```", sections()[section], re.M | re.S))
            assert commands.count("xcit-dense ") == COMMANDS[section]
            process = run_commands(commands, root, tmp_path_factory.mktemp("output"))
            output = process.stdout + process.stderr
            assert process.returncode == 0, output[-3000:]
            done[section] = SimpleNamespace(root=root, work_dir=root / "work_dirs/mine", output=output)
        return done[section]

    return walked


def written_config(walked):
    """The config that the training has written."""
    (config,) = walked.work_dir.glob("*.py")
    return config


def sections():
    """The page's sections by title."""
    page = (ROOT / "docs/custom_data.md").read_text()
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))


each_task = pytest.mark.parametrize("section", [COCO, pytest.param(PAIRS, marks=MATRIX)])


@pytest.mark.slow
@each_task
def test_the_walk_through_ends_with_metrics_by_own_class_names(walk, section):
    walked, names = walk(section), TRAINED[section]
    assert f"Classes: {len(names)} ({', '.join(names)})" in walked.output
    assert "8 images" in walked.output
    log = read_text_log(walked.work_dir)
    for name in names:
        assert re.search(rf"^\| +{name} +\| +[\d.]+", log, re.M), "not in the table of metrics"
    assert not re.search(r"\bstar\b", walked.output), "a class of the config's own"


@pytest.mark.slow
@each_task
def test_the_checkpoint_has_heads_of_the_right_size_and_knows_the_names(walk, section):
    walked, names = walk(section), TRAINED[section]
    checkpoint = read_checkpoint(walked.work_dir / "iter_4.pth")
    assert tuple(checkpoint["meta"]["dataset_meta"]["classes"]) == names
    assert len({tuple(colour) for colour in checkpoint["meta"]["dataset_meta"]["palette"]}) == len(names)
    layer, extra = {COCO: ("roi_head.bbox_head.fc_cls", 1), PAIRS: ("decode_head.conv_seg", 0)}[section]
    assert len(checkpoint["state_dict"][f"{layer}.weight"]) == len(names) + extra


@pytest.mark.slow
@each_task
def test_the_saved_config_is_left_as_training_wrote_it(walk, section):
    walked = walk(section)
    text = written_config(walked).read_text()
    assert "DeployHook" not in text
    assert "'star'" not in text, "a class of the config's own"
    assert "load_from = None" in text
    assert str(walked.root / "data/mine") in text
    assert list((walked.work_dir / "test").glob("*.py"))


@pytest.mark.slow
@each_task
@pytest.mark.parametrize(("directory", "count"), [("seen", 8 + 3), ("pictures", 4), ("found/pictures", 4)])
def test_every_step_draws_its_images(walk, section, directory, count):
    drawn = [path for path in (walk(section).work_dir / directory).rglob("*") if path.suffix in (".jpg", ".png")]
    assert len(drawn) == count


@pytest.mark.slow
@each_task
def test_the_rate_is_scaled_with_the_batch(walk, section):
    walked = walk(section)
    assert "Scaling the original LR by 2.0" in read_text_log(
        walked.work_dir
    )  # four images instead of the two of the config
    assert "batch_size=4" in written_config(walked).read_text()


@pytest.mark.slow
def test_yolo_is_read_and_converted_with_every_object(walk, shapes):
    walked = walk(YOLO)
    assert "YOLO" in walked.output
    assert f"Classes: 3 ({', '.join(NAMES[1:])})" in walked.output
    assert "6 images" in walked.output, "a quarter of the images validates"
    (path,) = (walked.root / "data/clean").rglob("*train*.json")
    content = json.loads(path.read_text())
    assert [category["name"] for category in content["categories"]] == list(NAMES[1:])
    source = json.loads((shapes / "annotations/instances_train2017.json").read_text())
    expected = []
    for each in source["annotations"]:
        if each["category_id"] <= 3:
            points = np.reshape(outline(each), (-1, 2))
            expected.append([each["category_id"], *points.min(axis=0), *np.ptp(points, axis=0)])
    found = [[each["category_id"], *each["bbox"]] for each in content["annotations"]]
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.01)


@pytest.mark.slow
def test_faulty_data_ends_the_run_before_it_writes_anything(python, tools, shapes, tmp_path):
    root = tmp_path / "mine"
    coco(shapes, root)
    path = root / "train/_annotations.coco.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 9
    path.write_text(json.dumps(content))
    (root / "valid/000000000001.jpg").unlink()
    command = [tools.train, tools.shapes, "--data-root", root, "--classes", "auto", "--device", "cpu"]
    process = python(*command, "--work-dir", tmp_path / "work", status=1)
    ids = [annotation["id"] for annotation in content["annotations"][:2]]
    places = "; ".join(f"annotation {number}: category_id 9" for number in ids)
    assert f"  error    annotations of unknown categories: 2 ({places})" in process.stdout
    assert "  error    missing images: 1 (000000000001.jpg)" in process.stdout
    assert "error: The data has 2 kinds of error," in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("section", "path"),
    [(COCO, "detection/mask_rcnn_xcit_s12_1x.py"), (PAIRS, "segmentation/upernet_xcit_s12.py")],
)
def test_the_options_for_the_real_training_fit_its_config_and_each_other(section, path):
    from xcit_dense.cli.options import read_config_options
    from xcit_dense.mm.config.length import set_length
    from xcit_dense.mm.config.load import load_config

    text = sections()[section]
    assert f"configs/{path}" in text
    (line,) = re.findall(r"^```text\n(--(?:epochs|cfg-options) .*?)\n```", text, re.M | re.S)
    words = line.replace("\\\n", "").split()
    epochs = int(words[words.index("--epochs") + 1]) if "--epochs" in words else None
    config = ROOT / "configs" / path
    options = read_config_options(words[words.index("--cfg-options") + 1 :])
    before, after = load_config(config), load_config(config, options)
    set_length(after, epochs)
    for key in options:
        node = before
        for part in key.split("."):
            node = node[int(part) if part.isdigit() else part]  # a name that the config has
    assert after.load_from.removeprefix("xcit://") in ZOO
    fall = after.param_scheduler[1]
    if section == COCO:
        assert max(fall.milestones) < fall.end == after.train_cfg.max_epochs
    else:
        assert fall.end == after.train_cfg.max_iters + 1
        assert after.train_cfg.max_iters % after.train_cfg.val_interval == 0


def options_in(text):
    """The options that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def options_of(command):
    """The options that a subcommand has."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return set(parser._option_string_actions)


def test_every_option_in_the_page_exists():
    from xcit_dense.cli import browse, convert_data, predict, test, train

    table = options_in(sections()["Options"])
    assert len(table) > 8
    assert table <= options_of(train)
    assert table <= options_of(browse)
    every = options_of(train) | options_of(browse) | options_of(convert_data) | options_of(predict) | options_of(test)
    assert options_in((ROOT / "docs/custom_data.md").read_text()) - {"--save-media"} <= every
