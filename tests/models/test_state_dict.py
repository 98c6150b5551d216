"""Entries of every published dialect are translated to the names of the backbone, and other entries are refused."""

import pytest
import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from tests.helpers.checkpoints import CLASSIFIER_DIALECTS, DIALECTS, FLAT, NAME, prefixed, state_of, timms
from tests.helpers.marks import MATRIX
from tests.helpers.models import assert_close, raises_user_error, random_images, randomise
from xcit_dense import VARIANTS, XCiT
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.pretrained import load_weights
from xcit_dense.models.state_dict import STEM, adapt_input, infer_options, translate
from xcit_dense.weights.read import read_weights


def test_the_random_classifier_has_only_names_of_the_published_classifiers(reference, dense, classifier):
    published = reference("checkpoint_keys")[NAME]
    assert {name: list(value.shape) for name, value in dense.items()} == published["dense"]
    assert {name: list(value.shape) for name, value in classifier.items()}.items() <= published["classifier"].items()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_load_state_dict_understands_every_dialect(model, check_loaded, content, dialect):
    before = state_of(model)
    result = model.load_state_dict(content(dialect))
    assert not result.missing_keys
    assert not result.unexpected_keys
    check_loaded(model, before, dialect in CLASSIFIER_DIALECTS)


@pytest.mark.parametrize("dialect", FLAT)
def test_a_model_that_contains_the_backbone_understands_every_dialect(model, check_loaded, content, dialect):
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
def test_the_weights_of_a_single_backbone_are_translated_for_a_backbone_in_a_model(model, content, classifier, dialect):
    weights, report = translate(content(dialect), "backbone.", model.state_dict())
    assert torch.equal(weights["blocks.3.gamma1"], classifier["blocks.3.gamma1"])
    assert report.missing


def test_loading_does_not_change_the_given_dictionary(model, classifier):
    given = timms(classifier)
    names = list(given)
    model.load_state_dict(given)
    assert list(given) == names


def tokens(x):
    return map_to_tokens(x) if x.ndim == 4 else x  # ours are maps, timm's are tokens


def block_features(model, image):
    """The outputs of each block for an image, in our XCiT or timm's XCiT."""
    features = []
    hooks = [block.register_forward_hook(lambda *call: features.append(tokens(call[2]))) for block in model.blocks]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return features


LARGE = ("small_24", "medium_24", "large_24")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MATRIX if name.startswith(LARGE) else []) for name in VARIANTS]
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
def test_every_published_name_and_shape_is_understood(reference, name):
    with torch.device("meta"):
        model = XCiT(name)
        for kind, published in reference("checkpoint_keys")[name].items():
            result = model.load_state_dict({key: torch.empty(shape) for key, shape in published.items()})
            assert not result.missing_keys, kind
            assert not result.unexpected_keys, kind


def test_weights_without_counters_load_with_the_version_that_promises_them(model, dense):
    state = XCiT(NAME).state_dict()  # carries the version
    for name in list(state):
        state[name] = dense[name]
        if name.endswith("num_batches_tracked"):
            del state[name]
    assert state._metadata["blocks.0.local_mp.bn"]["version"] >= 2
    model.load_state_dict(state)
    assert torch.equal(model.blocks[3].attn.qkv.weight, dense["blocks.3.attn.qkv.weight"])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_options_of_the_weights_of_a_variant_contain_its_name(tmp_path, name):
    with torch.device("meta"):
        shapes = XCiT(name).state_dict()
    # Each tensor has one value in memory, so its size does not matter.
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


@pytest.mark.parametrize("in_detector", [False, True], ids=["backbone", "detector"])
def test_loading_warns_if_the_pyramid_keeps_its_initial_values(model, dense, classifier, caplog, in_detector):
    loads, prefix = (nn.ModuleDict({"backbone": model}), "backbone.") if in_detector else (model, "")
    with caplog.at_level("INFO"):
        loads.load_state_dict(prefixed(prefix, classifier))
        loads.load_state_dict(prefixed(prefix, {**dense, "cls_token": torch.ones(1)}))
        loads.load_state_dict(prefixed(prefix, dense))
    (warning, info) = caplog.records
    assert warning.levelname == "WARNING"
    assert "of the pyramid not in the file, which stay as initialised" in warning.getMessage()
    assert info.levelname == "INFO"
    assert "1 of the classifier left out" in info.getMessage()


def test_weights_of_another_variant_are_refused_by_load_state_dict_too(model):
    before = state_of(model)
    other = XCiT("nano_12_p8").state_dict()
    with raises_user_error("is of XCiT nano_12_p8, the model of XCiT nano_12_p16"):
        model.load_state_dict(other)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


PARTIAL = {
    "without a block's gains": lambda dense: {k: v for k, v in dense.items() if "5.gamma" not in k},
    "without a block": lambda dense: {k: v for k, v in dense.items() if "blocks.5." not in k},
    "without the last block": lambda dense: {k: v for k, v in dense.items() if "blocks.11." not in k},
    "without half the pyramid": lambda dense: {k: v for k, v in dense.items() if "fpn2" not in k},
    "with an unknown name": lambda dense: {**dense, "blocks.5.attn.extra": torch.ones(3)},
    "of other heads": lambda dense: {**dense, "blocks.5.attn.temperature": torch.ones(8, 1, 1)},
    "only the stem": lambda dense: {k: v for k, v in dense.items() if k.startswith("patch_embed.")},
    "without the stem": lambda dense: {k: v for k, v in dense.items() if not k.startswith("patch_embed.")},
    "nothing": lambda dense: {},
}


@pytest.mark.parametrize("in_detector", [False, True], ids=["backbone", "detector"])
@pytest.mark.parametrize("part", PARTIAL)
def test_load_state_dict_refuses_entries_that_fit_in_part_and_does_not_change_the_backbone(
    model, dense, part, in_detector
):
    weights = PARTIAL[part](dense)
    loads = model
    if in_detector:
        loads = nn.ModuleDict({"backbone": model, "head": nn.Linear(2, 2)})
        weights = {**prefixed("backbone.", weights), **prefixed("head.", loads["head"].state_dict())}
    before = state_of(model)
    with raises_user_error("XCiT", NAME, "give "):
        loads.load_state_dict(weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("part", ["without a block's gains", "with an unknown name", "without half the pyramid"])
def test_load_state_dict_that_is_not_strict_reports_what_fits(model, dense, part):
    weights = PARTIAL[part](dense)
    result = model.load_state_dict(weights, strict=False)
    assert set(result.missing_keys) == set(dense) - set(weights)
    assert set(result.unexpected_keys) == set(weights) - set(dense)
    for name in set(weights) & set(dense):
        assert torch.equal(model.state_dict()[name], dense[name])
    assert set(model.load_report.matched) == set(weights) & set(dense)
    assert model.load_report.unexpected == result.unexpected_keys


def test_the_report_of_the_last_load_stays_on_the_model(model, dense, classifier):
    assert XCiT("nano_12_p16").load_report is None
    nn.ModuleDict({"backbone": model}).load_state_dict(prefixed("backbone.", classifier))
    assert {name for name in dense if name.startswith("fpn")} == set(model.load_report.missing)
    model.load_state_dict(dense)
    assert model.load_report.missing == []


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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "small_12_p16" else MATRIX) for name in VARIANTS]
)
def test_every_variant_recognises_its_own_weights_and_its_neighbours(name):
    with torch.device("meta"):
        models = {other: XCiT(other) for other in ("nano_12_p16", "tiny_24_p8", name)}
    models[name].load_state_dict(models[name].state_dict())
    for other in models.keys() - {name}:
        with raises_user_error(f"is of XCiT {other}, the model of XCiT {name}"):
            models[name].load_state_dict(models[other].state_dict())


# The stem for other channels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("in_channels", [1, 2, 4, 6, 13])
def test_the_stem_is_adapted_as_timm_adapts_it(in_channels, dtype):
    weight = torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    adapted, change = adapt_input({STEM: weight}, in_channels)
    assert torch.equal(adapted[STEM], adapt_input_conv(in_channels, weight))
    assert adapted[STEM].dtype == dtype
    assert f"for {in_channels}" in change


@pytest.mark.parametrize(("given", "wanted"), [(1, 4), (4, 3), (5, 7), (4, 1)])
def test_equal_channels_give_the_same_activations_after_the_adaptation(given, wanted):
    weight = torch.ones(16, 1, 3, 3) * torch.arange(16.0)[:, None, None, None]
    weight = weight.repeat(1, given, 1, 1)
    adapted, _ = adapt_input({STEM: weight}, wanted)
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = nn.functional.conv2d(image.repeat(1, given, 1, 1), weight)
    assert_close(nn.functional.conv2d(image.repeat(1, wanted, 1, 1), adapted[STEM]), before, 1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_stem_is_adapted_in_every_dialect(content, dialect):
    adapted, _ = adapt_input(content(dialect), 5)
    backbone = XCiT(NAME, in_channels=5)
    backbone.load_state_dict(adapted)
    assert_close(backbone.state_dict()[STEM][:, :2], backbone.state_dict()[STEM][:, 3:], 1e-6)


@pytest.mark.parametrize(
    "weights", [{STEM: torch.ones(16, 4, 3, 3)}, {"head.weight": torch.ones(3)}, {1: torch.ones(2)}]
)
def test_weights_with_these_channels_or_without_a_stem_are_returned_as_they_are(weights):
    assert adapt_input(weights, 4) == (weights, "")
    assert adapt_input(weights, 4)[0] is weights
