"""A saved backbone is built again with the same arguments and the same values, from a directory, a file or the hub."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from tests.conftest import ROOT
from tests.helpers.hub import running_hub
from tests.helpers.models import raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import TokenPyramid, XCiT, deploy


def tiny_tokens(**changes):
    return randomise(
        TokenPyramid("beit_base_patch16_224", model_options={"embed_dim": 32, "depth": 4, "num_heads": 2}, **changes)
    )


BACKBONES = {
    "XCiT": lambda: tiny_xcit(),
    "XCiT with every argument": lambda: tiny_xcit(
        mlp_ratio=2.0,
        qkv_bias=False,
        eta=0.5,
        drop_rate=0.1,
        attn_drop_rate=0.2,
        drop_path_rate=0.3,
        out_strides=(8, 16, 64),
        out_indices=(0, 0, 2),
        in_channels=4,
        norm_cfg={"type": "BN", "eps": 1e-3},
        norm_eval=True,
        frozen_stages=1,
        with_cp=True,
    ),
    "a variant": lambda: XCiT("nano_12_p8", out_strides=(16,)),
    "CoaT": lambda: tiny_coat(out_strides=(8, 16), in_channels=2),
    "TokenPyramid": lambda: tiny_tokens(out_strides=(8, 16, 32), img_size=(64, 96), norm_cfg="BN"),
    "double": lambda: tiny_xcit().double(),
    "bfloat16": lambda: tiny_xcit().bfloat16(),
}


def check_equal(found, expected):
    """Checks that two backbones have the same arguments, and equal values in the same dtypes."""
    assert type(found) is type(expected)
    assert found.arguments == expected.arguments
    values = expected.state_dict()
    assert found.state_dict().keys() == values.keys()
    for name, value in found.state_dict().items():
        assert value.dtype == values[name].dtype, name
        assert torch.equal(value, values[name]), name
    assert [one.requires_grad for one in found.parameters()] == [one.requires_grad for one in expected.parameters()]


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_makes_the_round_trip_through_a_directory_and_through_its_file_alone(tmp_path, make):
    backbone = make()
    assert backbone.save_pretrained(tmp_path / "saved") is None
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    found = type(backbone).from_pretrained(tmp_path / "saved")
    check_equal(found, backbone)
    images = random_images(1, backbone.in_channels, 64, 64)
    with torch.no_grad():
        for one, other in zip(found.eval()(images), backbone.eval()(images)):
            assert torch.equal(one, other)
    alone = (tmp_path / "saved" / "model.safetensors").rename(tmp_path / "renamed.safetensors")
    check_equal(type(backbone).from_pretrained(alone).eval(), backbone)


def test_every_argument_of_a_backbone_is_saved():
    given = {"in_channels": np.int64(4), "out_indices": (np.int64(0), 1, 2, 3), "drop_rate": np.float32(0.5)}
    found = tiny_xcit(**given).arguments
    assert (found["in_channels"], found["out_indices"], found["drop_rate"]) == (4, [0, 1, 2, 3], 0.5)
    assert json.loads(json.dumps(found)) == found


def test_arguments_that_were_changed_later_are_saved_as_they_are(tmp_path):
    backbone = tiny_xcit(frozen_stages=2)
    backbone.unfreeze()
    backbone.set_grad_checkpointing()
    backbone.save_pretrained(tmp_path)
    found = XCiT.from_pretrained(tmp_path)
    assert (found.frozen_stages, found.with_cp) == (-1, True)


def test_options_replace_the_saved_arguments(tmp_path):
    backbone = randomise(XCiT(patch_size=8, embed_dim=16, depth=4, num_heads=2))
    backbone.save_pretrained(tmp_path)
    found = XCiT.from_pretrained(tmp_path, out_strides=(8, 16), in_channels=1, drop_path_rate=0.1)
    assert (found.out_strides, found.in_channels) == ((8, 16), 1)
    assert torch.equal(found.blocks[0].attn.qkv.weight, backbone.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_a_copy_can_be_saved(tmp_path, make):
    backbone = tiny_xcit(out_strides=(8, 16, 32), out_indices=(1, 2, 3))
    make(backbone).save_pretrained(tmp_path)
    check_equal(XCiT.from_pretrained(tmp_path), backbone)


def test_a_backbone_of_the_mm_libraries_is_saved_as_a_plain_one(tmp_path):
    mm = pytest.importorskip("xcit_dense.mm.backbone")
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
    backbone = randomise(mm.XCiT(**shape, init_cfg={"type": "Pretrained", "checkpoint": "gone.pth"}))
    backbone.save_pretrained(tmp_path)
    found = XCiT.from_pretrained(tmp_path)
    assert found.arguments == backbone.arguments == shape
    assert torch.equal(found.blocks[3].mlp.fc1.weight, backbone.blocks[3].mlp.fc1.weight)


def test_a_deployed_backbone_is_not_saved(tmp_path):
    backbone = deploy(tiny_xcit().eval())
    with raises_user_error("A deployed XCiT cannot be saved", "before deploy(model)"):
        backbone.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_backbone_with_replaced_layers_is_not_saved(tmp_path):
    backbone = tiny_xcit()
    backbone.blocks[1].mlp.fc1 = torch.nn.utils.parametrizations.weight_norm(backbone.blocks[1].mlp.fc1)
    with raises_user_error("has other layers than its arguments build", "blocks.1.mlp.fc1"):
        backbone.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_argument_that_json_does_not_have_is_refused(tmp_path):
    backbone = TokenPyramid(
        "vit_tiny_patch16_224", model_options={"embed_dim": 32, "depth": 4, "num_heads": 2, "act_layer": torch.nn.ReLU}
    )
    with raises_user_error("ReLU", "cannot be saved as JSON"):
        backbone.save_pretrained(tmp_path)


def test_a_saved_backbone_of_another_class_is_refused_with_its_class(tmp_path):
    tiny_coat().save_pretrained(tmp_path)
    with raises_user_error(tmp_path, "is a saved CoaT, not a XCiT; write CoaT.from_pretrained"):
        XCiT.from_pretrained(tmp_path)


def test_a_config_that_is_not_the_description_is_refused(tmp_path):
    tiny_xcit().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_heads": 2', '"num_heads": 4'))
    with raises_user_error(tmp_path / "config.json", "is not the description"):
        XCiT.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert XCiT.from_pretrained(tmp_path).blocks[0].attn.num_heads == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "install a later xcit_dense"),
        ({"format": None}, "damaged description"),
        ({"backbone": "XCiT"}, "damaged description"),
        ({"backbone": {"patch_size": 8}}, "damaged description"),
    ],
)
def test_a_description_of_another_format_is_refused(tmp_path, changes, expected):
    from safetensors.torch import save_file

    tiny_xcit().save_pretrained(tmp_path)
    description = {**json.loads((tmp_path / "config.json").read_text()), **changes}
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors", {"xcit_dense": json.dumps(description)})
    with raises_user_error(tmp_path / "other.safetensors", expected):
        XCiT.from_pretrained(tmp_path / "other.safetensors")


def test_the_model_card_tells_variant_data_metrics_and_licence(tmp_path):
    about = {"data": "own | images", "metrics": {"box AP": 41.5}, "license": "mit"}
    XCiT("nano_12_p8").save_pretrained(tmp_path, model_card_kwargs=about)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "xcit_dense")
    for words in ("XCiT nano_12_p8", "own \\| images", "box AP | 41.5", "Licence | mit", "XCiT.from_pretrained"):
        assert words in card.content
    with raises_user_error("no licence", "data, metrics and license"):
        XCiT("nano_12_p8").save_pretrained(tmp_path, model_card_kwargs={"licence": "mit"})


def test_the_model_card_names_the_published_weights_that_training_started_from(tmp_path, monkeypatch):
    from xcit_dense.weights import zoo

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / zoo.ZOO["nano_12_p8_224"].url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save({"model": XCiT("nano_12_p8").state_dict()}, path)
    XCiT.from_pretrained("xcit://nano_12_p8_224").save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    assert "`xcit://nano_12_p8_224`" in text
    assert "top-1 73.8 (ImageNet-1k)" in text


def test_the_file_contains_tensors_and_text_only(tmp_path):
    tiny_xcit().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        header = json.loads(file.metadata()["xcit_dense"])
    assert header == json.loads((tmp_path / "config.json").read_text())
    assert header["backbone"]["type"] == "XCiT"


def test_a_backbone_goes_to_the_hub_and_comes_back(tmp_path, python):
    program = """
from tests.helpers.models import tiny_xcit
from xcit_dense import XCiT
import torch

backbone = tiny_xcit(out_strides=(8, 16, 32), out_indices=(1, 2, 3))
print(backbone.push_to_hub("someone/tiny", model_card_kwargs={"data": "noise"}))
found = XCiT.from_pretrained("hf://someone/tiny@v1")
assert found.arguments == backbone.arguments
assert all(torch.equal(value, found.state_dict()[name]) for name, value in backbone.state_dict().items())
"""
    with running_hub() as hub:
        address = python("-c", program, cwd=ROOT, **hub.environment(tmp_path / "hf")).stdout.strip()
        assert address.startswith(f"{hub.address}/someone/tiny/commit/")
        files = {file for repository, file in hub.files if repository == "someone/tiny"}
        assert {"README.md", "config.json", "model.safetensors"} <= files
        assert not [file for file in files if file.endswith((".bin", ".pth", ".pkl"))]
        assert b"noise" in hub.files["someone/tiny", "README.md"]


def test_a_saved_backbone_is_converted_and_drawn_by_its_arguments(tmp_path):
    from xcit_dense.models.convert import convert_checkpoint
    from xcit_dense.visualization.features import load_backbone

    backbone = tiny_xcit(out_strides=(8, 16), out_indices=(0, 2), in_channels=3, eta=0.5)
    backbone.save_pretrained(tmp_path / "saved")
    report = convert_checkpoint(tmp_path / "saved", tmp_path / "a.safetensors")
    assert set(report.matched) == set(backbone.state_dict())
    loaded, random = load_backbone(tmp_path / "saved")
    assert (loaded.arguments, random) == (backbone.arguments, (False, False))
