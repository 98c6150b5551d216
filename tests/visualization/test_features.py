"""Drawings of a backbone show the attention as the paper defines it, and the levels in the order of variance."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("matplotlib", reason="features are drawn with matplotlib")
from PIL import Image, ImageOps

from tests.helpers.models import raises_user_error, random_images, randomise, tiny_xcit
from xcit_dense import XCiT, deploy
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.visualization.features import (
    Attention,
    ImageError,
    draw_attention,
    draw_levels,
    load_backbone,
    observe,
    pca_colours,
    read_image,
    to_input,
    visualize,
)


@pytest.fixture(scope="module")
def backbone():
    return tiny_xcit().eval()


@pytest.fixture
def photo(tmp_path):
    """Writes an image of random colours."""

    def make(width=53, height=37, name="a.png", **options):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return make


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint."""

    def write(content):
        torch.save(content, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return write


def literal_attention(block, x):
    """A and |A v_n| by the definition, head by head. The input is the block's input map (1, C, h, w)."""
    xca = block.attn
    tokens = block.norm1(map_to_tokens(x))[0]  # (N, C)
    Q, K, V = F.linear(tokens, xca.qkv.weight, xca.qkv.bias).chunk(3, dim=1)
    matrices, responses = [], []
    for head, (q, k, v) in enumerate(zip(*(part.chunk(xca.num_heads, dim=1) for part in (Q, K, V)))):
        cosines = (q / q.norm(dim=0)).T @ (k / k.norm(dim=0))
        A = (xca.temperature[head] * cosines).softmax(dim=1)
        matrices.append(A)
        responses.append(torch.stack([(A @ one).norm() for one in v]))
    return torch.stack(matrices), torch.stack(responses).unflatten(1, x.shape[2:])


@pytest.mark.parametrize("form", ["literal", "covariance"])
def test_attention_equals_the_definition_for_the_input_of_the_block(form):
    model = tiny_xcit().double().eval()
    for block in model.blocks:
        block.attn.form = form
    inputs = {}
    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda _, args, number=number: inputs.update({number: args[0]}))
    x = random_images(1, 3, 37, 53).double()
    levels, observed = observe(model, x, (0, 2, -1))
    assert list(observed) == [0, 2, 3]
    for number, attention in observed.items():
        with torch.no_grad():
            A, responses = literal_attention(model.blocks[number], inputs[number])
        torch.testing.assert_close(attention.matrices[0], A)
        torch.testing.assert_close(attention.responses[0], responses)
        torch.testing.assert_close(attention.matrices.sum(dim=-1), torch.ones(1, 2, 8, dtype=torch.double))
        assert torch.equal(attention.temperatures, model.blocks[number].attn.temperature.flatten())
    with torch.no_grad():
        for got, expected in zip(levels, model(x), strict=True):
            torch.testing.assert_close(got, expected)


def test_attention_of_a_batch_equals_the_attention_of_each_image(backbone):
    x = random_images(2, 3, 24, 40)
    _, both = observe(backbone, x)
    for number in range(2):
        _, one = observe(backbone, x[number : number + 1])
        torch.testing.assert_close(both[3].matrices[number], one[3].matrices[0])
        torch.testing.assert_close(both[3].responses[number], one[3].responses[0])


def test_no_hooks_remain(backbone):
    observe(backbone, random_images(1, 3, 16, 16), (0, 1))
    with raises_user_error("images must be"):
        observe(backbone, random_images(1, 4, 16, 16))
    assert not [module for module in backbone.modules() if module._forward_pre_hooks]


def test_a_deployed_backbone_has_the_same_attention():
    model, x = tiny_xcit().eval(), random_images(1, 3, 32, 32)
    _, before = observe(model, x)
    _, after = observe(deploy(model), x)
    torch.testing.assert_close(after[3].matrices, before[3].matrices)


@pytest.mark.parametrize("block", [4, -5])
def test_a_missing_block_is_refused(backbone, block):
    with raises_user_error(f"no block {block}", "0 to 3"):
        observe(backbone, random_images(1, 3, 16, 16), (block,))


def test_colours_are_the_components_in_the_order_of_variance():
    """The map consists of three uncorrelated patterns, in orthogonal directions of twelve channels."""
    rows, columns = 16, 24
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    patterns = torch.stack(
        [
            (2 * math.pi * x / columns).sin(),
            (2 * math.pi * y / rows).sin(),
            (4 * math.pi * x / columns).sin(),
        ]
    )
    directions = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    peaks = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()[0]
    for order in ([0, 1, 2], [2, 0, 1]):
        strengths = torch.zeros(3).double()
        strengths[order] = torch.tensor([9.0, 3.0, 1.0]).double()
        features = torch.einsum("ck,khw->chw", directions * strengths, patterns) + 5
        colours = pca_colours(features)
        assert colours.shape == (rows, columns, 3)
        assert colours.min() == 0
        assert colours.max() == 1
        for channel, pattern in enumerate(order):
            signed = patterns[pattern] * peaks[pattern]
            fit = np.corrcoef(colours[..., channel].flatten(), signed.flatten())[0, 1]
            assert fit > 0.999


def test_colours_ignore_a_few_outliers():
    features = (
        torch.randn(6, 30, 30, generator=torch.Generator().manual_seed(0)) * torch.arange(6, 0, -1)[:, None, None]
    )
    far = features.clone()
    far[:, 0, 0] = 60
    assert pca_colours(far)[1:, 1:].std() > 0.5 * pca_colours(features)[1:, 1:].std()


@pytest.mark.parametrize("shape", [(8, 1, 1), (8, 1, 2), (2, 5, 5), (1, 3, 3)])
def test_components_without_variance_are_grey(shape):
    assert (pca_colours(torch.full(shape, 3.7)) == 0.5).all()
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    colours = pca_colours(features)
    rank = min(shape[0], shape[1] * shape[2] - 1)
    assert colours.isfinite().all()
    for channel in range(3):
        assert (colours[..., channel] == 0.5).all() == (channel >= rank)


def test_bfloat16_maps_have_the_same_colours():
    features = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pca_colours(features.bfloat16()), pca_colours(features), atol=0.05, rtol=0)


def test_an_image_keeps_its_size_up_to_a_limit(photo):
    assert read_image(photo()).size == (53, 37)
    assert read_image(photo(2048, 512)).size == (1024, 256)
    assert read_image(photo(), 106).size == (106, 74)
    assert read_image(photo(200, 1), 20).size == (20, 1)


def test_an_image_is_read_upright_and_in_rgb(photo, tmp_path):
    path = photo()
    turned = Image.open(path)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=turned.getexif())
    expected = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(read_image(tmp_path / "b.png"), expected)
    ImageOps.grayscale(expected).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"


def test_an_image_is_normalised_as_the_published_weights_expect():
    x = to_input(Image.new("RGB", (3, 2), (255, 0, 51)))
    assert x.shape == (1, 3, 2, 3)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(x[0, :, 1, 2], torch.tensor(expected))


def test_a_missing_or_unreadable_image_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"a\.png is not a readable image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"No image at .*gone\.png"):
        read_image(tmp_path / "gone.png")


def test_impossible_sizes_are_refused(photo):
    with raises_user_error("0 pixels", "1 or more"):
        read_image(photo(), 0)


@pytest.mark.parametrize("size", [(1, 1), (40, 3), (7, 90)])
@pytest.mark.parametrize("grey", [False, True])
def test_images_of_any_size_and_without_contrast_are_drawn(backbone, tmp_path, photo, size, grey):
    path = photo(*size)
    if grey:
        Image.new("L", size, 127).save(path)
    drawn = list(visualize(backbone, path, tmp_path / "out", blocks=(0, 3)))
    assert [one.name for one in drawn] == ["a_levels.png", "a_block0.png", "a_block3.png"]
    for one in drawn:
        Image.open(one).load()
    assert sorted(tmp_path.glob("out/*")) == sorted(drawn)


def test_nan_levels_are_refused(tmp_path, photo):
    model = tiny_xcit().eval()
    torch.nn.init.constant_(model.blocks[2].gamma1, math.nan)
    with raises_user_error("infinite or NaN"):
        list(visualize(model, photo(), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_levels_are_drawn_next_to_the_image_in_their_colours(tmp_path):
    """The level has two constant halves, left and right."""
    level = torch.zeros(4, 4, 8)
    level[1, :, 4:] = 1
    draw_levels(tmp_path / "a.png", Image.new("RGB", (64, 32), (0, 0, 255)), [level], [8])
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    width = pixels.shape[1]
    middle = pixels[pixels.shape[0] * 2 // 3]
    assert (middle[width // 4] == (0, 0, 255)).all()
    left, right = middle[int(width * 0.6)], middle[int(width * 0.9)]
    assert abs(left - (0, 128, 128)).max() <= 1
    assert abs(right - (255, 128, 128)).max() <= 1


@pytest.mark.parametrize("heads", [1, 3, 5, 16])
def test_any_number_of_heads_is_drawn(tmp_path, heads):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(1, heads, 4, 4, generator=generator).softmax(dim=-1)
    attention = Attention(A, torch.rand(1, heads, 2, 3, generator=generator), torch.ones(heads))
    draw_attention(tmp_path / "a.png", Image.new("RGB", (48, 32)), attention, "a title", 16)
    Image.open(tmp_path / "a.png").load()


def test_a_failed_write_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with raises_user_error("file/a.png", "cannot be written"):
        draw_levels(tmp_path / "file" / "a.png", Image.new("RGB", (8, 8)), [torch.zeros(3, 1, 1)], [8])


def test_the_levels_of_a_classifier_are_random_and_reproducible(save):
    model = randomise(XCiT("nano_12_p16"))
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("fpn")}
    path = save({"model": state})
    torch.manual_seed(1)
    (first, random), (second, _) = (load_backbone(path) for _ in range(2))
    after = torch.rand(1)
    assert random == (True, True, False, False)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not first.training
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_the_variant_is_inferred_or_checked(save):
    path = save(randomise(XCiT("nano_12_p16")).state_dict())
    backbone, random = load_backbone(path, "nano_12_p16")
    assert backbone.embed_dim == 128
    assert random == (False,) * 4
    with raises_user_error("w.pth", "nano_12_p16", "tiny_12_p16"):
        load_backbone(path, "tiny_12_p16")
