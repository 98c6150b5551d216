"""load_weights reads the files of every published layout, and refuses other files with a clear error."""

import argparse

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.checkpoints import CLASSIFIER_DIALECTS, DIALECTS, FLAT, HEADS, NAME, prefixed, state_of
from tests.helpers.models import raises_user_error
from xcit_dense import XCiT
from xcit_dense.models.pretrained import load_weights
from xcit_dense.models.state_dict import STEM
from xcit_dense.weights import zoo


@pytest.mark.parametrize("dialect", DIALECTS)
def test_load_weights_reads_every_dialect_from_pth(tmp_path, model, check_loaded, content, dialect):
    torch.save(content(dialect), tmp_path / "weights.pth")
    before = state_of(model)
    load_weights(model, tmp_path / "weights.pth")
    check_loaded(model, before, dialect in CLASSIFIER_DIALECTS)


@pytest.mark.parametrize("dialect", ["dense", "detector", "classifier", "timm"])
def test_load_weights_reads_safetensors(tmp_path, model, check_loaded, content, dialect):
    weights = content(dialect)
    save_file({k: v.clone() for k, v in weights.get("state_dict", weights).items()}, tmp_path / "weights.safetensors")
    before = state_of(model)
    load_weights(model, str(tmp_path / "weights.safetensors"))
    check_loaded(model, before, dialect in CLASSIFIER_DIALECTS)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("dialect", FLAT)
def test_a_file_of_every_dialect_makes_the_round_trip_through_plain_pytorch(tmp_path, dense, content, suffix, dialect):
    weights = {name: value.clone() for name, value in content(dialect).items()}
    file = tmp_path / f"weights.{suffix}"
    save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    model = XCiT.from_pretrained(file)
    for name, value in model.state_dict().items():
        if dialect not in CLASSIFIER_DIALECTS or not name.startswith("fpn"):
            assert torch.equal(value, dense[name]), name


@pytest.mark.parametrize("name", ["nano_12_p8", "small_12_p16"])
def test_the_published_classifiers_load_completely(tmp_path, reference, name):
    published = reference("checkpoint_keys")[name]["classifier"]
    weights = {key: torch.full(shape, 2.0) for key, shape in published.items()}
    torch.save({"model": weights}, tmp_path / "classifier.pth")
    model = XCiT(name)
    report = load_weights(model, tmp_path / "classifier.pth")
    assert {*report.matched, *report.left_out} == {*published}
    assert all((value == 2).all() for key, value in model.state_dict().items() if not key.startswith("fpn"))


def test_half_precision_weights_are_widened(tmp_path, model, dense):
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in dense.items()}, tmp_path / "half.pth")
    load_weights(model, tmp_path / "half.pth")
    for name, value in model.state_dict().items():
        assert value.dtype == dense[name].dtype
        torch.testing.assert_close(value, dense[name], rtol=1e-3, atol=1e-4)


def test_weights_without_counters_of_batches_load(tmp_path, model, dense):
    torch.save({k: v for k, v in dense.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    load_weights(model, tmp_path / "old.pth")
    assert torch.equal(model.blocks[3].attn.qkv.weight, dense["blocks.3.attn.qkv.weight"])


def test_a_name_without_a_scheme_is_the_name_of_published_weights(tmp_path, monkeypatch, model, check_loaded, dense):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hub/checkpoints" / zoo.ZOO["coco/tiny_12_p16"].url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {**prefixed("backbone.", dense), **HEADS}}, path)
    before = state_of(model)
    load_weights(model, "coco/tiny_12_p16")
    check_loaded(model, before, from_classifier=False)
    with raises_user_error(
        "No checkpoint at coco/tiny_12_p17", "coco/tiny_12_p16", "xcit_dense.list_weights()"
    ) as caught:
        load_weights(model, "coco/tiny_12_p17")
    assert "ade20k/upernet/medium_24_p8" not in str(caught.value)
    (tmp_path / "coco" / "tiny_12_p16").mkdir(parents=True)  # not a file
    load_weights(model, "coco/tiny_12_p16")
    torch.save(dense, tmp_path / "mine")
    load_weights(model, "mine")


def test_the_report_of_a_dense_checkpoint_has_only_matches(tmp_path, model, dense):
    torch.save({"state_dict": {**prefixed("backbone.", dense), **HEADS}}, tmp_path / "detector.pth")
    report = load_weights(model, tmp_path / "detector.pth")
    assert set(report.matched) == set(dense)
    assert report.left_out == report.missing == report.unexpected == []
    assert str(report) == f"{len(dense)} entries of the backbone"


@pytest.mark.parametrize("other", ["small_12_p16", "tiny_24_p16", "nano_12_p8", "tiny_12_p8"])
def test_weights_of_another_variant_are_refused_by_its_name(tmp_path, refused, other):
    with torch.device("meta"):
        shapes = XCiT(other).state_dict()
    torch.save({"model": {name: torch.zeros(value.shape) for name, value in shapes.items()}}, tmp_path / "weights.pth")
    refused(f"is of XCiT {other}, the model of XCiT {NAME}", f"build the model as {other}")


def test_weights_of_an_unpublished_shape_are_refused_with_their_numbers(tmp_path, refused):
    weights = XCiT(patch_size=8, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3)).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    refused("embed_dim=16, depth=4, patch_size=8,", NAME)


@pytest.mark.parametrize(("depth", "nearest"), [(11, "tiny_12_p16"), (19, "tiny_24_p16"), (30, "tiny_24_p16")])
def test_weights_of_a_published_width_name_the_variant_nearest_in_depth(tmp_path, refused, depth, nearest):
    with torch.device("meta"):
        shapes = XCiT(embed_dim=192, depth=depth, num_heads=4, patch_size=16).state_dict()
    torch.save({name: torch.zeros(()).expand(value.shape) for name, value in shapes.items()}, tmp_path / "weights.pth")
    refused(f"embed_dim=192, depth={depth}, patch_size=16 (nearest: {nearest})")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.5.attn.temperature": torch.ones(8, 1, 1)}, ["temperature has shape (8, 1, 1), not (4, 1, 1)"]),
        ({"patch_embed.proj.0.0.weight": torch.ones(16, 4, 3, 3)}, ["(16, 4, 3, 3), not (16, 3, 3, 3)", "in_channels"]),
        ({"blocks.5.attn.qkv.bias": None}, ["blocks.5.attn.qkv.bias is missing"]),
        ({"fpn1.0.weight": None}, ["fpn1.0.weight is missing"]),
        ({"blocks.5.attn.extra": torch.ones(3)}, ["blocks.5.attn.extra is unknown"]),
        ({"blocks.5.gamma1": None, "blocks.5.gamma2": None}, ["gamma1 is missing", "1 more"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_weights_that_fit_in_part_are_refused(tmp_path, refused, dense, change, words):
    weights = {name: value for name, value in {**dense, **change}.items() if value is not None}
    torch.save(weights, tmp_path / "weights.pth")
    refused(*words)


def test_weights_for_other_channels_are_adapted_on_request(tmp_path, dense):
    torch.save(dense, tmp_path / "weights.pth")
    model = XCiT(NAME, in_channels=1)
    report = load_weights(model, tmp_path / "weights.pth", adapt=True)
    assert torch.equal(model.state_dict()[STEM], dense[STEM].sum(dim=1, keepdim=True))
    assert str(report) == f"{len(dense)} entries of the backbone (the stem's weights for 3 input channels summed for 1)"


def test_a_checkpoint_of_two_xcits_is_refused(tmp_path, refused, dense):
    weights = {**prefixed("student.backbone.", dense), **prefixed("teacher.backbone.", dense)}
    torch.save({"state_dict": weights}, tmp_path / "weights.pth")
    refused("2 XCiTs", "'student.backbone.' and 'teacher.backbone.'", "give a checkpoint of one")


@pytest.mark.parametrize(
    "content",
    [{}, {"state_dict": {}}, {"layer1.0.conv1.weight": torch.ones(3)}, {1: torch.ones(2)}, {"model": torch.ones(2)}],
    ids=["empty", "empty state_dict", "ResNet", "numbered", "a tensor as model"],
)
def test_a_checkpoint_without_an_xcit_is_refused(tmp_path, refused, content):
    torch.save(content, tmp_path / "weights.pth")
    refused("no XCiT weights", "patch_embed.proj.0.0.weight", NAME)


def permissions():
    """Returns the types that PyTorch's unpickler allows, without PyTorch's own."""
    return {kind for kind in torch.serialization.get_safe_globals() if "torch" not in str(kind)}


def test_a_checkpoint_with_a_command_line_is_loaded(tmp_path, model, classifier):
    args = argparse.Namespace(lr=5e-4, model="xcit_nano_12_p16", distillation=None, betas=[0.9, 0.999], cutmix=True)
    torch.save({"model": classifier, "args": args, "epoch": 399, "scaler": {"scale": 1.0}}, tmp_path / "weights.pth")
    before = permissions()
    report = load_weights(model, tmp_path / "weights.pth")
    assert torch.equal(model.pos_embeder.token_projection.bias, classifier["pos_embeder.token_projection.bias"])
    assert report.missing
    # The permission to read a Namespace ends with the reading.
    assert permissions() == before


def test_a_checkpoint_with_the_metadata_of_the_old_libraries_is_loaded(tmp_path, model, dense):
    meta = {"PALETTE": np.zeros((2, 3), np.uint8), "best": np.float32(0.5), "CLASSES": ("cat", "dog"), "seed": None}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}}
    content = {"state_dict": prefixed("backbone.", dense), "meta": meta, "amp": amp}
    torch.save(content, tmp_path / "weights.pth")
    before = permissions()
    assert len(load_weights(model, tmp_path / "weights.pth").matched) == len(dense)
    assert permissions() == before
