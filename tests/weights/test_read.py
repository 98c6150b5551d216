"""The tensors of a checkpoint, without the dictionaries that wrap them."""

import pytest
import torch

from tests.helpers.models import raises_user_error
from xcit_dense.weights.read import read_weights


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), "text", None], ids=lambda c: type(c).__name__)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with raises_user_error(tmp_path / "weights.pth", "a checkpoint is a dictionary of tensors", type(content).__name__):
        read_weights(tmp_path / "weights.pth")


def test_a_missing_file_is_refused(tmp_path):
    with raises_user_error("No checkpoint at", tmp_path):
        read_weights(tmp_path)


def test_read_weights_returns_only_tensors(tmp_path):
    torch.save({"model": {"a": torch.ones(2), "note": "text", 3: torch.ones(1)}, "epoch": 1}, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    assert list(weights) == ["a"]
    assert torch.equal(weights["a"], torch.ones(2))
