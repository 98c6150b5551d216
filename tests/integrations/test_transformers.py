"""The models of transformers train on backbones of this package, and save and load them."""

import copy
import json

import pytest
import torch

pytest.importorskip("transformers", reason="install requirements/integrations.lock")

from safetensors.torch import load_file, save_file
from transformers import (
    AutoBackbone,
    AutoConfig,
    DetrConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from tests.helpers.models import raises_user_error, random_images, randomise
from xcit_dense import XCiT, load_weights
from xcit_dense.integrations.transformers import DenseBackbone, DenseBackboneConfig

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "out_indices": [0, 1, 2, 3]}
TINY_COAT = {"embed_dims": [8, 16, 16, 16], "serial_depths": [1, 2, 1, 1], "parallel_depth": 2, "mlp_ratios": [2] * 4}
TINY_BEIT = {"img_size": 32, "model_options": {"embed_dim": 16, "depth": 4, "num_heads": 2}}
BACKBONES = {
    "XCiT": {"options": TINY},
    "CoaT": {"options": TINY_COAT},
    "TokenPyramid": {"variant": "beit_base_patch16_224", "options": TINY_BEIT},
}
WIDTHS = {"hidden_size": 16, "pool_scales": [1, 2], "auxiliary_channels": 8}

every_backbone = pytest.mark.parametrize("kind", BACKBONES)


def config_of(kind="XCiT", **changes):
    return DenseBackboneConfig(backbone=kind, **{**BACKBONES[kind], **changes})


def make_upernet(backbone):
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, num_labels=3, auxiliary_in_channels=16, **WIDTHS)
    )


def make_maskformer(backbone):
    decoder = DetrConfig(
        num_queries=5, d_model=16, decoder_layers=1, decoder_ffn_dim=16, encoder_layers=1, encoder_ffn_dim=16
    )
    return MaskFormerForInstanceSegmentation(
        MaskFormerConfig(
            backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=16, num_labels=3
        )
    )


def make_mask2former(backbone):
    widths = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone,
            **widths,
            encoder_feedforward_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=4,
            num_queries=5,
            num_labels=3,
            train_num_points=64,
        )
    )


MODELS = {"upernet": make_upernet, "maskformer": make_maskformer, "mask2former": make_mask2former}
every_model = pytest.mark.parametrize("model", MODELS)


def targets_of(model, size):
    """The ground truth of two images of two classes, as each model takes it."""
    if model == "upernet":
        return {"labels": torch.randint(0, 3, (2, *size))}
    masks = torch.zeros(2, *size)
    masks[0, :10], masks[1, 10:] = 1, 1
    return {"mask_labels": [masks, masks], "class_labels": [torch.tensor([0, 2])] * 2}


def backbone_of(network):
    (backbone,) = (module for module in network.modules() if isinstance(module, DenseBackbone))
    return backbone


def content_of(network):
    """What the config of the backbone contains, without the dtype of the weights in the file and their path."""
    content = backbone_of(network).config.to_dict()
    return {key: value for key, value in content.items() if key not in ("dtype", "architectures", "_name_or_path")}


def same_state(a, b):
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in a.state_dict().items()
    )


@every_model
@every_backbone
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_trains_each_part_of_the_backbone(model, kind):
    torch.manual_seed(0)
    network = MODELS[model](config_of(kind)).train()
    body = backbone_of(network).body
    (first, *_), before = body.parameters(), next(body.parameters()).detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(random_images(2, 3, 64, 96), **targets_of(model, (64, 96))).loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in body.parameters())
    optimizer.step()
    assert not torch.equal(first, before)


@every_model
@every_backbone
def test_a_saved_model_is_equal_to_the_bit(model, kind, tmp_path):
    network = MODELS[model](config_of(kind)).eval()
    randomise(backbone_of(network).body)
    network.save_pretrained(tmp_path)
    # The memory of a file is not aligned, and products round by the alignment. A copy is aligned.
    loaded = copy.deepcopy(type(network).from_pretrained(tmp_path)).eval()
    assert same_state(loaded, network)
    assert content_of(loaded) == content_of(network)
    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = network(images), loaded(images)
    assert all(torch.equal(found[key], expected[key]) for key in expected if isinstance(expected[key], torch.Tensor))


@every_backbone
def test_a_saved_backbone_is_equal_to_the_bit(kind, tmp_path):
    config = config_of(kind, out_features=["stage2", "stage4"])
    config.options = {**config.options, "out_indices": [1, 3]} if kind == "XCiT" else config.options
    backbone = AutoBackbone.from_config(config).eval()
    randomise(backbone.body)
    backbone.save_pretrained(tmp_path)
    loaded = copy.deepcopy(DenseBackbone.from_pretrained(tmp_path))
    assert same_state(loaded, backbone)
    assert type(AutoConfig.from_pretrained(tmp_path)) is DenseBackboneConfig
    assert content_of(loaded) == content_of(backbone)
    images = random_images(1, 3, 40, 56)
    for got, expected in zip(loaded(images).feature_maps, backbone(images).feature_maps, strict=True):
        assert torch.equal(got, expected)


def test_half_precision_is_saved_and_loaded(tmp_path):
    backbone = DenseBackbone(config_of()).to(torch.bfloat16)
    backbone.save_pretrained(tmp_path)
    assert same_state(DenseBackbone.from_pretrained(tmp_path), backbone)


@every_backbone
def test_weights_that_a_file_lacks_have_the_values_of_a_new_backbone(kind, tmp_path):
    backbone = DenseBackbone(config_of(kind))
    backbone.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    first = next(name for name in weights if name.endswith(("gamma1", "cls_token1", "cls_token")))
    lacking = [name for name in weights if name.startswith("body.patch_embed.") or name == first]
    lacking += [name for name in weights if "running_var" in name]
    save_file({name: value for name, value in weights.items() if name not in lacking}, file, {"format": "pt"})
    torch.manual_seed(0)
    loaded = DenseBackbone.from_pretrained(tmp_path).state_dict()
    torch.manual_seed(0)
    fresh = DenseBackbone(config_of(kind)).state_dict()
    assert lacking
    for name, value in loaded.items():
        assert torch.equal(value, (fresh if name in lacking else backbone.state_dict())[name]), name


def test_a_new_backbone_has_the_initial_weights_of_its_class():
    torch.manual_seed(0)
    own = XCiT(**TINY)
    torch.manual_seed(0)
    assert same_state(DenseBackbone(config_of()).body, own)
    torch.manual_seed(0)
    assert same_state(backbone_of(make_upernet(config_of())).body, own)


def test_published_names_load_into_the_body_and_saved_models_load_into_a_backbone(tmp_path):
    own = randomise(XCiT(**TINY))
    torch.save(own.state_dict(), tmp_path / "weights.pth")
    network = make_upernet(config_of())
    load_weights(network.backbone.body, tmp_path / "weights.pth")
    assert same_state(network.backbone.body, own)
    network.save_pretrained(tmp_path)
    other = XCiT(**TINY)
    load_weights(other, tmp_path / "model.safetensors")
    assert same_state(other, own)


@pytest.mark.parametrize(
    ("given", "strides"),
    [
        ({}, [4, 8, 16, 32]),
        ({"out_features": ["stage1", "stage3"]}, [4, 16]),
        ({"out_indices": [1, 3]}, [8, 32]),
        ({"out_indices": [-1]}, [32]),
    ],
    ids=str,
)
def test_names_and_numbers_choose_the_levels(given, strides):
    config = DenseBackboneConfig(options={**TINY, "out_indices": [3] * len(strides)}, **given)
    backbone = DenseBackbone(config).eval()
    maps = backbone(torch.rand(1, 3, 64, 128)).feature_maps
    assert [tuple(one.shape) for one in maps] == [(1, 16, 64 // stride, 128 // stride) for stride in strides]
    assert backbone.channels == [16] * len(strides)
    assert len(backbone.out_features) == len(backbone.out_indices) == len(strides)
    assert not set(backbone.body.out_strides) ^ set(strides)


def test_channels_are_those_of_each_level():
    backbone = DenseBackbone(config_of("CoaT"))
    assert backbone.channels == [8, 16, 16, 16]
    assert DenseBackbone(config_of("CoaT", out_indices=[0])).channels == [8]


def test_all_built_levels_are_hidden_states_and_a_tuple_is_possible():
    backbone = DenseBackbone(config_of()).eval()
    images = random_images(1, 3, 64, 64)
    assert backbone(images).hidden_states is None
    backbone.out_features = ["stage2"]
    output = backbone(images, output_hidden_states=True)
    assert len(output.hidden_states) == len(backbone.stage_names) == 4
    assert torch.equal(output.feature_maps[0], output.hidden_states[1])
    (maps,) = backbone(images, return_dict=False)
    assert torch.equal(maps[0], output.feature_maps[0])
    assert len(backbone.forward_with_filtered_kwargs(images, output_attentions=True).feature_maps) == 1


def test_activation_checkpointing_recomputes_blocks_and_keeps_gradients():
    network, images = DenseBackbone(config_of()).train(), random_images(2, 3, 64, 64)

    def gradients():
        network.zero_grad()
        sum(one.square().mean() for one in network(images).feature_maps).backward()
        return [value.grad.clone() for value in network.body.parameters()]

    network.body.norm_eval = True
    expected = gradients()
    network.activation_checkpointing_enable()
    assert network.body.with_cp
    torch.testing.assert_close(gradients(), expected)
    network.activation_checkpointing_disable()
    assert not network.body.with_cp


def test_the_config_is_plain_json(tmp_path):
    config = config_of(out_features=["stage2"])
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"] == "xcit_dense"
    assert content["out_features"] == ["stage2"]
    assert content["options"] == TINY


def test_impossible_configs_are_refused():
    with raises_user_error("'Xcit'", "XCiT"):
        DenseBackboneConfig(backbone="Xcit")
    with raises_user_error("out_strides", "out_features"):
        DenseBackboneConfig(options={"out_strides": [8]})
    backbone = DenseBackbone(DenseBackboneConfig(options={**TINY, "out_indices": [3]}, out_features=["stage2"]))
    backbone.out_features = ["stage3"]
    with raises_user_error("stage3 was not built", "stage2"):
        backbone(torch.rand(1, 3, 32, 32))
