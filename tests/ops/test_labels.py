import pytest
import torch

from tests.helpers.models import random_images
from xcit_dense.ops.labels import find_labels


@pytest.mark.parametrize("classes", [1, 2, 19, 300])
def test_the_labels_are_those_of_argmax(classes):
    logits = random_images(1, classes, 17, 23)[0]
    assert torch.equal(find_labels(logits), logits.argmax(dim=0))
    assert torch.equal(find_labels(iter(logits)), logits.argmax(dim=0))


def test_the_first_of_equal_logits_wins():
    logits = torch.tensor([1.0, 2.0, 2.0])[:, None, None].expand(3, 4, 5)
    assert torch.equal(find_labels(logits), torch.ones(4, 5, dtype=torch.int64))


def test_the_maps_are_not_changed():
    logits = random_images(1, 4, 6, 6)[0]
    copy = logits.clone()
    find_labels(logits)
    assert torch.equal(logits, copy)
