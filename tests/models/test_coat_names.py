"""Published weights of CoaT load under all of their names, and others are refused."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.helpers.models import assert_close, raises_user_error, random_images, randomise, tiny_coat
from tests.helpers.seeds import fill_tensor, read_names
from xcit_dense import CoaT, load_weights
from xcit_dense.models.coat_names import infer_options, own_name
from xcit_dense.models.convert import convert_checkpoint
from xcit_dense.variants import COAT_VARIANTS

KEYS = read_names("coat_keys")
FORMS = ("classifier", "dense")
WRAPPERS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 299},
    "state_dict": lambda state: {"state_dict": state, "meta": {}},
    "detector": lambda state: {
        "state_dict": {**{f"backbone.{name}": value for name, value in state.items()}, "rpn_head.bias": torch.ones(2)}
    },
    "distributed": lambda state: {f"module.{name}": value for name, value in state.items()},
}


def published(variant, form):
    """Makes the entries of a published file, with the values of the golden features."""
    first = {alias: name for name, aliases in KEYS[variant]["aliases"].items() for alias in aliases}
    shapes = KEYS[variant][form].items()
    return {name: fill_tensor(first.get(name, name), shape) for name, shape in shapes}


def with_aliases(model):
    """The state of a tiny CoaT under all names of the original code."""
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value
        part, _, rest = name.partition(".")
        level = part[-1]
        if part.startswith("cpe"):
            for number in range(model.serial_depths[int(level) - 1]):
                state[f"serial_blocks{level}.{number}.cpe.{rest}"] = value
        if part.startswith("crpe"):
            for number in range(model.serial_depths[int(level) - 1]):
                state[f"serial_blocks{level}.{number}.factoratt_crpe.crpe.{rest}"] = value
            for number in range(len(model.parallel_blocks) if level != "1" else 0):
                state[f"parallel_blocks.{number}.factoratt_crpe{level}.crpe.{rest}"] = value
        if ".mlp2." in name:
            state[name.replace(".mlp2.", ".mlp3.")] = state[name.replace(".mlp2.", ".mlp4.")] = value
    return state


# Published forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", COAT_VARIANTS)
def test_the_names_and_shapes_of_every_published_file_load(variant, form):
    state = {name: torch.empty(shape, device="meta") for name, shape in KEYS[variant][form].items()}
    assert infer_options(state) == {"variant": variant, "qkv_bias": True, "in_channels": 3}
    with torch.device("meta"):
        model = CoaT(variant)
    weights, report = model.translate(state)
    assert weights.keys() == model.state_dict().keys() == {*report.matched}
    assert {*report.left_out} == KEYS[variant]["classifier"].keys() - KEYS[variant]["dense"].keys() or form == "dense"
    assert report.missing == report.unexpected == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("form", FORMS)
def test_each_layout_of_a_file_gives_the_same_weights(form, wrapper, tmp_path):
    state = published("coat_tiny", form)
    torch.save(WRAPPERS[wrapper](state), tmp_path / "coat.pth")
    model = CoaT("coat_tiny")
    report = load_weights(model, tmp_path / "coat.pth")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert len(report.left_out) == (12 if form == "classifier" else 0)


def test_own_names_and_aliases_are_those_of_the_reference():
    for keys in KEYS.values():
        for first, aliases in keys["aliases"].items():
            assert {own_name(name) for name in [first, *aliases]} == {first}
        others = keys["dense"].keys() - {alias for aliases in keys["aliases"].values() for alias in aliases}
        assert all(own_name(name) == name for name in others)


def test_what_a_classifier_has_more_is_reported(caplog):
    caplog.set_level(logging.INFO)
    model = CoaT("coat_lite_tiny")
    model.load_state_dict(published("coat_lite_tiny", "classifier"))
    assert "148 entries of the backbone, 10 of the classifier left out" in caplog.text
    assert {name.partition(".")[0] for name in model.load_report.left_out} == {
        "norm1",
        "norm2",
        "norm3",
        "norm4",
        "head",
    }


# Aliases ------------------------------------------------------------------------------------------------------------


def test_a_file_with_all_aliases_loads():
    source, model = tiny_coat(), randomise(tiny_coat(), seed=1)
    state = {name: value.clone() for name, value in with_aliases(source).items()}
    assert len(state) > len(source.state_dict()) + 50
    model.load_state_dict(state)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("first", "alias"),
    [
        ("cpe2.proj.weight", "serial_blocks2.1.cpe.proj.weight"),
        ("crpe3.conv_list.1.bias", "parallel_blocks.1.factoratt_crpe3.crpe.conv_list.1.bias"),
        ("parallel_blocks.0.mlp2.fc1.bias", "parallel_blocks.0.mlp4.fc1.bias"),
    ],
)
def test_aliases_with_different_values_are_refused(first, alias):
    model = tiny_coat()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in with_aliases(tiny_coat()).items()}
    state[alias].view(-1)[0] += 1
    with raises_user_error(first, alias, "differ"):
        model.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_of_the_aliases_is_enough():
    source, model = tiny_coat(), randomise(tiny_coat(), seed=1)
    state = with_aliases(source)
    for name in ("cpe1.proj.weight", "parallel_blocks.0.mlp2.fc1.bias", "parallel_blocks.0.mlp3.fc1.bias"):
        del state[name]
    model.load_state_dict(state)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


# Refusals -----------------------------------------------------------------------------------------------------------


def changed(model, **changes):
    """The state of a model with some entries replaced, or removed if the new value is None."""
    state = {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra__weight": torch.ones(2)}, ["extra.weight is unknown"]),
        ({"cpe1__proj__bias": None}, ["cpe1.proj.bias is missing"]),
        ({"serial_blocks2__0__norm1__bias": None}, ["serial_blocks2.0.norm1.bias is missing"]),
        ({"patch_embed3__proj__weight": None}, ["only part of a CoaT", "patch_embed3.proj.weight"]),
        ({"patch_embed3__proj__weight": torch.tensor(1.0)}, ["damaged", "patch_embed3.proj.weight"]),
        ({"serial_blocks1__1__norm1__bias": torch.ones(8)}, ["serial_depths=(2, 2, 1, 1)"]),
        ({"serial_blocks1__9__norm1__bias": torch.ones(8)}, ["serial_blocks1.1 is missing"]),
        ({"cpe1__proj__weight": torch.ones(8, 1, 5, 5)}, ["(8, 1, 5, 5)", "(8, 1, 3, 3)"]),
        ({"cpe1__proj__bias": torch.ones(8, dtype=torch.int64)}, ["torch.int64"]),
        ({"cpe1__proj__bias": torch.ones(8).to_sparse()}, ["sparse"]),
        ({"cpe1__proj__bias": torch.empty(8, device="meta")}, ["no values"]),
        ({"cls_token1": None}, ["no CoaT weights", "'cls_token1'"]),
        ({"other__cls_token1": torch.ones(1, 1, 8)}, ["2 CoaTs"]),
    ],
)
def test_entries_that_do_not_fit_are_refused(changes, words):
    model = tiny_coat()
    with raises_user_error(*words):
        model.load_state_dict(changed(model, **changes))


def test_another_variant_is_refused_by_name():
    with torch.device("meta"):
        model, other = CoaT("coat_lite_mini"), CoaT("coat_lite_tiny")
    with raises_user_error("coat_lite_tiny", "coat_lite_mini"):
        model.load_state_dict(other.state_dict())


def test_an_incomplete_state_loads_if_it_is_not_strict():
    model = tiny_coat()
    randomise(other := tiny_coat(), seed=1)
    model.load_state_dict(changed(other, cpe1__proj__bias=None, extra=torch.ones(1)), strict=False)
    assert torch.equal(model.state_dict()["cpe2.proj.bias"], other.state_dict()["cpe2.proj.bias"])
    assert not torch.equal(model.state_dict()["cpe1.proj.bias"], other.state_dict()["cpe1.proj.bias"])
    model.load_state_dict({"head.weight": torch.ones(1)}, strict=False)


def test_a_larger_model_loads_the_backbone_under_its_prefix():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = tiny_coat()
            self.head = nn.Linear(2, 2)

    model = Detector()
    source = randomise(tiny_coat(), seed=1)
    state = {f"backbone.{name}": value for name, value in with_aliases(source).items()}
    model.load_state_dict({**state, "head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)})
    assert all(torch.equal(value, model.backbone.state_dict()[name]) for name, value in source.state_dict().items())
    with raises_user_error("nothing begins with 'backbone.'"):
        model.load_state_dict({"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)})


# Building from weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_from_pretrained_builds_the_shape_of_a_checkpoint(tmp_path, qkv_bias):
    source = tiny_coat(qkv_bias=qkv_bias, mlp_ratios=(3.3, 1.7, 1.7, 1.7)).eval()
    torch.save({"model": with_aliases(source)}, tmp_path / "coat.pth")
    model = CoaT.from_pretrained(tmp_path / "coat.pth", drop_path_rate=0.2).eval()
    images = random_images(1, 3, 64, 64)
    for level, expected in zip(model(images), source(images)):
        assert torch.equal(level, expected)


@pytest.mark.parametrize(("in_channels", "clause"), [(1, "summed for 1"), (6, "repeated and scaled for 6")])
def test_from_pretrained_adapts_the_stem_to_other_channels(tmp_path, in_channels, clause):
    source = tiny_coat().eval()
    torch.save(source.state_dict(), tmp_path / "coat.pth")
    model = CoaT.from_pretrained(tmp_path / "coat.pth", in_channels=in_channels).eval()
    assert clause in model.load_report.adapted
    grey = random_images(1, 1, 64, 64)
    for level, expected in zip(model(grey.expand(-1, in_channels, -1, -1)), source(grey.expand(-1, 3, -1, -1))):
        assert_close(level, expected)
    with raises_user_error("coat.pth", "(8, 3, 4, 4)"):
        load_weights(model, tmp_path / "coat.pth")
    load_weights(model, tmp_path / "coat.pth", adapt=True)


def test_a_tensor_that_claims_more_values_than_the_file_has_is_refused(tmp_path):
    state = tiny_coat().state_dict()
    state["serial_blocks4.0.mlp.fc1.weight"] = torch.ones(1).expand(10**7, 16)
    torch.save(state, tmp_path / "coat.pth")
    with raises_user_error("coat.pth", "serial_blocks4.0.mlp.fc1.weight", "fewer values"):
        CoaT.from_pretrained(tmp_path / "coat.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_conversion_writes_each_tensor_once(tmp_path, suffix):
    source = tiny_coat()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in with_aliases(source).items()}}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", tmp_path / f"b{suffix}")
    path = tmp_path / f"b{suffix}"
    written = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert written.keys() == source.state_dict().keys() == {*report.matched}
    model = CoaT.from_pretrained(path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_complete_conversion_keeps_the_heads(tmp_path):
    state = {**{f"backbone.{k}": v for k, v in with_aliases(tiny_coat()).items()}, "head.bias": torch.ones(2)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.safetensors", whole=True)
    assert report.others == ["head.bias"]
    assert {"head.bias", "backbone.cpe1.proj.weight"} <= load_file(tmp_path / "b.safetensors").keys()
