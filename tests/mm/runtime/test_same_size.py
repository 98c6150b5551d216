"""Batches of several sizes in validations and tests."""

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from mmengine.model import BaseModel, BaseTTAModel

from xcit_dense.mm.runtime.same_size import SameSizeBatchesHook, predict_by_size


class Padding(BaseModel):
    """Predicts the size of the batch that an image is in, as a detector sees the image after padding."""

    calls = 0

    def forward(self, inputs, data_samples=None, mode="predict"):
        type(self).calls += 1
        size = tuple(max(image.shape[side] for image in inputs) for side in (1, 2))
        return [(name, size) for name in data_samples]

    test_step = val_step = lambda self, data: self.forward(**data)


class Averaging(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


class Runner:
    def __init__(self, model):
        self.model = model


def batch(*sizes):
    return {"inputs": [torch.zeros(3, *size) for size in sizes], "data_samples": list("abcdef"[: len(sizes)])}


def test_each_image_is_predicted_as_in_a_batch_of_its_own_size_and_the_order_stays():
    sizes = [(8, 4), (4, 8), (8, 4), (8, 8)]
    expected = [(name, size) for name, size in zip("abcd", sizes)]
    assert predict_by_size(Padding().test_step, batch(*sizes)) == expected


def test_a_batch_of_one_size_is_predicted_at_once():
    Padding.calls = 0
    assert len(predict_by_size(Padding().test_step, batch((4, 4), (4, 4)))) == 2
    assert Padding.calls == 1


@pytest.mark.parametrize("step", ["val", "test"])
def test_the_hook_changes_the_model_in_a_validation_and_a_test_only(step):
    model = Padding()
    runner, hook = Runner(model), SameSizeBatchesHook()
    data = batch((8, 4), (4, 8))
    predict = f"{step}_step"
    before = getattr(model, predict)(data)
    getattr(hook, f"before_{step}")(runner)
    assert getattr(model, predict)(data) == [("a", (8, 4)), ("b", (4, 8))]
    getattr(hook, f"after_{step}")(runner)
    assert getattr(model, predict)(data) == before == [("a", (8, 8)), ("b", (8, 8))]


def test_the_hook_changes_the_model_inside_test_time_augmentation():
    runner, hook = Runner(Averaging(module=Padding())), SameSizeBatchesHook()
    views = [batch((8, 4), (4, 8)), batch((16, 8), (8, 16))]
    data = {key: [view[key] for view in views] for key in views[0]}
    hook.before_test(runner)
    assert runner.model.test_step(data) == [
        (("a", (8, 4)), ("a", (16, 8))),
        (("b", (4, 8)), ("b", (8, 16))),
    ]
