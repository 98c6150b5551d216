"""TokenPyramid and a transformer of one's own in the MM libraries: whatever works on XCiT works on them."""

import re
import sys
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.runtime.fsdp import is_xca_block
from xcit_dense.mm.runtime.weights import load_and_compare, spread_backbone

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/detection/mask_rcnn_xcit_n12_p8_shapes.py"
THIN = {"embed_dim": 32, "depth": 4, "num_heads": 2}
BEIT = {"type": "TokenPyramid", "variant": "beit_base_patch16_224", "model_options": THIN, "norm_cfg": "BN"}


def make_config(**backbone):
    config = load_config(CONFIG)
    config.model.backbone = {**BEIT, **backbone}
    config.model.neck.in_channels = [32] * 4
    return config


def build(config):
    models = pytest.importorskip("mmdet.registry", reason="mmdet is not installed").MODELS
    with DefaultScope.overwrite_default_scope("mmdet"):
        return models.build(config.model)


@pytest.fixture(scope="module")
def detector():
    return build(make_config())


def test_a_pyramid_starts_from_weights_of_timm(tmp_path, mm_log):
    weights = timm.create_model("beit_base_patch16_224", **THIN).state_dict()
    torch.save(weights, tmp_path / "beit.pth")
    model = build(make_config(init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "beit.pth")}))
    model.init_weights()
    assert torch.equal(model.backbone.trunk.cls_token, weights["cls_token"])
    assert "TokenPyramid starts from" in mm_log()


def test_a_checkpoint_of_the_backbone_fills_the_backbone_of_a_detector(detector):
    weights = {name: value + 1 for name, value in detector.backbone.state_dict().items()}
    checkpoint = {"state_dict": weights}
    spread_backbone(detector, checkpoint)
    differences = load_and_compare(detector, checkpoint)
    assert differences.missing
    assert not any(name.startswith("backbone.") for name in differences.missing)
    assert torch.equal(detector.backbone.trunk.cls_token, weights["trunk.cls_token"])


def test_learning_rates_decrease_from_the_last_block_to_the_embedding(detector):
    optim = {
        "constructor": "XCiTLayerDecay",
        "optimizer": {"type": "AdamW", "lr": 1.0},
        "paramwise_cfg": {"layer_decay": 0.5},
    }
    wrapper = build_optim_wrapper(detector, {"type": "OptimWrapper", **optim})
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    rates = {names[id(group["params"][0])]: group["lr"] for group in wrapper.optimizer.param_groups}
    assert rates["backbone.trunk.cls_token"] == 0.5**5
    assert rates["backbone.trunk.blocks.0.attn.qkv.weight"] == 0.5**4
    assert rates["backbone.trunk.blocks.3.mlp.fc2.bias"] == 0.5
    assert rates["backbone.fpn1.0.weight"] == rates["rpn_head.rpn_conv.weight"] == 1


def test_each_block_is_a_shard(detector):
    shards = [name for name, module in detector.named_modules() if is_xca_block(module)]
    assert shards == [f"backbone.trunk.blocks.{number}" for number in range(4)]


def test_arguments_widths_and_weights_are_checked_before_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr("xcit_dense.mm.config.checks._check_dataset", lambda *_: None)
    loaders = ("train_dataloader",)
    with raises_user_error("frozen_stages=9 is out of range"):
        check_config(make_config(frozen_stages=9), loaders)
    wide = make_config()
    wide.model.neck.in_channels = [64] * 4
    with raises_user_error("each level of this TokenPyramid has 32 channels"):
        check_config(wide, loaders)
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=4).state_dict(), tmp_path / "vit.pth")
    start = {"type": "Pretrained", "checkpoint": str(tmp_path / "vit.pth")}
    with raises_user_error("4 blocks of 192 channels, but TokenPyramid beit_base_patch16_224 has 4 of 32"):
        check_config(make_config(init_cfg=start), loaders)


def test_an_unknown_argument_is_refused():
    with raises_user_error("argument of TokenPyramid", "drop_path_rate"):
        build(make_config(drop_path=0.1))


def test_the_documented_transformer_trains_under_mask_rcnn(tmp_path, monkeypatch):
    module, config = re.findall(r"```python\n(.*?)```", (ROOT / "docs/backbones.md").read_text(), re.DOTALL)
    (tmp_path / "my_pyramid.py").write_text(module)
    # Only an installed wheel has the name xcit_dense:: of its configs.
    (tmp_path / "config.py").write_text(config.replace("xcit_dense::", f"{ROOT.as_posix()}/configs/"))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        model = build(load_config(tmp_path / "config.py"))
        levels = model.backbone(torch.rand(2, 3, 70, 101))
        assert [tuple(level.shape[1:]) for level in levels] == [(64, 20, 28), (64, 10, 14), (64, 5, 7), (64, 2, 3)]
        sum(level.mean() for level in levels).backward()
        assert all(parameter.grad is not None for parameter in model.backbone.parameters())
        again = build(load_config(tmp_path / "config.py"))
        assert not load_and_compare(again, {"state_dict": model.state_dict()}).missing
        model.backbone.frozen_stages = 2
        assert not model.backbone.trunk.blocks[1].norm1.weight.requires_grad
    finally:
        sys.modules.pop("my_pyramid", None)
