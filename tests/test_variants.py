"""The table of published variants, against the reference."""

import dataclasses

import pytest
import torch

from tests.helpers.models import raises_user_error
from xcit_dense import VARIANTS, XCiT
from xcit_dense.errors import did_you_mean
from xcit_dense.variants import Variant, get_variant, variant_name


def on_meta(*args, **kwargs):
    """Builds an XCiT on the meta device."""
    with torch.device("meta"):
        return XCiT(*args, **kwargs)


def test_the_table_contains_the_published_variants_and_their_hyper_parameters(reference):
    published = reference("variants")
    assert len(published) == 14
    assert VARIANTS.keys() == published.keys()
    for name, variant in VARIANTS.items():
        facts = {**dataclasses.asdict(variant), "eta": variant.eta, "out_indices": list(variant.out_indices)}
        assert facts == {key: published[name][key] for key in facts}, name


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_published_number_of_parameters_and_heads(name, reference):
    published = reference("variants")[name]
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == published["params_backbone_with_pyramid"]
    assert model.out_indices == tuple(published["out_indices"])
    assert len(model.blocks) == published["depth"]
    assert {block.attn.num_heads for block in model.blocks} == {published["num_heads"]}


def test_eta_is_the_first_value_of_every_gain():
    for name in ("nano_12_p16", "tiny_24_p16"):
        gains = [p for key, p in XCiT(name).named_parameters() if "gamma" in key]
        assert len(gains) == 3 * VARIANTS[name].depth
        assert all((gain == VARIANTS[name].eta).all() for gain in gains)


@pytest.mark.parametrize("name", ["nano_12_p16", "nano_12_p8", "small_12_p16", "small_24_p8"])
def test_names_and_shapes_of_weights_are_the_published_ones(name, reference):
    published = reference("checkpoint_keys")[name]["dense"]
    assert {key: list(value.shape) for key, value in on_meta(name).state_dict().items()} == published


def test_every_published_recipe_builds_unchanged(reference):
    recipes = reference("recipes")
    assert len(recipes) == 24
    for name, recipe in recipes.items():
        options = recipe["backbone"]
        model = on_meta(**options)
        assert model.out_indices == tuple(options["out_indices"]), name
        assert model.out_channels == (options["embed_dim"],) * 4, name


def test_defaults_of_the_named_variant_equal_the_published_recipes(reference):
    for name, recipe in reference("recipes").items():
        options = recipe["backbone"]
        variant = VARIANTS[variant_name(options["embed_dim"], options["depth"], options["patch_size"])]
        assert variant.num_heads == options["num_heads"], name
        assert variant.eta == options["eta"], name
        assert variant.out_indices == tuple(options["out_indices"]), name


def test_a_variant_is_found_with_and_without_the_prefix_of_timm():
    assert get_variant("small_12_p16") is get_variant("xcit_small_12_p16") is VARIANTS["small_12_p16"]


def test_an_unknown_variant_is_answered_with_all_names_and_the_nearest():
    with raises_user_error("'smal_12_p16'", "Did you mean 'small_12_p16'?", *VARIANTS):
        get_variant("smal_12_p16")


def test_a_name_is_not_suggested_if_all_names_are_far_away():
    sentence = did_you_mean("fruit", "zzz", ["apple", "pear"])
    assert sentence == "No fruit is called 'zzz'. Valid names: apple, pear."


def test_a_shape_names_its_variant():
    assert all(variant_name(v.embed_dim, v.depth, v.patch_size) == name for name, v in VARIANTS.items())
    assert variant_name(100, 12, 16) is None


def test_variants_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["nano_12_p8"].depth = 13
    assert Variant(128, 12, 4, 8) == VARIANTS["nano_12_p8"]
