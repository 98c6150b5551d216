"""The benchmark measures exported models next to PyTorch's."""

import pytest

from tests.helpers.race import race_options
from xcit_dense.benchmark import race

for library in ("onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(library)


@pytest.mark.slow
def test_exported_backbones_agree_with_the_backbone_in_pytorch():
    names = "deployed", "onnxruntime", "openvino", "timm-onnxruntime", "timm-openvino"
    result = race.measure(race_options(train=False, contenders=names), (64, 96))
    assert tuple(result.contenders) == names
    for name, figures in result.contenders.items():
        assert max(figures.errors.values()) < 1e-4
        assert len(figures.samples) == 1
        assert (figures.multiply_adds is None) == (name != "deployed")
