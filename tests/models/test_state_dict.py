"""Every published dialect of weights loads; nothing else does, and nothing is executed."""

import argparse
import copyreg
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.models import assert_close, raises_user_error, random_images, randomise
from xcit_dense import VARIANTS, XCiT
from xcit_dense.errors import UserError
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.pretrained import load_weights
from xcit_dense.models.state_dict import infer_options, translate
from xcit_dense.weights import zoo
from xcit_dense.weights.read import read_weights
from xcit_dense.weights.safe_load import read_file

NAME = "nano_12_p16"


# Files in the published layouts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense():
    """Weights of a dense backbone, each of its own random values."""
    return dict(randomise(XCiT(NAME), seed=1).state_dict())


@pytest.fixture(scope="module")
def classifier(dense):
    """Weights of a classifier with the same trunk."""
    vector, matrix = torch.randn(128), torch.randn(128, 128)
    extra = {"cls_token": vector[None, None], "norm.weight": vector, "norm.bias": vector}
    for layer in (0, 1):
        for part in ("gamma1", "gamma2", "norm1.weight", "attn.proj.bias", "mlp.fc2.bias"):
            extra[f"cls_attn_blocks.{layer}.{part}"] = vector
        extra[f"cls_attn_blocks.{layer}.attn.proj.weight"] = matrix
    head = {"head.weight": torch.randn(1000, 128), "head.bias": torch.randn(1000)}
    return {**{k: v for k, v in dense.items() if not k.startswith("fpn")}, **extra, **head}


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


def timms(weights):
    """The same weights under timm's names."""
    return {re.sub("^pos_embeder", "pos_embed", name): value for name, value in weights.items()}


HEADS = {"decode_head.conv_seg.weight": torch.ones(3), "neck.lateral.bias": torch.ones(2)}

DENSE_DIALECTS = {
    "dense": lambda dense: dense,
    "dense in state_dict": lambda dense: {"state_dict": dense, "meta": {"epoch": 3}},
    "detector": lambda dense: {"state_dict": {**prefixed("backbone.", dense), **HEADS}, "meta": {"CLASSES": ["cat"]}},
    "distributed detector": lambda dense: {"state_dict": {**HEADS, **prefixed("module.backbone.", dense)}},
}
CLASSIFIER_DIALECTS = {
    "classifier": lambda weights: weights,
    "classifier in model": lambda weights: {"model": weights, "epoch": 399},
    "timm": timms,
    "timm in state_dict": lambda weights: {"state_dict": timms(weights)},
    "timm as features": lambda weights: prefixed("model.", timms(weights)),
    "DINO": lambda weights: {k: v for k, v in weights.items() if not k.startswith("head.")},
    "DINO training": lambda weights: {
        "student": prefixed("module.backbone.", {k: torch.zeros_like(v) for k, v in weights.items()}),
        "teacher": {**prefixed("backbone.", weights), "head.mlp.0.weight": torch.ones(2)},
        "epoch": 3,
    },
}
DIALECTS = {**DENSE_DIALECTS, **CLASSIFIER_DIALECTS}


@pytest.fixture
def model():
    """The model that loads, with values of its own."""
    return randomise(XCiT(NAME), seed=2)


def state_of(model):
    """Copies a model's state."""
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def check_loaded(dense):
    """Checks that a model has the trunk of the checkpoint, and its pyramid or the one it had before."""

    def check(model, before, from_classifier):
        for name, value in state_of(model).items():
            expected = before if from_classifier and name.startswith("fpn") else dense
            assert torch.equal(value, expected[name]), name

    return check


@pytest.fixture
def content(dense, classifier):
    """What a file of a dialect holds."""
    return lambda dialect: DIALECTS[dialect](dense if dialect in DENSE_DIALECTS else classifier)


def test_a_made_classifier_has_no_name_that_the_published_ones_have_not(reference, dense, classifier):
    published = reference("checkpoint_keys")[NAME]
    assert {name: list(value.shape) for name, value in dense.items()} == published["dense"]
    assert {name: list(value.shape) for name, value in classifier.items()}.items() <= published["classifier"].items()


# Loading ------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("dialect", DIALECTS)
def test_load_state_dict_understands_every_dialect(model, check_loaded, content, dialect):
    before = state_of(model)
    result = model.load_state_dict(content(dialect))
    assert not result.missing_keys
    assert not result.unexpected_keys
    check_loaded(model, before, dialect in CLASSIFIER_DIALECTS)


FLAT = [
    name
    for name in DIALECTS
    if " in " not in name and name not in ("detector", "distributed detector", "DINO training")
]


@pytest.mark.parametrize("dialect", FLAT)
def test_a_model_that_holds_the_backbone_understands_every_dialect(model, check_loaded, content, dialect):
    detector = nn.Module()
    detector.backbone, detector.head = model, nn.Linear(2, 3)
    before = state_of(model)
    head = nn.Linear(2, 3).state_dict()
    result = detector.load_state_dict({**prefixed("backbone.", content(dialect)), **prefixed("head.", head)})
    assert not result.missing_keys
    assert not result.unexpected_keys
    check_loaded(model, before, dialect in CLASSIFIER_DIALECTS)
    assert torch.equal(detector.head.weight, head["weight"])


def test_a_backbone_deep_in_a_model_understands_its_dialect(model, check_loaded, classifier):
    outer = nn.ModuleDict({"student": nn.ModuleDict({"backbone": model})})
    before = state_of(model)
    outer.load_state_dict(prefixed("student.backbone.", timms(classifier)))
    check_loaded(model, before, from_classifier=True)


@pytest.mark.parametrize("dialect", ["classifier", "classifier in model", "timm in state_dict"])
def test_the_weights_of_a_backbone_alone_are_those_of_the_one_in_a_model(model, content, classifier, dialect):
    weights, report = translate(content(dialect), "backbone.", model.state_dict())
    assert torch.equal(weights["blocks.3.gamma1"], classifier["blocks.3.gamma1"])
    assert report.missing


def test_loading_leaves_the_given_dictionary_as_it_was(model, classifier):
    given = timms(classifier)
    names = list(given)
    model.load_state_dict(given)
    assert list(given) == names


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
def test_the_published_classifiers_load_whole(tmp_path, reference, name):
    published = reference("checkpoint_keys")[name]["classifier"]
    weights = {key: torch.full(shape, 2.0) for key, shape in published.items()}
    torch.save({"model": weights}, tmp_path / "classifier.pth")
    model = XCiT(name)
    report = load_weights(model, tmp_path / "classifier.pth")
    assert {*report.matched, *report.left_out} == {*published}
    assert all((value == 2).all() for key, value in model.state_dict().items() if not key.startswith("fpn"))


def tokens(x):
    return map_to_tokens(x) if x.ndim == 4 else x  # ours are maps, timm's are tokens


def block_features(model, image):
    """What each block makes of an image, in our XCiT or timm's."""
    features = []
    hooks = [block.register_forward_hook(lambda *call: features.append(tokens(call[2]))) for block in model.blocks]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return features


LARGE = ("small_24", "medium_24", "large_24")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(LARGE) else []) for name in VARIANTS]
)
def test_timms_classifier_of_every_variant_loads_by_timms_names_and_gives_timms_features(name):
    theirs = randomise(timm.create_model(f"xcit_{name}_224"))
    weights = theirs.state_dict()
    assert "cls_attn_blocks.0.attn.q.weight" in weights
    image = random_images(1, 3, 32, 48)
    expected = block_features(theirs, image)
    ours = XCiT(name)
    result = ours.load_state_dict(weights)
    assert not result.missing_keys
    assert not result.unexpected_keys
    features = block_features(ours, image)
    assert len(features) == VARIANTS[name].depth
    for got, wanted in zip(features, expected, strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("name", ["nano_12_p16", "nano_12_p8", "small_12_p16", "small_24_p8"])
def test_every_name_and_shape_that_was_published_is_understood(reference, name):
    with torch.device("meta"):
        model = XCiT(name)
        for kind, published in reference("checkpoint_keys")[name].items():
            result = model.load_state_dict({key: torch.empty(shape) for key, shape in published.items()})
            assert not result.missing_keys, kind
            assert not result.unexpected_keys, kind


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


def test_weights_without_counters_load_with_the_version_that_promises_them(model, dense):
    state = XCiT(NAME).state_dict()  # carries the version
    for name in list(state):
        state[name] = dense[name]
        if name.endswith("num_batches_tracked"):
            del state[name]
    assert state._metadata["blocks.0.local_mp.bn"]["version"] >= 2
    model.load_state_dict(state)
    assert torch.equal(model.blocks[3].attn.qkv.weight, dense["blocks.3.attn.qkv.weight"])


def test_a_name_alone_is_that_of_published_weights(tmp_path, monkeypatch, model, check_loaded, dense):
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


# What the weights say of the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_the_options_of_every_variant_are_its_name(tmp_path, name):
    with torch.device("meta"):
        shapes = XCiT(name).state_dict()
    # One value each, however large the tensor.
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}, tmp_path / "weights.pth")
    options = infer_options(read_weights(tmp_path / "weights.pth"))
    assert options["variant"] == name
    with torch.device("meta"):
        built = XCiT(**options).state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in shapes.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"embed_dim": 48, "depth": 5, "num_heads": 3, "patch_size": 16},
        {"embed_dim": 128, "depth": 12, "num_heads": 8, "patch_size": 16},
        {"variant": NAME, "mlp_ratio": 2.5, "qkv_bias": False, "in_channels": 4},
        *(
            {"embed_dim": 56, "depth": 4, "num_heads": 2, "patch_size": 8, "mlp_ratio": n / 56}
            for n in (1, 61, 99, 223)
        ),
    ],
)
def test_the_options_of_other_shapes_are_found_from_the_weights(tmp_path, options):
    model = XCiT(**options)
    torch.save({"state_dict": prefixed("backbone.", model.state_dict())}, tmp_path / "weights.pth")
    twin = XCiT(**infer_options(read_weights(tmp_path / "weights.pth")))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in twin.state_dict().items()} == shapes


@pytest.mark.parametrize("part", ["patch_embed.", "patch_embed.proj.0", "blocks.1."])
def test_options_of_part_of_an_xcit_are_refused(tmp_path, dense, part):
    torch.save({key: value for key, value in dense.items() if key.startswith(part)}, tmp_path / "weights.pth")
    with raises_user_error(tmp_path / "weights.pth", "XCiT", "give a "):
        XCiT.from_pretrained(tmp_path / "weights.pth")


# Report -------------------------------------------------------------------------------------------------------------


def test_the_report_of_a_classifier_names_what_matched_what_was_left_out_and_what_is_missing(
    tmp_path, model, classifier
):
    torch.save({"model": classifier}, tmp_path / "classifier.pth")
    report = load_weights(model, tmp_path / "classifier.pth")
    own = set(model.state_dict())
    assert set(report.matched) == own & set(classifier)
    assert set(report.left_out) == set(classifier) - own
    assert set(report.missing) == own - set(classifier)
    assert {name.split(".")[0] for name in report.left_out} == {"cls_token", "cls_attn_blocks", "norm", "head"}
    assert {name.split(".")[0] for name in report.missing} == {"fpn1", "fpn2"}
    sentence = str(report)
    for part in (report.matched, report.left_out, report.missing):
        assert str(len(part)) in sentence


def test_the_report_of_a_dense_checkpoint_is_of_matches_alone(tmp_path, model, dense):
    torch.save({"state_dict": {**prefixed("backbone.", dense), **HEADS}}, tmp_path / "detector.pth")
    report = load_weights(model, tmp_path / "detector.pth")
    assert set(report.matched) == set(dense)
    assert report.left_out == report.missing == report.unexpected == []
    assert str(report) == f"{len(dense)} entries of the backbone"


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "detector"])
def test_loading_warns_of_a_pyramid_that_stays_as_initialised(model, dense, classifier, caplog, whole):
    loads, prefix = (nn.ModuleDict({"backbone": model}), "backbone.") if whole else (model, "")
    with caplog.at_level("INFO"):
        loads.load_state_dict(prefixed(prefix, classifier))
        loads.load_state_dict(prefixed(prefix, {**dense, "cls_token": torch.ones(1)}))
        loads.load_state_dict(prefixed(prefix, dense))
    (warning, info) = caplog.records
    assert warning.levelname == "WARNING"
    assert "of the pyramid not in the file, which stay as initialised" in warning.getMessage()
    assert info.levelname == "INFO"
    assert "1 of the classifier left out" in info.getMessage()


# Files that cannot be loaded ----------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path, model):
    """Expects that a file is refused, with an error that names it, and that the model is left as it was."""

    def check(*words, file="weights.pth"):
        before = state_of(model)
        with raises_user_error(tmp_path / file, *words):
            load_weights(model, tmp_path / file)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    return check


@pytest.mark.parametrize("other", ["small_12_p16", "tiny_24_p16", "nano_12_p8", "tiny_12_p8"])
def test_weights_of_another_variant_are_refused_by_its_name(tmp_path, refused, other):
    with torch.device("meta"):
        shapes = XCiT(other).state_dict()
    torch.save({"model": {name: torch.zeros(value.shape) for name, value in shapes.items()}}, tmp_path / "weights.pth")
    refused(f"is of XCiT {other}, the model of XCiT {NAME}", f"build the model as {other}")


def test_weights_of_another_variant_are_refused_by_load_state_dict_too(model):
    before = state_of(model)
    other = XCiT("nano_12_p8").state_dict()
    with raises_user_error("is of XCiT nano_12_p8, the model of XCiT nano_12_p16"):
        model.load_state_dict(other)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_no_published_shape_are_refused_by_their_numbers(tmp_path, refused):
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
def test_weights_that_fit_in_part_are_refused_whole(tmp_path, refused, dense, change, words):
    weights = {name: value for name, value in {**dense, **change}.items() if value is not None}
    torch.save(weights, tmp_path / "weights.pth")
    refused(*words)


PARTIAL = {
    "without a block's gains": lambda dense: {k: v for k, v in dense.items() if "5.gamma" not in k},
    "without a block": lambda dense: {k: v for k, v in dense.items() if "blocks.5." not in k},
    "without the last block": lambda dense: {k: v for k, v in dense.items() if "blocks.11." not in k},
    "without half the pyramid": lambda dense: {k: v for k, v in dense.items() if "fpn2" not in k},
    "with an unknown name": lambda dense: {**dense, "blocks.5.attn.extra": torch.ones(3)},
    "of other heads": lambda dense: {**dense, "blocks.5.attn.temperature": torch.ones(8, 1, 1)},
    "stem alone": lambda dense: {k: v for k, v in dense.items() if k.startswith("patch_embed.")},
    "without the stem": lambda dense: {k: v for k, v in dense.items() if not k.startswith("patch_embed.")},
    "nothing": lambda dense: {},
}


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "detector"])
@pytest.mark.parametrize("part", PARTIAL)
def test_load_state_dict_refuses_what_fits_in_part_and_leaves_the_backbone_as_it_was(model, dense, part, whole):
    weights = PARTIAL[part](dense)
    loads = model
    if whole:
        loads = nn.ModuleDict({"backbone": model, "head": nn.Linear(2, 2)})
        weights = {**prefixed("backbone.", weights), **prefixed("head.", loads["head"].state_dict())}
    before = state_of(model)
    with raises_user_error("XCiT", NAME, "give "):
        loads.load_state_dict(weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("part", ["without a block's gains", "with an unknown name", "without half the pyramid"])
def test_load_state_dict_that_is_not_strict_says_what_fits(model, dense, part):
    weights = PARTIAL[part](dense)
    result = model.load_state_dict(weights, strict=False)
    assert set(result.missing_keys) == set(dense) - set(weights)
    assert set(result.unexpected_keys) == set(weights) - set(dense)
    for name in set(weights) & set(dense):
        assert torch.equal(model.state_dict()[name], dense[name])


def test_load_state_dict_that_is_not_strict_leaves_other_entries_to_pytorch(model):
    before = state_of(model)
    result = model.load_state_dict({"decode_head.bias": torch.ones(2)}, strict=False)
    assert result.unexpected_keys == ["decode_head.bias"]
    assert len(result.missing_keys) > 300
    with pytest.raises(ValueError, match="no XCiT weights"):  # the next call is strict again
        model.load_state_dict({"decode_head.bias": torch.ones(2)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
def test_load_state_dict_refuses_wrong_shapes_and_another_variant_in_any_case(model, dense, strict):
    with raises_user_error("temperature has shape (8, 1, 1), not (4, 1, 1)"):
        model.load_state_dict(PARTIAL["of other heads"](dense), strict=strict)
    with raises_user_error("is of XCiT nano_12_p8, the model of XCiT nano_12_p16"):
        model.load_state_dict(XCiT("nano_12_p8").state_dict(), strict=strict)


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


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), "text", None], ids=lambda c: type(c).__name__)
def test_a_file_of_something_else_is_refused(tmp_path, refused, content):
    torch.save(content, tmp_path / "weights.pth")
    refused("a checkpoint is a dictionary of tensors", type(content).__name__)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("layout", ["zip", "legacy", "safetensors"])
def test_a_file_cut_short_is_refused(tmp_path, refused, dense, layout, part):
    file = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pth")
    if layout == "safetensors":
        save_file(dense, file)
    else:
        torch.save(dense, file, _use_new_zipfile_serialization=layout == "zip")
    os.truncate(file, int(part * file.stat().st_size))
    refused("was cut short", file=file.name)


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "text",
    ["hello world\n", "<!DOCTYPE html><title>404</title>", "version https://git-lfs.github.com/spec/v1\n", "\x80\x02."],
)
def test_a_file_of_text_is_refused(tmp_path, refused, text, file):
    (tmp_path / file).write_text(text, encoding="latin-1")
    refused("is not a ", file=file)
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / file)
    assert "weights_only" not in str(caught.value)


def test_a_missing_file_is_refused(refused, tmp_path):
    refused("No checkpoint at", "Check the path")
    with raises_user_error("No checkpoint at", tmp_path):
        read_weights(tmp_path)


def test_a_file_that_may_not_be_read_is_refused_with_the_cause(tmp_path, refused, dense, monkeypatch):
    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    torch.save(dense, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", forbid)
    refused("cannot be read", "Permission denied")


def test_the_cause_is_given_without_the_advice(tmp_path, refused, dense, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("advice\nWeightsUnpickler error: odd bytes. More advice.\nadvice")

    torch.save(dense, tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", fail)
    refused("(RuntimeError: odd bytes); write")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_was_saved_on_a_gpu_says_what_to_write_without_one(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "cpu.pth")
    with zipfile.ZipFile(tmp_path / "cpu.pth") as source, zipfile.ZipFile(tmp_path / "gpu.pth", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    with raises_user_error(tmp_path / "gpu.pth", "saved on a GPU", "map_location='cpu'"):
        read_file(tmp_path / "gpu.pth", None)
    assert torch.equal(read_file(tmp_path / "gpu.pth")["a"], torch.ones(2))


class Intruder:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_pickle_that_would_execute_code_is_refused_unexecuted(tmp_path, refused, dense, layout):
    marker, file = tmp_path / "executed", tmp_path / "weights.pth"
    content = {"state_dict": dense, "hook": Intruder(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    refused("holds more than weights", "mkdir", "was not executed")
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()  # it would have been executed


def test_a_whole_pickled_model_is_refused(tmp_path, refused, model):
    torch.save(model, tmp_path / "weights.pth")
    refused("holds more than weights", "XCiT", "torch.save(model.state_dict(), path)")


class Call:
    """Pickled as a call, whose result may be given a state, as a malicious file would hold one."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


class New:
    """Pickled as a new object of a class."""

    def __init__(self, kind, *arguments):
        self.call = copyreg.__newobj__, (kind, *arguments)

    @property
    def __class__(self):  # as pickle expects
        return self.call[1][0]

    def __reduce_ex__(self, protocol):
        return self.call


def array(shape, kind, data):
    return Call(*np.array(0).__reduce__()[:1], np.ndarray, (0,), b"b", state=(1, shape, kind, False, data))


RECONSTRUCT, SCALAR = np.array(0).__reduce__()[0], np.float64(0).__reduce__()[0]
POINTER = b"AAAAAAAA"
FORGED = Call(np.dtype, "f8", False, True, state=(3, "<", None, None, None, -1, -1, 63))
FIELD = Call(np.dtype, "V8", False, True, state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 27))
ATTACKS = {
    "array made over memory": Call(np.ndarray, (1,), np.dtype("O"), bytearray(POINTER)),
    "array of numbers made over memory": Call(np.ndarray, (1,), np.dtype("f8"), bytearray(POINTER)),
    "new array over memory": New(np.ndarray, (1,), np.dtype("O"), bytearray(POINTER)),
    "array of a subclass": Call(RECONSTRUCT, dict, (1,), b"b"),
    "array of numbers with flags of objects": array((1,), FORGED, POINTER),
    "array with a field of objects": array((1,), FIELD, POINTER),
    "scalar of numbers with flags of objects": Call(SCALAR, FORGED, POINTER),
    "scalar of objects": Call(SCALAR, np.dtype("O"), POINTER),
    "array longer than its data": array((1 << 40,), np.dtype("f8"), POINTER),
    "array of negative length": array((-1, -1), np.dtype("f8"), POINTER),
    "array of a list": array((1,), np.dtype("f8"), [{}]),
    "scalar shorter than its type": Call(SCALAR, np.dtype("f8"), b"A"),
    "dtype of objects": np.dtype("O"),
    "dtype of records": np.dtype([("a", "f8")]),
    "new dtype": New(np.dtype, "O"),
    "state given twice": (a := array((1,), np.dtype("f8"), POINTER), Call(RECONSTRUCT, a, (1,), b"b")),
}


def test_a_pickle_that_lies_to_numpy_about_memory_is_refused(tmp_path, python):
    """In a process of its own, which a forged pointer would crash."""
    for name, content in ATTACKS.items():
        torch.save({"payload": content}, tmp_path / f"{name}.pth")
    code = """
import pathlib, sys
from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import read_file
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pth")):
    try:
        print(path.stem, "gave", repr(read_file(path)["payload"]), flush=True)
    except UserError as error:
        print(path.stem, "holds more than weights" in str(error) or str(error), flush=True)
"""
    said = python("-c", code, tmp_path).stdout.splitlines()
    assert said == [f"{name} True" for name in sorted(ATTACKS)]


def test_arrays_of_numbers_are_read_and_saved_again_as_numpys_own(tmp_path):
    arrays = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "point": np.array(3, np.uint16),
        "complex": np.ones(2, np.complex64),
        "big-endian": np.arange(3, dtype=">i4"),
    }
    torch.save(arrays, tmp_path / "a.pth")
    read = read_file(tmp_path / "a.pth")
    torch.save(read, tmp_path / "b.pth")
    for again in (read, torch.load(tmp_path / "b.pth", weights_only=False)):
        for name, value in arrays.items():
            np.testing.assert_array_equal(again[name], value)
            assert again[name].dtype == value.dtype.newbyteorder("=")  # as NumPy reads it
    assert {type(value) for value in again.values()} == {np.ndarray}


def test_what_others_allowed_does_not_take_the_stand_ins_places(tmp_path, refused, monkeypatch):
    torch.save({"payload": ATTACKS["dtype of records"]}, tmp_path / "weights.pth")
    kinds = [np.dtype, np.ndarray, (np.ndarray, "numpy.ndarray"), nn.Linear]
    during, load = [], torch.load
    monkeypatch.setattr(
        torch,
        "load",
        lambda *args, **options: during.extend(torch.serialization.get_safe_globals()) or load(*args, **options),
    )
    with torch.serialization.safe_globals(kinds):
        refused("holds more than weights", "numpy.dtype")
        assert set(kinds) & set(during) == {nn.Linear}
        assert set(kinds) <= set(torch.serialization.get_safe_globals())


def permissions():
    """What the safe loader allows by now, whoever asked; PyTorch itself adds its own."""
    return {kind for kind in torch.serialization.get_safe_globals() if "torch" not in str(kind)}


def test_the_command_line_beside_the_published_weights_does_no_harm(tmp_path, model, classifier):
    args = argparse.Namespace(lr=5e-4, model="xcit_nano_12_p16", distillation=None, betas=[0.9, 0.999], cutmix=True)
    torch.save({"model": classifier, "args": args, "epoch": 399, "scaler": {"scale": 1.0}}, tmp_path / "weights.pth")
    before = permissions()
    report = load_weights(model, tmp_path / "weights.pth")
    assert torch.equal(model.pos_embeder.token_projection.bias, classifier["pos_embeder.token_projection.bias"])
    assert report.missing
    # The permission to read a Namespace ends with the reading.
    assert permissions() == before


def test_what_the_old_libraries_keep_beside_the_weights_does_no_harm(tmp_path, model, dense):
    meta = {"PALETTE": np.zeros((2, 3), np.uint8), "best": np.float32(0.5), "CLASSES": ("cat", "dog"), "seed": None}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}}
    content = {"state_dict": prefixed("backbone.", dense), "meta": meta, "amp": amp}
    torch.save(content, tmp_path / "weights.pth")
    before = permissions()
    assert len(load_weights(model, tmp_path / "weights.pth").matched) == len(dense)
    assert permissions() == before


def test_read_weights_gives_tensors_alone(tmp_path):
    torch.save({"model": {"a": torch.ones(2), "note": "text", 3: torch.ones(1)}, "epoch": 1}, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    assert list(weights) == ["a"]
    assert torch.equal(weights["a"], torch.ones(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_recognises_its_own_weights_and_its_neighbours(name):
    with torch.device("meta"):
        models = {other: XCiT(other) for other in ("nano_12_p16", "tiny_24_p8", name)}
    models[name].load_state_dict(models[name].state_dict())
    for other in models.keys() - {name}:
        with raises_user_error(f"is of XCiT {other}, the model of XCiT {name}"):
            models[name].load_state_dict(models[other].state_dict())
