"""Mixed precision where the machine has it, and learning rates that fall with depth."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import MODELS, DefaultScope

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error, tiny_xcit
from xcit_dense.mm.config.load import load_config

NOTICE = "training in float32"
CONFIGS = Path(__file__).parents[3] / "configs"
DETECTOR = ("mmdet", CONFIGS / "detection/mask_rcnn_xcit_n12.py")
SEGMENTOR = ("mmseg", CONFIGS / "segmentation/sem_fpn_xcit_n12.py")


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that a GPU is present or missing."""

    def pretend(present):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
        monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: present)

    return pretend


def build(**options):
    optimizer = {"type": "SGD", "lr": 0.1}
    return build_optim_wrapper(
        torch.nn.Linear(2, 1), {"type": "AutoAmpOptimWrapper", "optimizer": optimizer, **options}
    )


@pytest.mark.parametrize("options", [{}, {"loss_scale": 512.0, "dtype": "float16"}, {"loss_scale": "dynamic"}])
def test_without_a_gpu_it_is_the_plain_wrapper_and_a_notice_is_logged(gpu, mm_log, options):
    gpu(False)
    wrapper = build(accumulative_counts=2, clip_grad={"max_norm": 1.0}, **options)
    assert type(wrapper) is OptimWrapper
    assert wrapper._accumulative_counts == 2
    assert wrapper.clip_grad_kwargs == {"max_norm": 1.0}
    assert NOTICE in mm_log()


def test_with_a_gpu_it_is_the_mixed_precision_wrapper(gpu, mm_log):
    gpu(True)
    wrapper = build(loss_scale=512.0, dtype="bfloat16", accumulative_counts=2)
    assert type(wrapper) is AmpOptimWrapper
    assert wrapper.cast_dtype is torch.bfloat16
    assert wrapper._accumulative_counts == 2
    assert wrapper.loss_scaler.state_dict()["scale"] == 512.0
    assert NOTICE not in mm_log()


@pytest.mark.usefixtures("mm_log")
def test_the_loss_scale_is_dynamic_and_starts_at_two_to_the_sixteenth(gpu):
    gpu(True)
    scaler = build().loss_scaler.state_dict()
    assert scaler["scale"] == 2**16
    assert scaler["growth_factor"] > 1 > scaler["backoff_factor"]


def test_it_steps_in_full_precision(gpu):
    gpu(False)
    model = torch.nn.Linear(2, 1)
    cfg = {"type": "AutoAmpOptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    wrapper = build_optim_wrapper(model, cfg)
    expected = model.weight.detach() - 0.1
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 2))
    assert output.dtype is torch.float32
    wrapper.update_params(output.sum())
    assert torch.allclose(model.weight, expected)


# Rates that fall with depth


def groups(library, path, backbone=None, **options):
    """Optimizer settings of each parameter by name, for the model of a config and options of ``optim_wrapper``."""
    pytest.importorskip(library, reason=f"{library} is not installed")
    config = load_config(path, {f"optim_wrapper.{name}": value for name, value in options.items()})
    config.model.backbone.update(backbone or {})
    with DefaultScope.overwrite_default_scope(library), torch.device("meta"):
        model = MODELS.build(config.model)
        optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    got = {
        id(parameter): {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: got[id(value)] for name, value in model.named_parameters() if value.requires_grad}


def falling(decay=0.8, **options):
    return {"constructor": "XCiTLayerDecay", "paramwise_cfg.layer_decay": decay, **options}


def layers_above(name):
    """How often the rate of a parameter of an XCiT with 12 blocks is multiplied."""
    if name.startswith(("backbone.patch_embed.", "backbone.pos_embeder.")):
        return 13
    return 12 - int(name.split(".")[2]) if name.startswith("backbone.blocks.") else 0


@pytest.fixture(params=[DETECTOR, SEGMENTOR], ids=["detector", "segmentor"])
def config(request):
    """A library and a config of it."""
    return request.param


def test_the_rate_falls_from_the_last_block_to_the_stem_and_nowhere_else(config):
    got, plain = groups(*config, **falling()), groups(*config)
    assert got.keys() == plain.keys()
    for name, group in got.items():
        assert group["lr"] == pytest.approx(plain[name]["lr"] * 0.8 ** layers_above(name)), name
    assert {layers_above(name) for name in got} == set(range(14))
    above = {name.split(".")[1] for name in got if name.startswith("backbone.") and not layers_above(name)}
    assert above == {"fpn1", "fpn2"}, "the levels with weights"
    assert {name.partition(".")[0] for name in got} > {"backbone", "neck"}


def test_a_falling_rate_leaves_weight_decay_as_it_was(config):
    got, plain = groups(*config, **falling()), groups(*config)
    decay = {name: group["weight_decay"] for name, group in plain.items()}
    assert {name: group["weight_decay"] for name, group in got.items()} == decay
    assert 0 in decay.values()
    assert max(decay.values()) > 0


def test_a_falling_rate_multiplies_the_rates_of_custom_keys(config):
    keys = {
        "paramwise_cfg.custom_keys.neck.lr_mult": 0.5,
        "paramwise_cfg.custom_keys.attn.lr_mult": 10.0,
        "paramwise_cfg.bias_lr_mult": 2.0,
    }
    got, plain = groups(*config, **falling(**keys)), groups(*config, **keys)
    assert {round(group["lr"] / min(each["lr"] for each in plain.values())) for group in plain.values()} == {
        1,
        2,
        4,
        20,
    }
    for name, group in got.items():
        assert group["lr"] == pytest.approx(plain[name]["lr"] * 0.8 ** layers_above(name)), name


def test_a_layer_decay_of_one_is_the_default_constructor(config):
    assert groups(*config, **falling(1)) == groups(*config)


def test_a_falling_rate_leaves_frozen_blocks_out():
    got = groups(*DETECTOR, backbone={"frozen_stages": 2}, **falling())
    assert {layers_above(name) for name in got} == set(range(11))
    assert got["backbone.blocks.2.norm1.weight"]["lr"] == pytest.approx(1e-4 * 0.8**10)


@pytest.mark.parametrize("decay", [None, 0, -0.5, 1.5, "x"])
def test_a_layer_decay_out_of_range_is_refused(decay):
    with raises_user_error(f"layer_decay={decay!r}", "layer_decay=0.8"):
        groups(*DETECTOR, **falling(decay))


@pytest.mark.parametrize("paramwise_cfg", [{"bypass_duplicate": True}, {}, None])
def test_an_absent_layer_decay_is_refused(paramwise_cfg):
    cfg = {"constructor": "XCiTLayerDecay", "optimizer": {"type": "SGD", "lr": 0.1}, "paramwise_cfg": paramwise_cfg}
    with raises_user_error("layer_decay=None", "layer_decay=0.8"):
        build_optim_wrapper(tiny_xcit(), cfg)


def test_a_model_without_an_xcit_is_refused():
    options = {"constructor": "XCiTLayerDecay", "paramwise_cfg": {"layer_decay": 0.8}}
    with raises_user_error("no XCiT", "remove the constructor"):
        build(**options)


def test_a_backbone_without_a_detector_is_found_too():
    model = tiny_xcit()
    cfg = {
        "constructor": "XCiTLayerDecay",
        "paramwise_cfg": {"layer_decay": 0.5},
        "optimizer": {"type": "SGD", "lr": 1},
    }
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates[id(model.blocks[3].gamma1)] == 0.5
    assert rates[id(model.blocks[0].gamma1)] == 0.5**4
    assert rates[id(model.pos_embeder.token_projection.weight)] == 0.5**5


def test_two_options_take_all_but_matrices_out_of_weight_decay(config):
    """The rule of the authors' classifiers. The name of the temperatures excludes them from weight decay."""
    keys = {"paramwise_cfg.flat_decay_mult": 0, "paramwise_cfg.custom_keys.temperature.decay_mult": 0}
    got = groups(*config, **keys)
    with torch.device("meta"), DefaultScope.overwrite_default_scope(config[0]):
        shapes = {name: value.shape for name, value in MODELS.build(load_config(config[1]).model).named_parameters()}
    matrices = {name for name, shape in shapes.items() if len(shape) > 1 and "temperature" not in name}
    assert {name for name, group in got.items() if group["weight_decay"]} == matrices
    assert got.keys() - matrices > {name for name in got if "norm" in name or "temperature" in name}
    assert {group["lr"] for group in got.values()} == {group["lr"] for group in groups(*config).values()}
