"""tools/convert_checkpoint.py converts any dialect with the same outputs, and writes files atomically."""

import resource
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.helpers.models import random_images, randomise, tiny_xcit
from xcit_dense import XCiT
from xcit_dense.models.pretrained import load_weights
from xcit_dense.weights.read import read_weights

TOOL = Path(__file__).parents[2] / "tools/convert_checkpoint.py"


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the tool and returns its output. A refusal is a SystemExit."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(convert, tmp_path):
    """Expects a refusal in one sentence with these words. The tool must not change the directory."""

    def check(words, *arguments):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(SystemExit) as exit_:
            convert(*arguments)
        assert str(exit_.value).startswith("error: ")
        for word in words:
            assert word in str(exit_.value)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    return check


@pytest.fixture(scope="module")
def model():
    return randomise(XCiT("nano_12_p16")).eval()


@pytest.fixture
def detector(model, tmp_path):
    """A file in the form that training on several processes writes."""
    state = {f"module.backbone.{name}": value for name, value in model.state_dict().items()}
    state |= {"module.neck.weight": torch.arange(6.0).view(2, 3).T, "module.backbone.cls_token": torch.ones(1, 1, 128)}
    state["module.neck.tied"] = state["module.neck.weight"]
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": state, "optimizer": {"state": {0: torch.ones(9)}}, "meta": {"epoch": 1}}, path)
    return path


@pytest.fixture
def check_outputs(model):
    def check(path):
        twin, batch = XCiT.from_pretrained(path).eval(), random_images(1, 3, 32, 48)
        with torch.no_grad():
            for got, expected in zip(twin(batch), model(batch), strict=True):
                assert torch.equal(got, expected)

    return check


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "whole"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_outputs_are_unchanged_and_only_weights_are_kept(
    convert, tmp_path, detector, model, check_outputs, suffix, whole
):
    out = tmp_path / f"clean.{suffix}"
    printed = convert(detector, out, *(["--whole"] if whole else []))
    written = read_weights(out)
    if whole:
        backbone = {f"backbone.{name}" for name in model.state_dict()}
        assert set(written) == backbone | {"neck.weight", "neck.tied"}
        assert torch.equal(written["neck.tied"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    else:
        assert set(written) == set(model.state_dict())
    others = ", 2 of neck and heads" if whole else ""
    assert (
        printed == f"{out}: {len(model.state_dict())} entries of the backbone{others}, 1 of the classifier left out\n"
    )
    check_outputs(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "epoch_1.pth"]


def test_a_safetensors_file_contains_its_variant(convert, tmp_path, detector):
    convert(detector, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "variant": "nano_12_p16"}


def test_a_safetensors_file_of_another_shape_contains_its_numbers(convert, tmp_path):
    torch.save(tiny_xcit().state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        numbers = {"embed_dim": "16", "depth": "4", "patch_size": "8", "num_heads": "2"}
        assert file.metadata() == {"format": "pt", **numbers}


@pytest.mark.parametrize("timm", [False, True], ids=["original", "timm"])
def test_a_classifier_becomes_a_backbone_without_a_pyramid(convert, tmp_path, model, timm):
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("fpn")}
    old = {name.replace("pos_embeder", "pos_embed") if timm else name: value for name, value in weights.items()}
    torch.save({"model": {**old, "head.bias": torch.ones(1000), "norm.bias": torch.ones(128)}}, tmp_path / "a.pth")
    printed = convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert "2 of the classifier left out" in printed
    assert "of the pyramid not in the file" in printed
    assert "initialised" not in printed
    written = read_weights(tmp_path / "b.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], value) for name, value in weights.items())
    assert load_weights(XCiT("nano_12_p16"), tmp_path / "b.safetensors").missing


def test_the_backbone_of_a_complete_model_gets_its_own_names(convert, tmp_path, model):
    weights = {f"model.encoder.{k.replace('pos_embeder', 'pos_embed')}": v for k, v in model.state_dict().items()}
    torch.save({**weights, "model.encoder.cls_token": torch.ones(1), "model.head.bias": torch.ones(3)}, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b.pth", "--whole")
    written = read_weights(tmp_path / "b.pth")
    assert set(written) == {f"model.encoder.{name}" for name in model.state_dict()} | {"model.head.bias"}
    convert(tmp_path / "b.pth", tmp_path / "c.pth")
    assert set(read_weights(tmp_path / "c.pth")) == set(model.state_dict())


def test_the_help_states_that_class_names_are_not_kept(convert, capsys):
    with pytest.raises(SystemExit):
        convert("--help")
    assert "meta such as class names" in " ".join(capsys.readouterr().out.split())


def test_views_are_written_by_themselves(convert, tmp_path, model):
    one = torch.cat([value.flatten().float() for value in model.state_dict().values()])
    views, start = {}, 0
    for name, value in model.state_dict().items():
        views[name] = one[start : start + value.numel()].view(value.shape)
        start += value.numel()
    torch.save({name: views[name] for name in views}, tmp_path / "a.pth")
    for suffix in ("pth", "safetensors"):
        convert(tmp_path / "a.pth", tmp_path / f"b.{suffix}")
        assert all(torch.equal(value, views[name]) for name, value in read_weights(tmp_path / f"b.{suffix}").items())


def test_an_older_file_is_replaced(convert, tmp_path, detector, check_outputs):
    (tmp_path / "out.pth").write_text("old")
    convert(detector, tmp_path / "out.pth")
    check_outputs(tmp_path / "out.pth")


def test_the_input_is_not_overwritten(refused, tmp_path, detector):
    refused(["is the checkpoint to read", "another file"], detector, tmp_path / "." / detector.name)


def test_other_suffixes_are_refused(refused, tmp_path, detector):
    refused(["out.bin", ".safetensors or .pth"], detector, tmp_path / "out.bin")


def test_a_file_in_place_of_the_output_directory_is_refused(refused, tmp_path, detector):
    (tmp_path / "file").touch()
    refused(["file/out.pth cannot be written"], detector, tmp_path / "file" / "out.pth")


def test_an_absent_file_is_refused(refused, tmp_path):
    refused(["No checkpoint at", "gone.pth"], tmp_path / "gone.pth", tmp_path / "out.pth")


@pytest.mark.parametrize("whole", [[], ["--whole"]], ids=["backbone", "whole"])
def test_part_of_an_xcit_is_refused(refused, tmp_path, model, whole):
    torch.save({k: v for k, v in model.state_dict().items() if "5.gamma1" not in k}, tmp_path / "a.pth")
    refused(["a.pth", "blocks.5.gamma1 is missing"], tmp_path / "a.pth", tmp_path / "out.pth", *whole)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "b.pth")
    refused(["b.pth", "no XCiT weights"], tmp_path / "b.pth", tmp_path / "out.pth", *whole)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_interrupted_write_leaves_the_older_file(refused, tmp_path, detector, suffix):
    """A limit on the size of files makes a write fail in the middle, as a full disk does."""
    (tmp_path / f"out.{suffix}").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        refused([f"out.{suffix} cannot be written", "File too large"], detector, tmp_path / f"out.{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
