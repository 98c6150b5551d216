"""The public `mmcv.ops` over the stand-in."""

import pytest


@pytest.fixture(scope="session")
def mmcv_ops():
    """`mmcv.ops` over the stand-in."""
    pytest.importorskip("mmcv", reason="mmcv is not installed")
    from xcit_dense.mm.patches import mmcv_ext

    mmcv_ext.install()
    import mmcv.ops

    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    return mmcv.ops


@pytest.fixture
def deterministic():
    """Switches deterministic algorithms on."""
    import torch

    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
