"""Hostile or broken input to the backbone and its loaders gives a correct result or one clear error."""

import copy
import os
import pickle
import zipfile
from inspect import signature

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.helpers.models import raises_user_error, random_images, tiny_xcit
from xcit_dense import XCiT, deploy
from xcit_dense.errors import UserError
from xcit_dense.models.pretrained import load_weights
from xcit_dense.models.pyramid import MaxPool

SIDES = st.one_of(st.integers(1, 40), st.integers(1, 300))
SIZES = st.one_of(
    st.tuples(SIDES, SIDES),
    st.tuples(st.integers(1, 3000), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 3000)),
)
PATCHES = st.sampled_from([8, 16])
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NOT_FLOATS = (torch.uint8, torch.int64, torch.bool, torch.complex64)


@pytest.fixture(scope="module")
def models():
    """A small backbone for each patch size, in double precision: its usual form, and other forms that must agree."""

    def forms(patch_size):
        usual = tiny_xcit(patch_size=patch_size).double().eval()
        made = {"usual": usual, "deployed": deploy(copy.deepcopy(usual))}
        for form in ("literal", "covariance"):
            made[form] = copy.deepcopy(usual)
            for block in made[form].blocks:
                block.attn.form = form
        return made

    return {patch_size: forms(patch_size) for patch_size in (8, 16)}


def draw(*shape):
    """Makes images of double precision. The same shape gives the same images."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).double()


def level_sizes(patch_size, size):
    """Height and width of each level, as :class:`XCiT` documents them."""
    tokens = [-(-side // patch_size) for side in size]
    return [tuple(max(1, n * patch_size // stride) for n in tokens) for stride in XCiT.out_strides]


# Images -------------------------------------------------------------------------------------------------------------


@given(size=SIZES, patch_size=PATCHES, batch=st.integers(0, 3))
@example(size=(1, 1), patch_size=8, batch=1)
@example(size=(1, 1), patch_size=16, batch=2)
@example(size=(3000, 40), patch_size=8, batch=1)
@example(size=(40, 3000), patch_size=16, batch=1)
@torch.no_grad()
def test_images_of_any_size_give_levels_of_the_documented_sizes(models, size, patch_size, batch):
    levels = models[patch_size]["usual"](draw(batch, 3, *size))
    assert [tuple(level.shape) for level in levels] == [(batch, 16, *level) for level in level_sizes(patch_size, size)]
    assert all(level.isfinite().all() for level in levels)


@given(size=SIZES, patch_size=PATCHES, batch=st.integers(0, 2), gradients=st.booleans())
@example(size=(1, 1), patch_size=16, batch=1, gradients=True)
@example(size=(3000, 40), patch_size=8, batch=1, gradients=False)
def test_all_forms_agree_at_any_size(models, size, patch_size, batch, gradients):
    with torch.set_grad_enabled(gradients):
        images = draw(batch, 3, *size).requires_grad_(gradients)
        expected, *others = (model(images) for model in models[patch_size].values())
    for levels in others:
        for got, wanted in zip(levels, expected):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


@given(size=SIZES, patch_size=PATCHES, training=st.booleans(), form=st.sampled_from(["usual", "literal", "covariance"]))
@example(size=(1, 1), patch_size=16, training=False, form="covariance")
@example(size=(1, 40), patch_size=8, training=True, form="usual")
def test_gradients_are_the_slope_of_the_loss_at_any_size(models, size, patch_size, training, form):
    model = copy.deepcopy(models[patch_size][form]).train(training)
    images = draw(3, 3, *size).requires_grad_()
    leaves = [images, *model.parameters()]

    def loss():
        return sum(level.square().mean() for level in model(images))

    directions = [draw(*leaf.shape) if leaf.ndim else draw(1)[0] for leaf in leaves]
    slope = sum((g * d).sum() for g, d in zip(torch.autograd.grad(loss(), leaves), directions)).item()
    maxima = record_maxima(model)
    step, ends = 1e-8, []  # a longer step is not precise, because batch norms of few tokens are strongly curved
    with torch.no_grad():
        for factor in (step, -2 * step):
            for leaf, direction in zip(leaves, directions):
                leaf += factor * direction
            ends.append(loss().item())
    # The loss does not have a slope where two values of a pooling window are equal.
    after, before = maxima[: len(maxima) // 2], maxima[len(maxima) // 2 :]
    assume(all(map(torch.equal, after, before)))
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-5)


def record_maxima(model):
    """Lets a model record, at each call, which position of each window its max pools take."""
    recorded = []

    def record(pool, args, output):
        (x,) = args
        kernel = [min(pool.factor, side) for side in x.shape[2:]]
        recorded.append(F.max_pool2d(x, kernel, return_indices=True)[1])

    for module in model.modules():
        if isinstance(module, MaxPool):
            module.register_forward_hook(record)
    return recorded


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other row and column": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, ::2, ::2],
    "columns first": lambda x: x.mT.contiguous().mT,
    "a part of a larger batch": lambda x: torch.cat((x, x), 1).repeat(2, 1, 1, 1)[: len(x), : x.shape[1]],
    "mirrored in memory": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "not at the start of its memory": lambda x: torch.cat((x.new_ones(1), x.flatten()))[1:].view_as(x),
    "a gradient wanted": lambda x: x.clone().requires_grad_(),
}


@given(size=SIZES, patch_size=PATCHES, layout=st.sampled_from(sorted(LAYOUTS)), batch=st.integers(1, 3))
@example(size=(1, 1), patch_size=8, layout="channels last", batch=1)
def test_the_memory_layout_of_images_does_not_matter(models, size, patch_size, layout, batch):
    model, images = models[patch_size]["usual"], draw(batch, 3, *size)
    other = LAYOUTS[layout](images)
    assert torch.equal(other, images)
    for got, wanted in zip(model(other), model(images)):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@given(size=SIZES, patch_size=PATCHES)
def test_images_expanded_from_one_value_give_the_levels_of_contiguous_images(models, size, patch_size):
    model, value = models[patch_size]["usual"], draw(1, 1, 1, 1)
    images = value.expand(2, 3, *size)
    for got, wanted in zip(model(images), model(images.clone())):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@given(channels=st.integers(0, 8), in_channels=st.sampled_from([1, 3, 4]), size=SIZES)
@torch.no_grad()
def test_images_are_refused_unless_they_have_the_right_number_of_channels(channels, in_channels, size):
    model, images = tiny_xcit(in_channels=in_channels).double().eval(), draw(1, channels, *size)
    if channels == in_channels:
        assert all(level.isfinite().all() for level in model(images))
    else:
        with pytest.raises(UserError, match=rf"\(B, {in_channels}, H, W\), got \(1, {channels}, "):
            model(images)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("of_images", FLOATS, ids=str)
@pytest.mark.parametrize("of_weights", FLOATS, ids=str)
def test_images_are_converted_to_the_dtype_of_the_weights(of_weights, of_images, gradients):
    model, batch = tiny_xcit().eval(), random_images(2, 3, 40, 56).to(of_images)
    expected = copy.deepcopy(model).double()(batch.double())
    with torch.set_grad_enabled(gradients):
        levels = model.to(of_weights)(batch)
    precision = torch.finfo(of_weights).eps
    for level, wanted in zip(levels, expected):
        assert level.dtype == of_weights
        assert (level.double() - wanted).norm() < 30 * precision * wanted.norm()


@pytest.mark.parametrize("dtype", NOT_FLOATS, ids=str)
def test_images_of_integers_are_refused(dtype):
    with raises_user_error(f"images are {dtype}", "normalise", "images.float()"):
        tiny_xcit()(torch.ones(2, 3, 32, 40, dtype=dtype))


@pytest.mark.parametrize("size", [(0, 40), (32, 0), (0, 0)])
def test_images_without_pixels_are_refused(size):
    with raises_user_error(f"got (1, 3, {size[0]}, {size[1]})", "do not have pixels"):
        tiny_xcit().eval()(torch.ones(1, 3, *size))


def test_an_empty_batch_in_training_gives_empty_levels_and_does_not_change_the_statistics():
    model = tiny_xcit().train()
    before = copy.deepcopy(model.state_dict())
    levels = model(torch.ones(0, 3, 32, 40))
    assert [tuple(level.shape) for level in levels] == [(0, 16, *size) for size in level_sizes(8, (32, 40))]
    sum(level.sum() for level in levels).backward()
    for name, value in model.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, before[name]), name
    assert all(not p.grad.any() for p in model.parameters())


def test_a_single_token_trains_unless_batch_norm_needs_more():
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        tiny_xcit().train()(random_images(1, 3, 8, 8))
    levels = tiny_xcit(norm_eval=True).train()(random_images(1, 3, 8, 8))
    assert all(level.isfinite().all() for level in levels)


@pytest.mark.parametrize("images", ["text", None, [torch.ones(3, 32, 40)], np.ones((1, 3, 32, 40))], ids=type)
def test_an_input_that_is_not_a_tensor_is_refused(images):
    with raises_user_error("(B, 3, H, W)", type(images).__name__, "torch.stack"):
        tiny_xcit()(images)


# Values -------------------------------------------------------------------------------------------------------------


@given(
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    size=SIZES,
    patch_size=PATCHES,
    form=st.sampled_from(["usual", "literal", "covariance", "deployed"]),
    place=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    gradients=st.booleans(),
)
def test_a_nan_pixel_changes_only_its_own_image(models, value, size, patch_size, form, place, gradients):
    model, clean = models[patch_size][form], draw(3, 3, *size)
    spoilt = clean.clone()
    spoilt[(1, *(int(part * n) for part, n in zip(place, (3, *size))))] = value
    with torch.set_grad_enabled(gradients):
        results = zip(model(spoilt), model(clean))
    for got, wanted in results:
        assert torch.equal(got[[0, 2]], wanted[[0, 2]])
        assert got[1].isnan().all()  # every token sees all tokens of its image, so every token becomes NaN


@given(value=st.floats(-1e4, 1e4, width=32), size=SIZES, patch_size=PATCHES, dtype=st.sampled_from(FLOATS[:2]))
@example(value=0.0, size=(1, 1), patch_size=16, dtype=torch.float32)
@torch.no_grad()
def test_constant_images_give_finite_levels(models, value, size, patch_size, dtype):
    model = copy.deepcopy(models[patch_size]["usual"]).to(dtype)
    images = torch.full((1, 3, *size), value, dtype=dtype)
    for got, wanted in zip(model(images), models[patch_size]["literal"](images.double())):
        assert got.isfinite().all()
        assert (got - wanted).norm() <= 1e-3 * wanted.norm()


# Options ------------------------------------------------------------------------------------------------------------

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(allow_nan=True, allow_infinity=True, width=16),
    st.sampled_from(["", "abc", "8", "0.1", "BN", "nano_12_p8", "nano_12_p9"]),
    st.lists(st.one_of(st.integers(-2, 5), st.text("0a", max_size=1), st.floats(0, 4)), max_size=5),
    st.dictionaries(st.sampled_from(["type", "eps"]), st.sampled_from(["BN", "GN", 1e-5, None]), max_size=2),
)
OPTIONS = sorted(set(signature(XCiT).parameters) - {"qkv_bias", "norm_eval", "with_cp"})


@given(st.dictionaries(st.sampled_from(OPTIONS), ANYTHING, min_size=1, max_size=2))
@example({"patch_size": 7})
@example({"depth": "4"})
@example({"embed_dim": 16.0})
@example({"out_indices": 3})
@example({"out_indices": (0, 1, 2, "3")})
@example({"drop_path_rate": "0.1"})
@example({"mlp_ratio": float("nan")})
@example({"mlp_ratio": float("inf")})
@example({"mlp_ratio": 0.01})
@example({"eta": "1"})
@example({"norm_cfg": {"type": "BN", "momentun": 0.1}})
@example({"norm_cfg": {"type": "BN", "eps": "1e-5"}})
@example({"norm_cfg": None})
@example({"in_channels": 3.0})
@example({"frozen_stages": "0"})
@example({"variant": 5})
def test_options_of_any_kind_build_a_backbone_that_runs_or_are_refused_in_one_sentence(options):
    try:
        with torch.device("meta"):
            model = XCiT(**{**TINY, **options})
    except UserError as error:
        text = str(error)
    else:
        images = torch.zeros(2, model.in_channels, 32, 32, device="meta")
        assert [level.shape[2] for level in model(images)] == [8, 4, 2, 1]
        return
    assert "\n" not in text
    assert any(name in text for name in (*options, "XCiT", "norm layer"))


# Checkpoints --------------------------------------------------------------------------------------------------------


def saved(weights, path, layout):
    if layout == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=layout == "zip")
    return path


LAYOUT_FILES = {"zip": "weights.pth", "legacy": "weights.pth", "safetensors": "weights.safetensors"}


@pytest.fixture(scope="module")
def weights():
    """Weights of a small backbone."""
    return dict(tiny_xcit().state_dict())


@pytest.fixture(scope="module")
def intact_files(weights, tmp_path_factory):
    """The bytes of an intact checkpoint in each layout."""
    folder = tmp_path_factory.mktemp("intact")
    return {layout: saved(weights, folder / name, layout).read_bytes() for layout, name in LAYOUT_FILES.items()}


@pytest.fixture(scope="module")
def read_or_refused(tmp_path_factory):
    """Loads a file in both public ways. Returns the outcomes: None, or the one sentence that refuses the file."""
    folder = tmp_path_factory.mktemp("broken")
    model = tiny_xcit()

    def load(content, name="weights.pth"):
        path = folder / name
        path.write_bytes(content)
        outcomes = set()
        for way in (XCiT.from_pretrained, lambda path: load_weights(model, path)):
            before = copy.deepcopy(model.state_dict())
            try:
                way(path)
                outcomes.add(None)
            except UserError as error:
                text = str(error)
                assert text.startswith(str(path))
                assert ";" in text  # what is wrong; what to do
                assert "\n" not in text
                assert "weights_only" not in text
                assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
                outcomes.add(text)
        return outcomes

    return load


@pytest.mark.parametrize("layout", LAYOUT_FILES)
@given(part=st.floats(0, 1, exclude_max=True))
@example(part=0.0)
@example(part=0.9999)
def test_a_file_cut_short_anywhere_is_refused(intact_files, read_or_refused, layout, part):
    content = intact_files[layout]
    for text in read_or_refused(content[: int(part * len(content))], LAYOUT_FILES[layout]):
        assert "cut short" in text


@pytest.mark.parametrize("layout", LAYOUT_FILES)
@given(part=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@example(part=0.01627, byte=0)  # damages the name of a convolution of the stem in the legacy layout
def test_a_file_with_one_wrong_byte_is_read_or_refused(intact_files, read_or_refused, layout, part, byte):
    content = bytearray(intact_files[layout])
    content[int(part * len(content))] = byte
    assert read_or_refused(bytes(content), LAYOUT_FILES[layout])


@given(content=st.binary(max_size=200), name=st.sampled_from(["weights.pth", "weights.safetensors"]))
@example(content=b"", name="weights.pth")
@example(content=b"hello\n" * 20, name="weights.pth")
@example(content=(1 << 62).to_bytes(8, "little") + b"{}", name="weights.safetensors")
@example(content=b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", name="weights.pth")
def test_a_file_of_anything_else_is_refused(read_or_refused, content, name):
    assert None not in read_or_refused(content, name)


def test_a_zip_archive_without_weights_is_refused(read_or_refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    assert None not in read_or_refused((tmp_path / "a.zip").read_bytes())
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "a.zip")
    assert None not in read_or_refused((tmp_path / "a.zip").read_bytes())


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch.save"])
def test_a_file_that_would_run_a_command_is_refused_and_does_not_run_it(
    read_or_refused, weights, tmp_path, plain, protocol
):
    mark, path = tmp_path / "executed", tmp_path / "a.pth"
    content = {"state_dict": {**weights, "more": Command(f"touch {mark}")}}
    if plain:
        path.write_bytes(pickle.dumps({**content, "state_dict": Command(f"touch {mark}")}, protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol)
    assert None not in read_or_refused(path.read_bytes())
    assert not mark.exists()


STEM, HIDDEN, HEADS = "patch_embed.proj.0.0.weight", "blocks.0.mlp.fc1.weight", "blocks.0.attn.temperature"
WRONG = {
    "strings": lambda w: dict.fromkeys(w, "text"),
    "integers": lambda w: {k: v.to(torch.int32) for k, v in w.items()},
    "complex numbers": lambda w: {**w, HIDDEN: w[HIDDEN].to(torch.complex64)},
    "sparse": lambda w: {**w, HIDDEN: w[HIDDEN].to_sparse()},
    "a sparse stem": lambda w: {**w, STEM: w[STEM].to_sparse()},
    "no memory": lambda w: {**w, HIDDEN: w[HIDDEN].to("meta")},
    "no heads": lambda w: {**w, HEADS: torch.ones(0, 1, 1)},
    "heads that do not divide": lambda w: {**w, HEADS: torch.ones(3, 1, 1)},
    "no axes": lambda w: {**w, HIDDEN: torch.ones(())},
    "no hidden layer": lambda w: {**w, HIDDEN: torch.ones(0, 16)},
    "an empty stem": lambda w: {**w, STEM: torch.ones(0, 3, 3, 3)},
    "a stem without channels": lambda w: {**w, STEM: torch.ones(len(w[STEM]), 0, 3, 3)},
    "empty tensors": lambda w: {k: torch.ones([0] * v.ndim) for k, v in w.items()},
    "a terabyte claimed": lambda w: {**w, HIDDEN: torch.ones(()).expand(1 << 38, 16)},
    "channels without end": lambda w: {**w, STEM: torch.ones(()).expand(len(w[STEM]), 1 << 38, 3, 3)},
    "blocks without end": lambda w: {**w, "blocks.999999999.gamma1": torch.ones(16)},
    "a list": lambda w: list(w.values()),
    "a number": lambda w: 3,
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_of_a_wrong_kind_or_size_are_refused(read_or_refused, weights, tmp_path, kind):
    torch.save({"state_dict": WRONG[kind](weights)}, tmp_path / "a.pth")
    assert None not in read_or_refused((tmp_path / "a.pth").read_bytes())


def test_a_dictionary_that_contains_itself_is_refused(read_or_refused, tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "a.pth")
    assert None not in read_or_refused((tmp_path / "a.pth").read_bytes())
