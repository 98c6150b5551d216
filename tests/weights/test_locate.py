"""One resolver turns the text that names a model into its config and its weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import ROOT
from tests.helpers.hub import running_hub
from tests.helpers.models import raises_user_error, tiny_xcit
from xcit_dense.weights.locate import Model, locate_model
from xcit_dense.weights.saved import read_model_config, write_saved

S12 = ROOT / "configs/detection/mask_rcnn_xcit_s12.py"
CONFIG = {"default_scope": "mmdet", "model": {"type": "MaskRCNN"}}
TEXT = "default_scope = 'mmdet'\nmodel = dict(type='MaskRCNN')\n"


def checkpoint(path, text=TEXT, iteration=4):
    """Writes a checkpoint of a training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"iter": iteration, "time": "20260101_000000", "cfg": text}
    torch.save({"meta": meta, "state_dict": {"weight": torch.zeros(2)}, "message_hub": {}}, path)
    return path


@pytest.fixture
def work_dir(tmp_path):
    """A work directory with a config and a checkpoint."""
    checkpoint(tmp_path / "mine/iter_4.pth")
    (tmp_path / "mine/own.py").write_text(TEXT)
    return tmp_path / "mine"


@pytest.mark.parametrize("text", ["coco/small_12_p16", "xcit://coco/small_12_p16"])
def test_a_published_name_gives_its_shipped_config(text):
    model = locate_model(text)
    assert (model.config.resolve(), model.weights) == (S12, "xcit://coco/small_12_p16")
    assert (model.name, model.work_dir) == ("coco_small_12_p16", None)


def test_a_work_directory_gives_its_config_and_stays_a_directory(work_dir):
    assert locate_model(work_dir) == Model("mine", work_dir / "own.py", str(work_dir), work_dir)


def test_a_checkpoint_in_a_work_directory_gives_the_config_there(work_dir):
    path = work_dir / "iter_4.pth"
    assert locate_model(path) == Model("iter_4", work_dir / "own.py", str(path), work_dir)


@pytest.mark.parametrize("others", [0, 2])
def test_a_checkpoint_without_one_config_beside_it_gives_its_own(work_dir, others):
    (work_dir / "own.py").unlink()
    for number in range(others):
        (work_dir / f"script_{number}.py").touch()
    path = work_dir / "iter_4.pth"
    assert locate_model(path) == Model("iter_4", path, str(path))
    assert locate_model(work_dir) == Model("mine", path, str(path), work_dir)
    assert read_model_config(path) == CONFIG


def test_a_checkpoint_of_the_older_libraries_has_its_config_under_another_name(tmp_path):
    torch.save({"meta": {"config": TEXT, "CLASSES": ("cat",)}, "state_dict": {}}, tmp_path / "old.pth")
    assert read_model_config(tmp_path / "old.pth") == CONFIG


@pytest.mark.parametrize("name", ["saved", "saved/model.safetensors", "renamed.safetensors"])
def test_a_saved_model_gives_its_own_config(tmp_path, name):
    write_saved(tmp_path / "saved", {"config": TEXT}, {"weight": torch.zeros(2)})
    shutil.copy(tmp_path / "saved/model.safetensors", tmp_path / "renamed.safetensors")
    model = locate_model(tmp_path / name)
    path = tmp_path / name if name.endswith(".safetensors") else tmp_path / name / "model.safetensors"
    assert (model.config, model.weights, model.work_dir) == (path, str(path), None)
    assert model.name == ("renamed" if "renamed" in name else "saved")
    assert read_model_config(model.config) == CONFIG


def test_a_saved_backbone_is_not_a_model(tmp_path):
    tiny_xcit().save_pretrained(tmp_path / "saved")
    for text in (tmp_path / "saved", tmp_path / "saved/model.safetensors", "small_12_p16_224"):
        with raises_user_error(text, "weights of a backbone", "name a config before them"):
            locate_model(text)


def test_weights_without_a_config_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"damaged")
    for name in ("a.safetensors", "b.pth", "c.pth"):
        with raises_user_error("No config in", tmp_path):
            locate_model(tmp_path / name)
    with raises_user_error("https://host/a.pth does not name its config"):
        locate_model("https://host/a.pth")


def test_a_config_with_code_is_refused_and_named(tmp_path):
    path = checkpoint(tmp_path / "a.pth", "model = dict(type=open('executed', 'w'))")
    with raises_user_error(path, "contains code", "open("):
        locate_model(path)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("mask_rcn_xcit_s12", "mask_rcnn_xcit_s12"),
        ("coco/smal_12_p16", "coco/small_12_p16"),
        ("work_dirs/mnie", "work_dirs/mine"),
        ("nothing-like-it", "no shipped config"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, monkeypatch, text, near):
    monkeypatch.chdir(tmp_path)
    Path("work_dirs/mine").mkdir(parents=True)
    with raises_user_error(text, near):
        locate_model(text)


def test_a_repository_of_the_hub_gives_its_own_config(tmp_path, python):
    program = """
import sys
from xcit_dense.errors import UserError
from xcit_dense.weights.locate import locate_model
from xcit_dense.weights.saved import read_model_config

for address in sys.argv[1:]:
    try:
        model = locate_model(address)
        print(model.name, model.config == __import__("pathlib").Path(model.weights), read_model_config(model.config))
    except UserError as error:
        print(error)
"""
    write_saved(tmp_path / "saved", {"config": TEXT}, {"weight": torch.zeros(2)})
    save_file({"weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with running_hub() as hub:
        hub.files["me/cells", "model.safetensors"] = (tmp_path / "saved/model.safetensors").read_bytes()
        hub.files["me/trained", "epoch_1.pth"] = checkpoint(tmp_path / "a.pth").read_bytes()
        hub.files["me/plain", "model.safetensors"] = (tmp_path / "plain.safetensors").read_bytes()
        addresses = "hf://me/cells", "hf://me/trained/epoch_1.pth", "hf://me/plain"
        lines = python("-c", program, *addresses, **hub.environment(tmp_path / "hf")).stdout.splitlines()
    assert lines == [
        f"cells True {CONFIG}",
        f"epoch_1 True {CONFIG}",
        "hf://me/plain has weights without a config; write the config before it.",
    ]


def test_a_damaged_description_is_refused(tmp_path):
    for number, config in enumerate((["model"], {"model": 1})):
        description = json.dumps({"format": 1, "config": config})
        save_file({"weight": torch.zeros(1)}, tmp_path / f"{number}.safetensors", {"xcit_dense": description})
        with raises_user_error(f"{number}.safetensors", "damaged description"):
            read_model_config(tmp_path / f"{number}.safetensors")
