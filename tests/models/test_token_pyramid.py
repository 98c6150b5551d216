"""TokenPyramid: plain transformers of timm as backbones."""

import copy
import logging
import pickle

import pytest
import timm
import torch

from tests.helpers.marks import MATRIX
from tests.helpers.models import raises_user_error
from tests.helpers.seeds import (
    fill_model,
    fill_tensor,
    largest_error,
    largest_gradient_error,
    read_config,
    read_names,
    read_seed,
)
from xcit_dense import TokenPyramid, deploy, load_weights

THIN = {"depth": 4, "embed_dim": 32, "num_heads": 2}
ROTARY = {"depth": 4, "embed_dim": 48, "num_heads": 3}
FAMILIES = {
    "vit_tiny_patch16_224": THIN,
    "vit_small_patch8_224": THIN,
    "vit_base_patch16_siglip_224": THIN,
    "deit_tiny_distilled_patch16_224": THIN,
    "deit3_small_patch16_224": THIN,
    "vit_small_patch14_dinov2": THIN,
    "vit_small_patch14_reg4_dinov2": THIN,
    "vit_small_patch16_dinov3": THIN,
    "eva02_tiny_patch14_224": ROTARY,
    "samvit_base_patch16_224": {**THIN, "global_attn_indexes": [1, 3]},
    "beit_base_patch16_224": THIN,
    "beitv2_base_patch16_224": THIN,
    "cait_xxs24_224": THIN,
}
BEIT = "beit_base_patch16_224"


def make(variant=BEIT, **options):
    model_options = options.pop("model_options", FAMILIES.get(variant))
    return TokenPyramid(variant, **{"norm_cfg": "BN", "model_options": model_options, **options})


def original_name(name):
    return name.removeprefix("trunk.")


def make_original(features, **options):
    """Builds the BEiT of reference features."""
    config = read_config(features)
    shape = {key: config[key] for key in ("embed_dim", "depth", "num_heads")}
    return make(model_options=shape, out_indices=config["out_indices"], **options)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    return make(request.param, drop_path_rate=0.1)


def test_levels_of_any_image_size_round_up_to_tokens(family):
    size = family.patch_size
    with torch.no_grad():
        for height, width in ((70, 101), (1, 1), (48, 16)):
            levels = family.eval()(torch.rand(1, 3, height, width))
            rows, columns = -(-height // size) * size, -(-width // size) * size
            wanted = [(max(1, rows // stride), max(1, columns // stride)) for stride in family.out_strides]
            assert [tuple(level.shape[2:]) for level in levels] == wanted
            assert [level.shape[1] for level in levels] == list(family.out_channels)
            assert all(level.isfinite().all() for level in levels)


def test_each_parameter_gets_a_gradient(family):
    family.train().zero_grad()
    levels = family(torch.rand(2, 3, 70, 101))
    sum(level.square().mean() for level in levels).backward()
    assert [name for name, parameter in family.named_parameters() if parameter.grad is None] == []


def test_features_of_the_native_size_equal_those_of_timm(family):
    size = timm.get_pretrained_cfg(family.variant).input_size[-1]
    reference = timm.create_model(family.variant, **FAMILIES[family.variant]).eval()
    load_timm(family, reference)
    if reference.patch_embed.patch_size[0] != family.patch_size:
        assert "patches of 14 x 14 pixels resampled to 16 x 16" in family.load_report.adapted
        return
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        wanted = reference.forward_intermediates(images, list(family.out_indices), intermediates_only=True)
        levels = family.eval()(images)
        for name, tokens, level in zip(("fpn1", "fpn2", "fpn3", "fpn4"), wanted, levels):
            torch.testing.assert_close(family.get_submodule(name)(tokens), level, rtol=1e-4, atol=1e-5)


def load_timm(backbone, reference):
    backbone.load_state_dict(reference.state_dict())
    report = backbone.load_report
    assert not report.unexpected
    assert all(name.startswith("fpn") for name in report.missing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["beit_small_64x64", "beit_small_64x96_grad"])
def test_features_and_gradients_of_beit_equal_those_of_the_original(name, dtype):
    features, images = read_seed(name)
    model = make_original(features, img_size=tuple(images.shape[2:]))
    fill_model(model, original_name).to(dtype).eval()
    levels = model(images.to(dtype))
    assert largest_error(levels, features) < (1e-4 if dtype == torch.float32 else 1e-6)
    if name.endswith("_grad"):
        sum(level.square().mean() for level in levels).backward()
        assert largest_gradient_error(model, features, original_name) < 1e-4


@pytest.mark.parametrize("name", ["beit_small_64to80", "beit_small_shared_64to80"])
def test_tables_of_beit_are_resized_on_loading_as_the_authors_resize_them(name):
    features, images = read_seed(name)
    source = fill_model(make_original(features, img_size=64), original_name)
    weights = {original_name(key): value for key, value in source.state_dict().items()}
    if "shared" in name:
        tables = [key for key in weights if key.endswith("bias_table")]
        shared = "rel_pos_bias.relative_position_bias_table"
        weights[shared] = fill_tensor(shared, weights[tables[0]].shape)
        for table in tables:
            del weights[table]
    model = make_original(features, img_size=80).eval()
    model.load_state_dict({f"backbone.{key}": value for key, value in weights.items()})
    assert "of 4 x 4 tokens resized to 5 x 5" in model.load_report.adapted
    assert largest_error(model(images), features) < 1e-4
    assert largest_error(model.double()(images.double()), features) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["cait_xxs24_224_64x64", "cait_xxs24_224_64x96_grad"])
def test_features_and_gradients_of_cait_equal_those_of_the_original(name, dtype):
    features, images = read_seed(name)
    indices = features["out_indices"].tolist()
    model = TokenPyramid("cait_xxs24_224", img_size=images.shape[2:], out_indices=indices, norm_cfg="BN")
    fill_model(model, lambda key: original_name(key) if key.startswith("trunk.") else None).to(dtype).eval()
    for level in ("fpn1", "fpn2", "fpn3", "fpn4"):
        setattr(model, level, torch.nn.Identity())  # the reference has the outputs of the blocks
    maps = model(images.to(dtype))
    assert largest_error(maps, features) < (1e-4 if dtype == torch.float32 else 1e-6)
    if name.endswith("_grad"):
        sum(tokens.square().mean() for tokens in maps).backward()
        assert largest_gradient_error(model, features, original_name) < 1e-4


@pytest.mark.parametrize("variant", [BEIT, "cait_xxs24_224"])
def test_attention_in_parts_equals_attention_at_once(variant, monkeypatch):
    torch.manual_seed(0)
    model = make(variant, with_cp=variant == BEIT).eval()
    images = torch.rand(2, 3, 80, 112)

    def run():
        model.zero_grad()
        levels = model(images)
        sum(level.square().mean() for level in levels).backward()
        return [*levels, *(parameter.grad.clone() for parameter in model.parameters())]

    at_once = run()
    monkeypatch.setattr("xcit_dense.models.relative_position.LARGEST_MAP", 300)
    monkeypatch.setattr("xcit_dense.models.talking_heads.LARGEST_MAP", 300)
    for wanted, found in zip(at_once, run(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", [BEIT, "cait_xxs24_224", "vit_tiny_patch16_224"])
def test_recomputed_blocks_give_the_same_gradients(variant):
    torch.manual_seed(0)
    model = make(variant)
    again = copy.deepcopy(model)
    again.with_cp = True
    images = torch.rand(2, 3, 64, 80)
    for each in (model, again):
        sum(level.square().mean() for level in each(images)).backward()
    for (name, wanted), found in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_stages_freeze_from_the_embedding_on():
    model = make(frozen_stages=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("trunk.patch_embed", "trunk.cls_token")) for name in trained)
    assert any(name.startswith("trunk.blocks.0.") for name in trained)
    model.frozen_stages = 2
    model.train()
    assert not model.trunk.blocks[1].training
    assert model.trunk.blocks[2].training
    model.frozen_stages = -1
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("variant", ["vit_tiny_patch16_224", BEIT, "samvit_base_patch16_224"])
def test_the_depth_of_a_parameter_grows_from_the_embedding_to_the_pyramid(variant):
    model = make(variant)
    depths = [model.layer_of(name) for name, _ in model.named_parameters()]
    assert depths == sorted(depths)
    assert set(depths) == {0, 1, 2, 3, 4, 5}
    assert model.layer_of("trunk.blocks.3.norm1.weight") == 4


def test_blocks_after_the_last_level_are_left_out():
    shape = {"depth": 6, "embed_dim": 32, "num_heads": 2}
    model = make(out_indices=(0, 1, 2, 3), model_options=shape)
    assert len(model.list_blocks()) == 4
    model.load_state_dict(timm.create_model(BEIT, **shape).state_dict())
    assert "trunk.blocks.5.mlp.fc2.weight" in model.load_report.not_built


def test_the_names_of_the_authors_segmentors_and_of_mmsegmentation_load():
    torch.manual_seed(1)
    source = make()
    own = source.state_dict()
    authors = {f"backbone.{original_name(name)}": value for name, value in own.items()}
    authors |= {
        "decode_head.conv_seg.weight": torch.rand(2),
        "backbone.blocks.0.attn.relative_position_index": own["trunk.cls_token"],
    }
    mmseg = {}
    for name, value in authors.items():
        for mine, theirs in (
            ("patch_embed.proj.", "patch_embed.projection."),
            (".blocks.", ".layers."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
            ("backbone.fpn1.", "neck.upsample_4x."),
            ("backbone.fpn2.0.", "neck.upsample_2x."),
        ):
            name = name.replace(mine, theirs)
        mmseg[name] = value
    for weights in (own, authors, {"model": authors}, {"state_dict": mmseg}):
        model = make()
        model.load_state_dict(weights)
        assert not model.load_report.missing
        for name, value in model.state_dict().items():
            assert torch.equal(value, own[name]), name


@pytest.mark.parametrize(
    ("variant", "image", "grid"),
    [("vit_tiny_patch16_224", 96, 6), ("cait_xxs24_224", 96, 6), (BEIT, (64, 96), None)],
)
def test_positions_of_another_size_are_resized_on_loading(variant, image, grid):
    weights = timm.create_model(variant, **FAMILIES[variant]).state_dict()
    model = make(variant, img_size=image)
    model.load_state_dict(weights)
    wanted = "196 positions resampled to 36" if variant.startswith("cait") else "resized to 4 x 6"
    assert ("197 positions resampled to 37" if variant.startswith("vit") else wanted) in model.load_report.adapted


def published_names(file):
    """Lists the kinds of published files. Models with many parameters take long to build."""
    return [
        pytest.param(kind, marks=MATRIX if "large" in kind or "36" in kind or "48" in kind else ())
        for kind in read_names(file)
    ]


def translate_published(file, kind, wrap, **options):
    """Translates a file with the names and shapes of a published one. The values need no memory."""
    names = {name: torch.zeros(()).expand(shape) for name, shape in read_names(file)[kind].items()}
    with torch.device("meta"):
        model = TokenPyramid(norm_cfg="BN", **options)
    weights, report = model.translate(wrap(names))
    assert set(weights) == set(model.state_dict())
    assert not report.unexpected
    return report


@pytest.mark.parametrize("kind", published_names("beit_keys"))
def test_each_kind_of_published_file_of_beit_loads(kind):
    variant = f"beit_{'large' if 'large' in kind else 'base'}_patch16_224"
    report = translate_published("beit_keys", kind, lambda names: {"model": names}, variant=variant, img_size=512)
    has_pyramid = kind.startswith("segmentor")
    assert has_pyramid == (not report.missing)
    assert ("32 x 32" in report.adapted) == ("_512" not in kind)


@pytest.mark.parametrize("kind", published_names("cait_keys"))
def test_each_kind_of_published_file_of_cait_loads(kind):
    def wrap(names):
        return {"model": {f"module.{name}": value for name, value in names.items()}}

    report = translate_published("cait_keys", kind, wrap, variant=kind)
    assert any(name.startswith("trunk.blocks_token_only.") for name in report.left_out)
    assert not report.adapted


def test_the_first_parts_of_self_supervised_files_are_left_out():
    model = make()
    weights = {original_name(name): value for name, value in model.state_dict().items() if name.startswith("trunk.")}
    extra = ("mask_token", "norm.weight", "lm_head.weight", "cls_pt_layers.0.norm1.weight")
    model.load_state_dict(weights | {name: torch.rand(2) for name in extra})
    assert {original_name(name) for name in model.load_report.left_out} == set(extra)


def test_weights_that_do_not_fit_are_refused_and_change_nothing():
    model = make()
    before = copy.deepcopy(model.state_dict())
    good = timm.create_model(BEIT, **THIN).state_dict()
    with raises_user_error("2 blocks of 32 channels, but TokenPyramid beit_base_patch16_224 has 4 of 32"):
        model.load_state_dict(timm.create_model(BEIT, **{**THIN, "depth": 2}).state_dict())
    with raises_user_error("trunk.blocks.0.mystery is unknown"):
        model.load_state_dict({**good, "blocks.0.mystery": torch.rand(2)})
    with raises_user_error("trunk.blocks.1.attn.proj.bias has shape (7,), not (32,)"):
        model.load_state_dict({**good, "blocks.1.attn.proj.bias": torch.rand(7)})
    with raises_user_error("trunk.blocks.1.attn.relative_position_bias_table has shape (50, 2), not (732, 2)"):
        model.load_state_dict({**good, "blocks.1.attn.relative_position_bias_table": torch.rand(50, 2)})
    lacking = {name: value for name, value in good.items() if name != "blocks.2.gamma_1"}
    with raises_user_error("trunk.blocks.2.gamma_1 is missing"):
        model.load_state_dict(lacking)
    with raises_user_error("no plain transformer weights among the 1 entries (a ...)"):
        model.load_state_dict({"a": torch.rand(2)})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("vit_relpos_base_patch16_224", "its relative positions belong to one image size"),
        ("convit_base", "its gates of positions belong to one image size"),
        ("tnt_s_patch16_224", "it has two streams of tokens"),
        ("naflexvit_base_patch16_gap", "it takes packed patches"),
        ("vit_base_r50_s16_224", "a convolutional network makes its tokens"),
        ("vit_base_patch32_224", "it has patches of 32 x 32 pixels"),
        ("resnet50", "it is not a plain transformer"),
        ("xcit_nano_12_p16_224", "XCiT has a class of its own"),
        ("vit_base_patch16_22", "Did you mean 'vit_base_patch16_224'?"),
    ],
)
def test_other_models_are_refused_with_the_reason(variant, reason):
    with raises_user_error(reason):
        TokenPyramid(variant)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path_rate": 2}, "drop_path_rate=2 is not a probability"),
        ({"out_indices": (0, 1, 2, 4)}, "out_indices=(0, 1, 2, 4) must be a block out of 0..3"),
        ({"img_size": "640"}, "img_size='640' must be a side in pixels"),
        ({"in_channels": 0}, "in_channels=0 must be an integer of at least 1"),
        ({"frozen_stages": 5}, "frozen_stages=5 is out of range"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with raises_user_error(message):
        make(**options)


def test_images_with_other_numbers_of_channels_adapt_the_patch_embedding(tmp_path):
    torch.save(timm.create_model(BEIT, **THIN).state_dict(), tmp_path / "a.pth")
    model = make(in_channels=5)
    report = load_weights(model, tmp_path / "a.pth", adapt=True)
    assert "repeated and scaled for 5" in report.adapted
    assert model(torch.rand(1, 5, 32, 32))[0].shape == (1, 32, 8, 8)


def test_from_pretrained_finds_beit_and_cait_by_their_shapes(tmp_path):
    torch.save({"model": timm.create_model("cait_xxs24_224").state_dict()}, tmp_path / "cait.pth")
    assert TokenPyramid.from_pretrained(tmp_path / "cait.pth").variant == "cait_xxs24_224"
    torch.save(timm.create_model("vit_tiny_patch16_224", **THIN).state_dict(), tmp_path / "vit.pth")
    with raises_user_error("TokenPyramid needs timm's name of a model"):
        TokenPyramid.from_pretrained(tmp_path / "vit.pth")
    again = TokenPyramid.from_pretrained(tmp_path / "vit.pth", variant="vit_tiny_patch16_224", model_options=THIN)
    assert again.embed_dim == 32


def test_a_backbone_deploys_copies_and_pickles():
    torch.manual_seed(0)
    model = make().eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(images)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), deploy(copy.deepcopy(model))):
            for level, own in zip(other(images), wanted):
                torch.testing.assert_close(level, own, rtol=1e-4, atol=1e-5)
    with raises_user_error("A deployed TokenPyramid cannot train"):
        deploy(model).train()


def test_loading_says_what_it_changed(caplog):
    model = make("vit_small_patch14_dinov2")
    with caplog.at_level(logging.INFO):
        model.load_state_dict(timm.create_model("vit_small_patch14_dinov2", **THIN).state_dict())
    assert "patches of 14 x 14 pixels resampled to 16 x 16" in caplog.text
