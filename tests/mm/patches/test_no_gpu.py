"""torch.cuda.set_device does not change the device inside the context, and works again after it."""

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches.no_gpu import without_set_device


def set_a_device_and_fail():
    torch.cuda.set_device(1_000)
    raise KeyError


def test_the_function_is_disabled_inside_the_context_and_is_restored_after_an_error():
    original = torch.cuda.set_device
    with pytest.raises(KeyError), without_set_device():
        set_a_device_and_fail()
    assert torch.cuda.set_device is original
