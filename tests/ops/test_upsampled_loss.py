"""The cross entropy of enlarged logits: values and gradients of PyTorch's functions, in one strip or in many."""

import pytest
import torch
from torch.nn import functional as F

from xcit_dense.ops import upsampled_loss
from xcit_dense.ops.upsampled_loss import upsampled_cross_entropy


def make(size, labels_size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, *size, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(6, (2, *labels_size), generator=generator)
    return logits, labels.where(labels < 5, 255)


def expected_of(logits, labels, align_corners=False):
    y = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    correct = (y.argmax(1) == labels) & (labels != 255)
    return F.cross_entropy(y, labels, ignore_index=255, reduction="sum"), correct.sum()


@pytest.mark.parametrize("elements", [1, 900, 2**22])  # one row, some rows, all rows
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "larger"), [((5, 7), (20, 28)), ((6, 4), (13, 31)), ((4, 4), (4, 4)), ((9, 8), (5, 3))]
)
def test_loss_gradient_and_accuracy_are_pytorchs(size, larger, align_corners, elements, monkeypatch):
    monkeypatch.setattr(upsampled_loss, "_ELEMENTS_OF_STRIP", elements)
    logits, labels = make(size, larger)
    loss, correct = upsampled_cross_entropy(logits, labels, 255, align_corners)
    expected, expected_correct = expected_of(logits, labels, align_corners)
    torch.testing.assert_close(loss, expected)
    assert correct == expected_correct
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(3 * expected, logits)[0])


def test_half_precision_is_computed_in_float32():
    logits, labels = make((6, 5), (24, 20), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = upsampled_cross_entropy(logits, labels, 255)
    assert loss.dtype == torch.float32
    loss.backward()
    exact = logits.detach().float().requires_grad_()
    expected, _ = expected_of(exact, labels)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, exact.grad.bfloat16())


def test_labels_that_are_all_ignored_have_no_loss():
    logits, labels = make((4, 4), (8, 8))
    loss, correct = upsampled_cross_entropy(logits, torch.full_like(labels, 255), 255)
    loss.backward()
    assert loss == correct == 0
    assert not logits.grad.any()


def test_without_gradients_the_loss_is_the_same():
    logits, labels = make((5, 7), (20, 28))
    with torch.no_grad():
        torch.testing.assert_close(upsampled_cross_entropy(logits, labels, 255)[0], expected_of(logits, labels)[0])


def test_transforms_of_torch_func_differentiate_it():
    logits, labels = make((5, 7), (20, 28))
    gradient = torch.func.grad(lambda x: upsampled_cross_entropy(x, labels, 255)[0])(logits.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected_of(logits, labels)[0], logits)[0])
