"""The race of complete models: contenders agree, are counted and timed; a contender that differs is refused."""

import sys
from functools import partial

import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip

from tests.helpers.model_race import SIZE, model_race_options, named_config
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import tiny_config
from xcit_dense.benchmark import figures
from xcit_dense.mm.benchmark import contenders, race
from xcit_dense.mm.benchmark.report import table

GRADIENTS = {
    "detection": {"backbone", "neck", "rpn_head", "roi_head"},
    "segmentation": {"backbone", "neck", "decode_head"},
}


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("train", [False, True])
def test_models_on_both_backbones_agree_and_are_counted(task, train):
    names = ("ours", "library-heads", "timm") + (() if train else ("deployed",))
    options = model_race_options(contenders=names, train=train)
    result = race.measure(options, named_config(task), SIZE)
    assert tuple(result.contenders) == names
    for one in result.contenders.values():
        # Rounding changes the sign of a few values before a ReLU, and so their gradients.
        assert all(error < (1e-3 if "gradients" in key else 1e-5) for key, error in one.errors.items())
        compared = {key.removeprefix("gradients of ") for key in one.errors if key.startswith("gradients")}
        assert compared == (GRADIENTS[task] if train else set())
        assert one.multiply_adds > 0
        assert one.peak_bytes > 0
        assert (one.saved_bytes is None) != train
        assert len(one.samples) == 1
        assert all(seconds > 0 for name, seconds in one.parts.items() if name in ("backbone", "neck"))
    text = table(result, options)
    assert f"64x96, tiny, batch 2, fp32, {'training step' if train else 'inference'} on CPU" in text
    assert "The outputs of all agree with those of the library's heads" in text
    assert ("The gradients of all agree" in text) == train


def test_fused_heads_are_compared_with_the_librarys():
    result = race.measure(model_race_options(train=True), tiny_config("segmentation", "upernet"), SIZE)
    ours, library = result.contenders["ours"], result.contenders["library-heads"]
    assert 0 < max(ours.errors.values()) < 1e-3
    assert max(library.errors.values()) == 0
    assert ours.multiply_adds < library.multiply_adds
    assert {"gradients of decode_head", "gradients of auxiliary_head"} <= set(ours.errors)


def test_gradients_in_bf16_may_be_as_far_away_as_those_of_the_reference():
    options = model_race_options(train=True, dtype="bf16")
    result = race.measure(options, tiny_config("segmentation", "upernet"), SIZE)
    ours, library = (max(one.errors.values()) for one in result.contenders.values())
    assert ours < max(race.GRADIENTS["bf16"], 1.5 * library)


@pytest.mark.parametrize(
    ("task", "head"), [("detection", "dino"), ("detection", "mask2former"), ("segmentation", "mask2former")]
)
def test_heads_with_queries_are_refused(task, head):
    with raises_user_error("is not measured", "queries", "--variant"):
        race.measure(model_race_options(), tiny_config(task, head), SIZE)


def test_a_detector_finds_as_many_objects_as_asked():
    options = model_race_options(contenders=("ours", "deployed"), batch=1, instances=3)
    result = race.measure(options, tiny_config("detection"), SIZE)
    assert [one.objects for one in result.contenders.values()] == [3, 3]
    assert "mask pasting" in result.contenders["ours"].parts
    assert "3 objects" in table(result, options)


def test_more_objects_than_a_detector_finds_are_refused():
    with raises_user_error("finds only", "--instances"):
        race.measure(model_race_options(instances=100_000), tiny_config("detection"), SIZE)


def test_a_contender_that_differs_is_refused_before_anything_is_timed(monkeypatch):
    make = contenders.make

    def spoil(name, *args):
        model = make(name, *args)
        if name == "ours":
            with torch.no_grad():
                model.roi_head.mask_head.conv_logits.bias += 1
        return model

    monkeypatch.setattr(race, "make", spoil)
    monkeypatch.setattr(figures, "clock", lambda *_: pytest.fail("timed"))
    with raises_user_error("outputs of the heads of ours", "library-heads", "--contenders"):
        race.measure(model_race_options(), tiny_config("detection"), SIZE)


def test_gradients_that_differ_are_refused(monkeypatch):
    make = contenders.make

    def spoil(name, *args):
        model = make(name, *args)
        if name == "ours":
            model.roi_head.bbox_head.fc_cls.weight.register_hook(lambda gradient: 2 * gradient)
        return model

    monkeypatch.setattr(race, "make", spoil)
    with raises_user_error("gradients of roi_head of ours", "--contenders"):
        race.measure(model_race_options(train=True), tiny_config("detection"), SIZE)


def test_a_runtime_that_is_missing_is_left_out_or_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    names, config = ("ours", "onnxruntime"), tiny_config("segmentation")
    options = model_race_options(contenders=names, strict=False)
    result = race.measure(options, config, SIZE)
    assert tuple(result.contenders) == ("ours",)
    assert "Left out: onnxruntime" in table(result, options)
    with raises_user_error("needs onnx", "pip install"):  # onnx itself may be missing too
        race.measure(model_race_options(contenders=names), config, SIZE)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("train", [False, True])
def test_models_agree_in_bf16(task, train):
    options = model_race_options(contenders=("ours", "timm"), train=train, dtype="bf16")
    result = race.measure(options, named_config(task), SIZE)
    assert 1e-4 < max(one.errors["levels"] for one in result.contenders.values()) < 0.1


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize("train", [False, True])
def test_compiled_models_agree(task, train, monkeypatch):
    # The default backend takes minutes. The test does not depend on the backend.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    options = model_race_options(contenders=("compiled", "timm-compiled"), train=train)
    result = race.measure(options, named_config(task), SIZE)
    for one in result.contenders.values():
        assert max(one.errors.values()) < 1e-3
        assert one.parts == {}
