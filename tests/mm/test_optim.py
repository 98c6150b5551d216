"""Mixed precision where the machine has it."""

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper

import xcit_dense.mm  # noqa: F401

NOTICE = "training in float32"


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU, or that there is none."""

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
def test_without_a_gpu_it_is_the_plain_wrapper_and_says_so(gpu, mm_log, options):
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
