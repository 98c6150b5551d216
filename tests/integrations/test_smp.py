"""XCiT is an encoder of segmentation_models.pytorch."""

import pytest
import torch

pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models.pytorch is not installed")

import segmentation_models_pytorch as smp

from tests.helpers.models import raises_user_error
from xcit_dense import VARIANTS, XCiT, load_weights
from xcit_dense.integrations.smp import register_encoders

DECODERS = ["Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet", "Segformer", "MAnet"]
DECODERS += ["Linknet", "PAN"]


@pytest.fixture(autouse=True, scope="module")
def names():
    return register_encoders()


def test_fourteen_encoders_are_registered(names):
    assert names == [f"xcit_{variant}" for variant in VARIANTS]
    assert set(names) <= set(smp.encoders.get_encoder_names())


@pytest.mark.parametrize("variant", ["nano_12_p16", "nano_12_p8"])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_the_maps_have_the_strides_and_channels_of_the_contract(variant, depth):
    encoder = smp.encoders.get_encoder(f"xcit_{variant}", depth=depth, weights=None).eval()
    images = torch.rand(1, 3, 64, 96)
    maps = encoder(images)
    assert [tuple(one.shape) for one in maps] == [
        (1, channels, 64 // 2**step, 96 // 2**step) for step, channels in enumerate(encoder.out_channels)
    ]
    assert len(maps) == depth + 1
    assert torch.equal(maps[0], images)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("variant", ["nano_12_p16", "nano_12_p8"])
def test_an_output_stride_bounds_the_strides(variant, stride):
    encoder = smp.encoders.get_encoder(f"xcit_{variant}", weights=None, output_stride=stride).eval()
    maps = encoder(torch.rand(1, 3, 64, 64))
    assert [64 // one.shape[2] for one in maps] == [min(2**step, stride) for step in range(6)]


def test_the_levels_are_those_of_the_backbone(tmp_path):
    own = XCiT("nano_12_p16", norm_cfg="BN").eval()
    torch.save(own.state_dict(), tmp_path / "a.pth")
    encoder = smp.encoders.get_encoder("xcit_nano_12_p16", weights=None).eval()
    load_weights(encoder.backbone, tmp_path / "a.pth")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images)[2:], list(own(images)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_trains_each_part_of_the_encoder(decoder):
    model = getattr(smp, decoder)("xcit_nano_12_p16", encoder_weights=None, classes=3).train()
    output = model(torch.rand(2, 3, 128, 128))
    assert output.shape == (2, 3, 128, 128)
    output.square().mean().backward()
    blocks = model.encoder.backbone.blocks
    assert all(p.grad is not None for block in blocks for p in block.parameters())


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_another_number_of_channels(channels):
    model = smp.Unet("xcit_nano_12_p16", encoder_weights=None, classes=2, in_channels=channels).eval()
    assert model(torch.rand(1, channels, 64, 64)).shape == (1, 2, 64, 64)
    assert model.encoder.out_channels[0] == channels


def test_other_depths_are_refused():
    with raises_user_error("depth=1", "from 2 to 5"):
        smp.encoders.get_encoder("xcit_nano_12_p16", depth=1, weights=None)
