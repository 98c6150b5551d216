"""The time of each part of a model."""

import time

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip

from tests.helpers.model_race import SIZE, model_race_options
from tests.helpers.tiny import tiny_config
from xcit_dense.mm.benchmark.contenders import make, make_weights
from xcit_dense.mm.benchmark.parts import time_parts
from xcit_dense.mm.benchmark.samples import make_batch


@pytest.mark.parametrize("train", [False, True])
def test_the_time_of_a_part_is_the_time_of_its_method(train, monkeypatch):
    config, options = tiny_config("detection"), model_race_options(train=train, batch=1)
    model = make("library-heads", config, make_weights(config), options)
    forward, own = type(model.neck).forward, set(vars(model.neck))
    batch = make_batch(segments=False, classes=4, size=SIZE, images=1, device="cpu")
    passed = [0.0]

    def slow(neck, levels):
        passed[0] += 7
        return forward(neck, levels)

    monkeypatch.setattr(type(model.neck), "forward", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: passed[0])  # only the neck takes time
    parts = time_parts(model, batch, options)
    assert {name: seconds for name, seconds in parts.items() if seconds} == {"neck": 7}
    assert set(vars(model.neck)) == own
    backward = {name for name in parts if name.endswith("backward")}
    assert backward == ({"heads, backward", "neck, backward", "backbone, backward"} if train else set())
    assert ("boxes, NMS" in parts) != train
