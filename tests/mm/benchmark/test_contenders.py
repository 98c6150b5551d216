"""The contenders of the benchmark of complete models."""

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip

from tests.helpers.model_race import model_race_options, named_config
from tests.helpers.models import raises_user_error
from tests.helpers.tiny import tiny_config
from xcit_dense.mm.benchmark.contenders import CONTENDERS, build, choose, make, make_weights, use_library_heads


@pytest.mark.parametrize(("head", "kind"), [("upernet", "UPerHead"), ("segformer", "SegformerHead")])
def test_the_librarys_heads_take_the_place_of_ours(head, kind):
    config = tiny_config("segmentation", head)
    assert type(build(config).decode_head).__name__ == f"Fused{kind}"
    changed = use_library_heads(config)
    assert type(build(changed).decode_head).__name__ == kind
    assert config.model.decode_head.type == f"Fused{kind}"


def test_the_librarys_detector_has_the_librarys_layers_and_torchvisions_roi_align():
    config = tiny_config("detection")
    head = make("library-heads", config, make_weights(config), model_race_options()).roi_head
    assert "xcit_dense" not in {type(module).__module__.split(".")[0] for module in head.modules()}
    extractors = (head.bbox_roi_extractor, head.mask_roi_extractor)
    assert all(layer.use_torchvision for extractor in extractors for layer in extractor.roi_layers)


def test_timms_backbone_has_the_levels_and_frozen_parameters_of_the_config():
    config = named_config("detection", "retinanet")
    config.model.neck.in_channels = [128] * 3
    config.model.backbone |= {"out_strides": (8, 16, 32), "frozen_stages": 1}
    model = make("timm", config, make_weights(config), model_race_options())
    assert model.backbone.level_names == ("fpn2", "fpn3", "fpn4")
    assert not model.backbone.blocks[0].attn.qkv.weight.requires_grad
    assert model.backbone.blocks[1].attn.qkv.weight.requires_grad


def test_the_default_contenders_fit_the_model_the_step_and_the_device():
    named, unnamed = named_config("segmentation"), tiny_config("segmentation")
    assert choose(None, named, train=False, on_cpu=True, dtype="fp32") == tuple(CONTENDERS)
    for on_cpu, dtype in ((True, "bf16"), (False, "fp32")):
        names = choose(None, named, train=False, on_cpu=on_cpu, dtype=dtype)
        assert set(CONTENDERS) - set(names) == {"onnxruntime", "openvino"}
    assert "deployed" not in choose(None, named, train=True, on_cpu=True, dtype="fp32")
    assert not any(CONTENDERS[name].timm for name in choose(None, unnamed, train=True, on_cpu=True, dtype="fp32"))


def test_timms_backbone_is_refused_where_timm_does_not_have_it():
    config = tiny_config("segmentation")
    with raises_user_error("timm-compiled", "not a variant by name", "leave"):
        choose("ours,timm-compiled", config, train=False, on_cpu=True, dtype="fp32")
    config.model.backbone = {"type": "CoaT", "variant": "coat_mini"}
    with raises_user_error("timm needs", "CoaT"):
        choose("timm", config, train=False, on_cpu=True, dtype="fp32")


def test_unknown_contenders_are_refused():
    with raises_user_error("'tim'", "'timm'"):
        choose("ours,tim", named_config("segmentation"), train=False, on_cpu=True, dtype="fp32")
