"""Class attention weighs the tokens for the class token as the paper defines it, with the weights of any classifier."""

import pytest
import timm
import torch
from torch.nn import functional as F

from tests.helpers.checkpoints import CLASSIFIER_DIALECTS
from tests.helpers.models import raises_user_error, random_images, randomise
from xcit_dense import XCiT
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.class_attention import ClassAttention

NANO, SMALL = "nano_12_p16", "small_12_p16"


def make_classifier(reference, name=NANO):
    """Makes random weights in the published layout."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in reference("checkpoint_keys")[name]["classifier"].items():
        value = torch.randn(shape, generator=generator)
        weights[key] = 1 + 0.1 * value if "norm" in key or "gamma" in key else 0.2 * value
    return weights


def literal_maps(weights, x, heads, norm_tokens):
    """The softmax of each layer and head by the definition, with the original names. ``x`` is a map (1, C, H, W)."""

    def layer_norm(values, name):
        return F.layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(values, name):
        return F.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    tokens = torch.cat((weights["cls_token"][0], map_to_tokens(x)[0]))  # (1 + N, C)
    maps = []
    for number in range(2):
        name = f"cls_attn_blocks.{number}"
        normed = layer_norm(tokens, f"{name}.norm1")
        Q, K, V = linear(normed, f"{name}.attn.qkv").chunk(3, dim=1)
        rows, outputs = [], []
        for q, k, v in zip(*(part.chunk(heads, dim=1) for part in (Q, K, V))):
            scores = torch.stack([q[0] @ one / q.shape[1] ** 0.5 for one in k])
            rows.append(scores.softmax(dim=0))
            outputs.append(rows[-1] @ v)
        maps.append(torch.stack(rows))
        updated = torch.cat((linear(torch.cat(outputs)[None], f"{name}.attn.proj"), normed[1:]))
        tokens = tokens + weights[f"{name}.gamma1"] * updated
        token = layer_norm(tokens[:1], f"{name}.norm2")
        others = layer_norm(tokens[1:], f"{name}.norm2") if norm_tokens else tokens[1:]
        hidden = F.gelu(linear(token, f"{name}.mlp.fc1"))
        token = token + weights[f"{name}.gamma2"] * linear(hidden, f"{name}.mlp.fc2")
        tokens = torch.cat((token, 2 * others))  # the original adds the other tokens to themselves
    return torch.stack(maps)


@pytest.mark.parametrize(("name", "heads", "norm_tokens"), [(NANO, 4, False), (SMALL, 8, True)])
def test_the_maps_equal_the_definition(reference, name, heads, norm_tokens):
    weights = make_classifier(reference, name)
    x = random_images(1, len(weights["norm.weight"]), 3, 5)
    maps = ClassAttention.from_weights(weights)(x)
    torch.testing.assert_close(maps[0], literal_maps(weights, x, heads, norm_tokens), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(1, 2, heads))


@pytest.mark.parametrize("dialect", CLASSIFIER_DIALECTS)
def test_the_weights_of_any_dialect_give_the_same_maps(reference, dialect):
    weights, x = make_classifier(reference), random_images(1, 128, 2, 3)
    expected = ClassAttention.from_weights(weights)(x)
    assert torch.equal(ClassAttention.from_weights(CLASSIFIER_DIALECTS[dialect](weights))(x), expected)


def test_timms_own_classifier_attends_alike():
    model = randomise(timm.create_model("xcit_nano_12_p16_224")).eval()
    seen = []
    for block in model.cls_attn_blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output[:, :, 0]))
    backbone = XCiT(NANO)
    backbone.load_state_dict(model.state_dict())
    outputs = []
    backbone.eval().blocks[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    images = random_images(2, 3, 224, 224)
    with torch.no_grad():
        model(images)
        backbone(images)
        maps = ClassAttention.from_weights(model.state_dict())(outputs[0])
    torch.testing.assert_close(maps, torch.stack(seen, dim=1), rtol=1e-3, atol=1e-5)


def test_weights_without_class_attention_are_refused():
    with raises_user_error("does not contain class attention", "classifier", "small_12_p16_384_dist"):
        ClassAttention.from_weights(XCiT(NANO).state_dict())


def test_incomplete_class_attention_is_refused(reference):
    weights = make_classifier(reference)
    del weights["cls_attn_blocks.1.mlp.fc1.bias"]
    with raises_user_error("cls_attn_blocks.1.mlp.fc1.bias is missing", "intact"):
        ClassAttention.from_weights(weights)
    weights = make_classifier(reference)
    weights["cls_attn_blocks.0.gamma1"] = torch.ones(3)
    with raises_user_error("cls_attn_blocks.0.gamma1 has shape (3,)"):
        ClassAttention.from_weights(weights)
