"""MMEngine uses the CPU, whatever accelerator it has found."""

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.device import get_device, utils

from xcit_dense.mm.patches import cpu_only


def test_mmengine_uses_the_cpu_although_it_has_found_an_accelerator(monkeypatch):
    monkeypatch.setattr(utils, "DEVICE", "npu")
    assert get_device() == "npu"
    cpu_only.install()
    assert get_device() == "cpu"
