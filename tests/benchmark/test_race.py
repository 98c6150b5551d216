"""The race: a contender that differs is refused, other contenders are counted and timed."""

import logging
from functools import partialmethod

import pytest
import torch

from tests.helpers.models import raises_user_error
from tests.helpers.race import race_options
from xcit_dense.benchmark import figures, race
from xcit_dense.benchmark.contenders import CONTENDERS, Contender, build_timm


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("train", [False, True])
def test_several_images_of_patch_8_and_either_precision_run(dtype, train):
    names = ("ours", "timm", "timm-fused")
    result = race.measure(race_options(variant="nano_12_p8", dtype=dtype, train=train, contenders=names), (64, 96))
    assert tuple(result.contenders) == names
    assert result.floor > 0


def test_images_smaller_than_the_last_stride_run():
    assert race.measure(race_options(batch=1, contenders=("ours", "timm")), (16, 40)).pixels == 640


def test_counts_are_the_same_in_every_run():
    one, other = (
        race.measure(race_options(contenders=names), (64, 96)).contenders
        for names in (("checkpointed", "ours", "timm"), ("timm", "checkpointed"))
    )
    assert list(other) == ["timm", "checkpointed"]
    for name, other_figures in other.items():
        assert other_figures.saved_bytes == one[name].saved_bytes
        assert other_figures.multiply_adds == one[name].multiply_adds


def test_progress_is_logged(caplog):
    caplog.set_level(logging.INFO)
    race.measure(race_options(contenders=("ours", "timm"), rounds=2), (64, 96))
    logged = [record.message for record in caplog.records if record.name.startswith("xcit_dense.benchmark")]
    assert [line.split()[0] for line in logged] == ["ours", "timm", "round", "round"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("train", [False, True])
def test_compiled_contenders_agree(train, monkeypatch):
    # The default backend takes minutes. The test does not depend on the backend.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    result = race.measure(race_options(batch=1, train=train, contenders=("compiled", "timm-compiled")), (64, 96))
    for one in result.contenders.values():
        assert max(one.errors.values()) < 1e-4
        assert one.saved_bytes is None


@pytest.mark.parametrize(
    ("train", "name", "value", "what"),
    [
        (False, "fpn1.0.bias", 1.0, "levels"),
        (False, "fpn2.0.bias", torch.nan, "levels"),
        (True, "blocks.0.attn.proj.bias", 1.0, "levels"),
        (True, None, None, "gradients"),
    ],
)
def test_a_contender_that_differs_is_refused_before_anything_is_timed(monkeypatch, train, name, value, what):
    def build(variant, weights):
        model = build_timm(variant, weights)
        if name:
            with torch.no_grad():
                model.get_parameter(name)[0] += value
        else:
            model.blocks[0].mlp.fc2.weight.register_hook(lambda grad: 1.1 * grad)
        return model

    monkeypatch.setitem(CONTENDERS, "timm", Contender(build))
    monkeypatch.setattr(figures, "clock", lambda *_: pytest.fail("timed"))
    with raises_user_error(f"The {what} of timm", "standard deviations", "1e-03 is allowed", "--contenders"):
        race.measure(race_options(train=train), (64, 96))
