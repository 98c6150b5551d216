"""The benchmark measures exported backbones and complete models next to PyTorch's."""

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


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_exported_models_agree_with_the_model_in_pytorch(task):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    from tests.helpers.model_race import SIZE, model_race_options
    from tests.helpers.tiny import tiny_config
    from xcit_dense.mm.benchmark import race as model_race

    names = "deployed", "onnxruntime", "openvino"
    result = model_race.measure(model_race_options(contenders=names), tiny_config(task), SIZE)
    assert tuple(result.contenders) == names
    objects = [one.objects for one in result.contenders.values()]
    assert objects == ([10] * 3 if task == "detection" else [None] * 3)
