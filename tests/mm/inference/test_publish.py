"""A saved model, and the checkpoint of a training alone, predict as the config and the weights do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

import xcit_dense.mm  # noqa: F401  # isort: skip
from huggingface_hub import ModelCard
from mmengine.config import Config
from safetensors.torch import load_file

from tests.helpers.hub import running_hub
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import CONFIGS, TASKS, save_tiny, tiny_config
from xcit_dense.cli.main import main
from xcit_dense.media.inputs import find_media
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.config.saved import check_plain, portable, restore_config
from xcit_dense.mm.inference.predict import make_predictor, reserve, run
from xcit_dense.mm.inference.publish import About, save_model
from xcit_dense.weights.locate import locate_model
from xcit_dense.weights.saved import read_description

each_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a training for each task, with the config that belongs to it."""
    made = {}
    for task in TASKS:
        config = tiny_config(task)
        config.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "/home/me/start.pth"}
        path = tmp_path_factory.mktemp(task) / "iter_4.pth"
        save_tiny(config, path, cfg=config.pretty_text)
        made[task] = path, config
    return made


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC).save(path)
    return path


def predict(config, weights, image, out):
    """Predicts an image; returns the results as bytes by the name of the file."""
    predictor = make_predictor(config, str(weights))
    reserve(out)
    assert not run(predictor, find_media([str(image)]), out).failures
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.*"))}


@each_task
def test_a_saved_model_and_a_checkpoint_alone_predict_as_the_config_does(trained, image, tmp_path, task):
    path, config = trained[task]
    expected = predict(config, path, image, tmp_path / "expected")
    assert len(expected) == (3 if task == "detection" else 2)

    saved = save_model(config, str(path), tmp_path / "saved")
    assert sorted(one.name for one in saved.parent.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    alone = shutil.copy(saved, tmp_path / "alone.safetensors")
    for number, text in enumerate((tmp_path / "saved", saved, alone, path)):
        model = locate_model(text)
        assert predict(load_config(model.config), model.weights, image, tmp_path / str(number)) == expected, text


@each_task
def test_a_saved_model_has_classes_preprocessing_and_the_weights_to_the_bit(trained, tmp_path, task):
    path, config = trained[task]
    about = About("shapes", {"mIoU": 41.5}, "mit")
    saved = save_model(config, str(path), tmp_path, about)
    description = read_description(saved)
    assert description == json.loads((tmp_path / "config.json").read_text())
    leaf = config.test_dataloader.dataset
    assert description["classes"] == list(leaf.metainfo["classes"])
    assert description["palette"] == [list(colour) for colour in leaf.metainfo["palette"]]
    assert description["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert description["preprocessing"]["channels"] == "RGB"
    assert (description["task"], description["metrics"], description["data"]) == (task, {"mIoU": 41.5}, "shapes")
    assert "/home/me" not in saved.read_bytes().decode("latin-1")
    found, given = load_file(saved), torch.load(path, weights_only=False)["state_dict"]
    assert found.keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == ("object-detection" if task == "detection" else "image-segmentation")
    assert card.data.license == "mit"
    assert "mIoU | 41.5" in card.content


@each_task
def test_a_restored_config_equals_what_prediction_and_tests_need(trained, tmp_path, task):
    path, config = trained[task]
    saved = save_model(config, str(path), tmp_path)
    for file in (path, saved):
        restored = restore_config(file)
        for key in ("default_scope", "test_evaluator", "test_cfg", "test_pipeline"):
            assert restored[key] == config[key], (file, key)
        for key in ("pipeline", "type", "data_root", "ann_file", "data_prefix"):
            assert restored.test_dataloader.dataset.get(key) == config.test_dataloader.dataset.get(key), (file, key)
        assert restored.model.neck == config.model.neck
        assert {"type": "CheckWeightsHook"} in restored.custom_hooks
        assert "train_dataloader" not in restored
    assert restored.work_dir == f"work_dirs/{tmp_path.name}"


@pytest.mark.parametrize(
    ("given", "evaluated", "expected"),
    [
        (("data/coco/", "a/val.json", "val/"), "data/coco/a/val.json", ("data/coco/", "a/val.json", "val/")),
        (("/home/me/mine", "a/val.json", "val/"), "/home/me/mine/a/val.json", ("data/mine", "a/val.json", "val/")),
        (
            ("/home/me/mine", "/home/me/mine/a/val.json", ""),
            "/home/me/mine/a/val.json",
            ("data/mine", "a/val.json", ""),
        ),
        (("/home/me/mine", "/home/me/work/val.json", "/home/me/b"), "/home/me/work/val.json", None),
    ],
)
def test_a_saved_config_has_no_paths_of_the_machine(given, evaluated, expected):
    config = load_config(CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py")
    leaf = config.test_dataloader.dataset
    leaf.update(data_root=given[0], ann_file=given[1], data_prefix={"img": given[2]})
    config.test_evaluator.ann_file = evaluated
    kept = portable(config)
    assert "/home/me" not in Config(kept).pretty_text
    found = kept["test_dataloader"]["dataset"]
    root, file, images = expected or ("data/mine", "val.json", "b")
    assert (found["data_root"], found["ann_file"], found["data_prefix"]) == (root, file, {"img": images})
    assert kept["test_evaluator"]["ann_file"] == (str(Path(root, file)) if expected else "val.json")
    assert leaf.data_root == given[0], "the config itself does not change"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "subprocess.Popen"}, "type 'subprocess.Popen', which is not registered"),
        ({"type": "os.system"}, "type 'os.system', which is not registered"),
        ({"type": "setup"}, "type 'setup', which is not registered"),
        ({"neck": {"type": "mmdet.mmengine.Config"}}, "not registered"),
        ({"test_cfg": {"rcnn": {"nms": {"type": "__import__('os').getcwd()"}}}}, "not registered"),
        ({"neck": {"resize_type": "subprocess.Popen"}}, "resize_type='subprocess.Popen', which may be code"),
        ({"neck": {"steps": ["os.path.join"]}}, "steps='os.path.join', which may be code"),
        ({"neck": {"warp_mode": "print(1)"}}, "warp_mode='print(1)', which may be code"),
        ({"neck": {"print()": 1}}, "'print()', which may be code"),
    ],
)
def test_a_config_that_names_code_is_refused_before_anything_is_built(change, expected):
    config = {"model": {"type": "MaskRCNN", **change}}
    with raises_user_error("a.pth", expected, "write the config's file before it, if you trust it"):
        check_plain(config, Path("a.pth"), "mmdet", ["xcit_dense.mm"])
    with raises_user_error("its config imports my.module"):
        check_plain(config, Path("a.pth"), "mmdet", ["xcit_dense.mm", "my.module"])


def test_classes_and_names_of_files_are_not_taken_for_code():
    leaf = {
        "metainfo": {"classes": ("car (parked)", "os.path")},
        "ann_file": "annotations.json",
        "img_suffix": "_a.png",
    }
    config = {
        "model": {"type": "mmdet.MaskRCNN", "nms": {"type": "nms"}, "roi_layer": {"type": "RoIAlign"}},
        "test_dataloader": {"dataset": leaf},
    }
    check_plain(config, Path("a.pth"), "mmdet", [])


def test_a_config_of_an_older_library_or_without_a_part_is_refused(tmp_path):
    for text, expected in (
        ("model = dict(type='MaskRCNN')", "default_scope=None and no test_dataloader"),
        ("default_scope = 'mmdet'\ntest_dataloader = dict()", "no model"),
    ):
        torch.save({"meta": {"cfg": text}, "state_dict": {}}, tmp_path / "a.pth")
        with raises_user_error(tmp_path / "a.pth", expected):
            restore_config(tmp_path / "a.pth")
    torch.save({"state_dict": {}}, tmp_path / "b.pth")
    with raises_user_error(tmp_path / "b.pth", "does not contain a config"):
        load_config(tmp_path / "b.pth")


def test_weights_that_do_not_fill_the_model_and_a_work_directory_are_refused(trained, tmp_path):
    path, config = trained["detection"]
    weights = torch.load(path, weights_only=False)["state_dict"]
    some = {name: value for name, value in weights.items() if not name.startswith("neck")}
    torch.save({"state_dict": some}, tmp_path / "other.pth")
    with raises_user_error("do not fill the model"):
        save_model(config, str(tmp_path / "other.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with raises_user_error(path.parent, "is a work directory"):
        save_model(config, str(path), path.parent)


@each_task
def test_the_commands_publish_and_predict_work_without_a_config(trained, image, tmp_path, monkeypatch, capsys, task):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_RANK", "0")
    path, config = trained[task]
    log = path.parent / "1/vis_data/scalars.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text('{"coco/bbox_mAP": 0.25, "coco/cat_precision": 0.5, "iter": 4, "step": 4}\n')
    out = tmp_path / "saved"
    main(["publish", str(path), "--out", str(out), "--data", "shapes"])
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "model.safetensors")
    assert read_description(out / "model.safetensors")["metrics"] == {"coco/bbox_mAP": 0.25}
    expected = predict(config, path, image, tmp_path / "expected")
    for number, text in enumerate((out, path)):
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(text), str(image), "--out", str(tmp_path / str(number)), "--device", "cpu"])
        assert not ended.value.code
        found = tmp_path / str(number)
        assert {one.relative_to(found): one.read_bytes() for one in sorted(found.rglob("*.*"))} == expected


PUSH = """
import sys

import numpy as np
import torch

import xcit_dense
from xcit_dense import XCiT
from xcit_dense.cli.main import main

work_dir, image, saved = sys.argv[1:]
main(["publish", work_dir, "--out", saved, "--push", "someone/mine"])
found, expected = (xcit_dense.load(text).predict(image, score_thr=0) for text in ("hf://someone/mine@v1", saved))
for name in ("xyxy", "confidence", "class_id", "mask"):
    assert np.array_equal(getattr(found, name), getattr(expected, name)), name
assert len(found.xyxy)
main(["predict", "hf://someone/mine", image, "--out", f"{saved}_found", "--device", "cpu"])
backbones = [XCiT.from_pretrained(text).state_dict() for text in ("hf://someone/mine", saved)]
assert all(torch.equal(value, backbones[1][name]) for name, value in backbones[0].items())
"""


@pytest.mark.slow
def test_a_model_goes_to_the_hub_by_the_command_and_comes_back_to_every_tool(trained, image, tmp_path, python):
    path, _ = trained["detection"]
    with running_hub() as hub:
        done = python("-c", PUSH, path, image, tmp_path / "saved", **hub.environment(tmp_path / "hf"))
        assert done.stdout.splitlines()[:2] == [str(tmp_path / "saved/model.safetensors"), "hf://someone/mine"]
        assert {name for name, _ in hub.files} == {"someone/mine"}
        assert {file for _, file in hub.files} == {"README.md", "config.json", "model.safetensors"}
    assert (tmp_path / "saved_found/results.json").is_file()


@pytest.mark.parametrize(
    ("option", "value"),
    [("metric", "mIoU"), ("metric", "mIoU=high"), ("metric", "=1"), ("metric", "mIoU=nan"), ("push", "me")],
)
def test_options_of_publish_are_checked_before_any_work(option, value, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["publish", "coco/small_12_p16", "--out", str(tmp_path / "out"), f"--{option}", value])
    assert value in str(ended.value.code)
    assert not (tmp_path / "out").exists()
