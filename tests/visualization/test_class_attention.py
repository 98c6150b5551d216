"""The class attention of a classifier is drawn over the image, head by head."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="features are drawn with matplotlib")
from PIL import Image

from tests.helpers.models import raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import XCiT
from xcit_dense.cli.main import main
from xcit_dense.models.class_attention import ClassAttention
from xcit_dense.visualization.class_attention import ClassMaps, draw_class_attention, observe_class_attention


@pytest.fixture(scope="module")
def classifier():
    """Weights of a small classifier."""
    backbone, layers = tiny_xcit(), randomise(ClassAttention(16, num_heads=2))
    trunk = {name: value for name, value in backbone.state_dict().items() if not name.startswith("fpn")}
    return {"model": {**trunk, **layers.state_dict()}}


def test_the_maps_have_the_positions_of_the_tokens():
    backbone, layers, images = (
        tiny_xcit().eval(),
        randomise(ClassAttention(16, num_heads=2)),
        random_images(2, 3, 37, 53),
    )
    maps = observe_class_attention(backbone, layers, images)
    outputs = []
    backbone.blocks[-1].register_forward_hook(lambda block, inputs, output: outputs.append(output))
    backbone(images)
    weights = layers(outputs[0])
    assert maps.positions.shape == (2, 2, 2, 5, 7)
    torch.testing.assert_close(maps.positions[1, 0, 1, 3, 2], weights[1, 0, 1, 1 + 3 * 7 + 2])
    torch.testing.assert_close(maps.token, weights[..., 0])
    assert len(backbone.blocks[-1]._forward_hooks) == 1


def test_a_backbone_without_the_last_block_is_refused():
    layers = ClassAttention(16, num_heads=2)
    for backbone in (tiny_coat(), tiny_xcit(out_strides=(8,), out_indices=(1,))):
        with raises_user_error("last block of an XCiT"):
            observe_class_attention(backbone, layers, random_images(1, 3, 32, 32))


@pytest.mark.parametrize("heads", [1, 3, 5, 16])
def test_any_number_of_heads_is_drawn(tmp_path, heads):
    maps = ClassMaps(torch.rand(1, 2, heads, 2, 3), torch.rand(1, 2, heads))
    draw_class_attention(tmp_path / "a.png", Image.new("RGB", (48, 32)), maps, 16)
    Image.open(tmp_path / "a.png").load()


def test_positions_with_large_weights_are_bright(tmp_path):
    positions = torch.zeros(1, 1, 1, 4, 8)
    positions[..., 4:] = 1 / 16
    draw_class_attention(tmp_path / "a.png", Image.new("RGB", (64, 32)), ClassMaps(positions, torch.zeros(1, 1, 1)), 8)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L")).astype(int)
    middle = pixels[pixels.shape[0] * 2 // 3]
    left, right = (middle[int(middle.size * share)] for share in (0.6, 0.9))
    assert left < 20
    assert right > 120


def test_the_command_draws_the_class_attention_if_asked(classifier, tmp_path, capsys):
    torch.save(classifier, tmp_path / "w.pth")
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "photo.png")
    arguments = ["visualize", str(tmp_path / "w.pth"), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    main([*arguments, "--class-attention"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "photo_levels.png",
        "photo_block3.png",
        "photo_class_attention.png",
    }
    assert "photo_class_attention.png" in capsys.readouterr().out


def test_the_command_refuses_weights_without_class_attention(tmp_path):
    torch.save(XCiT("nano_12_p16").state_dict(), tmp_path / "dense.pth")
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    with pytest.raises(SystemExit, match=r"dense\.pth.*does not contain class attention"):
        main(["visualize", str(tmp_path / "dense.pth"), str(tmp_path / "photo.png"), "--out", "x", "--class-attention"])
