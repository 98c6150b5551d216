"""Focal losses agree with plain loops, and their gradients with the slope."""

import math

import pytest
import torch

GAMMA, ALPHA = 1.7, 0.3


def logits(rows=6, classes=4, dtype=torch.float64):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(2).to(dtype)


def class_weight(dtype=torch.float64):
    return torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=dtype)


def loop_sigmoid(x, target, weight):
    losses = []
    for row, label in zip(x.tolist(), target.tolist()):
        for index, value in enumerate(row):
            p = 1 / (1 + math.exp(-value))
            loss = (
                -ALPHA * (1 - p) ** GAMMA * math.log(p) if index == label else -(1 - ALPHA) * p**GAMMA * math.log(1 - p)
            )
            losses.append(loss * (1 if weight is None else weight[label].item()))
    return torch.tensor(losses, dtype=torch.float64).view_as(x)


def loop_softmax(x, target, weight):
    losses = []
    for row, label in zip(x.tolist(), target.tolist()):
        p = math.exp(row[label]) / sum(map(math.exp, row))
        losses.append(-ALPHA * (1 - p) ** GAMMA * math.log(p) * (1 if weight is None else weight[label].item()))
    return torch.tensor(losses, dtype=torch.float64)


LOSSES = {"sigmoid_focal_loss": loop_sigmoid, "softmax_focal_loss": loop_softmax}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_loss_follows_the_definition(mmcv_ops, name, weighted, dtype):
    x, target = logits(dtype=dtype), torch.tensor([0, 1, 2, 3, 0, 1])
    weight = class_weight(dtype) if weighted else None
    expected = LOSSES[name](x, target, weight).to(dtype)
    loss = getattr(mmcv_ops, name)
    torch.testing.assert_close(loss(x, target, GAMMA, ALPHA, weight, "none"), expected)
    torch.testing.assert_close(loss(x, target, GAMMA, ALPHA, weight, "sum"), expected.sum())
    torch.testing.assert_close(loss(x, target, GAMMA, ALPHA, weight, "mean"), expected.sum() / len(x))


def test_sigmoid_focal_loss_of_the_background_has_no_positive_class(mmcv_ops):
    x = logits()
    loss = mmcv_ops.sigmoid_focal_loss(x, torch.full((len(x),), x.shape[1]), GAMMA, ALPHA, None, "none")
    torch.testing.assert_close(loss, loop_sigmoid(x, torch.full((len(x),), -1), None))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_passes_gradcheck(mmcv_ops, name, weighted, gamma):
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    weight = class_weight() if weighted else None
    loss = getattr(mmcv_ops, name)
    for reduction in ("sum", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, reduction=reduction: loss(x.clone(), target, gamma, ALPHA, weight, reduction),
            logits().requires_grad_(),
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_focal_loss_of_lower_precision_only_rounds_its_result(mmcv_ops, name, dtype):
    # mmcv computes the softmax in the dtype of the logits, so these logits have exact probabilities.
    x = torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=dtype, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    target, loss = torch.tensor([0, 1]), getattr(mmcv_ops, name)
    ours, expected = (loss(tensor, target, GAMMA, ALPHA, None, "sum") for tensor in (x, exact))
    ours.backward()
    expected.backward()
    assert ours.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    torch.testing.assert_close(x.grad, exact.grad.to(dtype))


@pytest.mark.parametrize("name", LOSSES)
def test_focal_loss_of_large_logits_is_finite(mmcv_ops, name):
    x = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = getattr(mmcv_ops, name)(x, torch.tensor([0, 0]), 0.5, ALPHA, None, "sum")
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert x.grad[1, 0] < 0  # the wrong row pulls its class up


@pytest.mark.parametrize("name", LOSSES)
def test_focal_loss_of_no_rows_is_zero(mmcv_ops, name):
    x = torch.zeros(0, 4, requires_grad=True)
    loss = getattr(mmcv_ops, name)(x, torch.zeros(0, dtype=torch.long), GAMMA, ALPHA, None, "sum")
    loss.backward()
    assert loss.item() == 0
    assert x.grad.shape == (0, 4)


@pytest.mark.parametrize("name", LOSSES)
def test_focal_loss_reads_logits_with_gaps_in_memory(mmcv_ops, name):
    x, target = logits(), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = getattr(mmcv_ops, name)
    expected = loss(x, target, GAMMA, ALPHA, None, "sum")
    torch.testing.assert_close(loss(x.T.contiguous().T, target, GAMMA, ALPHA, None, "sum"), expected)


def test_softmax_focal_loss_ignores_rows_with_a_negative_class(mmcv_ops):
    x, target = logits().requires_grad_(), torch.tensor([0, -1, 2, 3, -1, 1])
    losses = mmcv_ops.softmax_focal_loss(x, target, GAMMA, ALPHA, class_weight(), "none")
    mmcv_ops.softmax_focal_loss(x, target, GAMMA, ALPHA, class_weight(), "sum").backward()
    assert torch.equal(losses > 0, target >= 0)
    assert torch.equal(x.grad.abs().sum(1) > 0, target >= 0)
