import pytest
import torch

from tests.helpers.models import random_images
from xcit_dense.ops import labels
from xcit_dense.ops.labels import find_labels


@pytest.mark.parametrize("classes", [1, 2, 19, 300])
def test_the_labels_are_those_of_argmax_in_every_strip(classes, monkeypatch):
    monkeypatch.setattr(labels, "STRIP", 100)
    logits = random_images(1, classes, 17, 23)[0]
    assert torch.equal(find_labels(logits), logits.argmax(dim=0))


def test_the_first_of_equal_logits_wins():
    logits = torch.tensor([1.0, 2.0, 2.0])[:, None, None].expand(3, 4, 5)
    assert torch.equal(find_labels(logits), torch.ones(4, 5, dtype=torch.int64))


def test_nan_and_infinite_logits_have_the_labels_of_argmax():
    logits = random_images(1, 4, 6, 6)[0]
    logits[1, 0, 0] = logits[3, 0, 0] = float("nan")
    logits[:, 1, 1] = -float("inf")
    assert torch.equal(find_labels(logits), logits.argmax(dim=0))


def test_logits_that_are_a_part_of_a_map_have_the_labels_of_argmax():
    logits = random_images(1, 7, 20, 30)[0][:, 2:-3, 4:-1]
    assert torch.equal(find_labels(logits), logits.argmax(dim=0))
