"""Models of the MM libraries predict windows as they predict images of the size of a window."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

import xcit_dense.mm  # noqa: F401  # isort: skip
from mmengine.registry import init_default_scope

from tests.helpers.tiny import TASKS, save_tiny, tiny_config
from xcit_dense.errors import UserError
from xcit_dense.mm.inference.predict import make_predictor
from xcit_dense.mm.inference.window_engine import MMWindowEngine, WindowedModel, use_native_size
from xcit_dense.rasters.array import ArraySource


def noise(height, width, seed=0):
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def setups(tmp_path_factory):
    """For each task the predictor of the config, and the engine of windows."""
    made = {}
    for task in TASKS:
        path = tmp_path_factory.mktemp(task) / "weights.pth"
        save_tiny(tiny_config(task), path)
        config = tiny_config(task)
        use_native_size(config)
        engine = MMWindowEngine(make_predictor(config, str(path)), config)
        made[task] = make_predictor(tiny_config(task), str(path)), engine
    return made


def test_a_window_of_the_size_of_the_config_gets_the_labels_of_the_image(setups):
    predictor, engine = setups["segmentation"]
    init_default_scope("mmseg")
    images = [noise(48, 48, seed) for seed in range(2)]
    expected = [predictor.infer([predictor.accept(image)])[0].labels for image in images]
    scores = engine.score(images)
    for one, labels in zip(scores, expected, strict=True):
        assert one.shape == (5, 48, 48)
        np.testing.assert_allclose(one.sum(axis=0), 1, atol=1e-5)
        assert (one.argmax(axis=0) == labels).mean() > 0.999


def test_a_window_of_the_size_of_the_config_gets_the_objects_of_the_image(setups):
    predictor, engine = setups["detection"]
    init_default_scope("mmdet")
    image = noise(48, 48)
    expected = predictor.infer([predictor.accept(image)])[0]
    (found,) = engine.find([image])
    np.testing.assert_allclose(found.boxes, expected.xyxy, atol=1e-2)
    assert (found.labels == expected.class_id).all()
    assert (found.masks == expected.mask).mean() > 0.999


@pytest.mark.parametrize("task", TASKS)
def test_a_scaled_window_is_predicted_as_the_config_predicts_the_same_size(setups, task):
    predictor, engine = setups[task]
    init_default_scope({"detection": "mmdet", "segmentation": "mmseg"}[task])
    image = noise(96, 96)  # the config resizes to 48
    expected = predictor.infer([predictor.accept(image)])[0]
    scaled = MMWindowEngine(engine.predictor, engine.config, scale=0.5)
    if task == "segmentation":
        (scores,) = scaled.score([image])
        assert (scores.argmax(axis=0) == expected.labels).mean() > 0.999
    else:
        (found,) = scaled.find([image])
        np.testing.assert_allclose(found.boxes, expected.xyxy, atol=2e-2)
        assert found.masks.shape[1:] == (96, 96)


def test_the_fill_is_black_after_the_normalisation(setups):
    for _, engine in setups.values():
        preprocessor = engine.predictor.model.data_preprocessor
        pixels = np.broadcast_to(np.array(engine.fill, np.float32), (32, 32, 3)).round().astype(np.uint8)
        packed = engine.predictor.prepare(engine.predictor.make_sample(pixels))
        data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
        assert preprocessor(data)["inputs"][..., :32, :32].abs().max() < 0.02


def test_bands_that_do_not_fit_are_refused_with_the_option_that_helps(setups):
    _, engine = setups["segmentation"]
    assert tuple(engine.choose_bands(ArraySource(np.zeros((9, 9, 1), np.uint8)))) == (1, 1, 1)
    assert tuple(engine.choose_bands(ArraySource(np.zeros((9, 9, 3), np.uint8)))) == (1, 2, 3)
    for array in (np.zeros((9, 9, 5), np.uint8), np.zeros((9, 9, 3), np.uint16)):
        with pytest.raises(UserError, match="--bands"):
            engine.choose_bands(ArraySource(array))


def test_the_fingerprint_changes_with_a_weight(setups):
    _, engine = setups["segmentation"]
    before = MMWindowEngine(engine.predictor, engine.config).fingerprint
    parameter = next(engine.predictor.model.parameters())
    with torch.no_grad():
        parameter.add_(1)
        after = MMWindowEngine(engine.predictor, engine.config).fingerprint
        parameter.sub_(1)
    assert before["weights"] != after["weights"]
    assert before["config"] == after["config"]


@pytest.mark.parametrize("task", TASKS)
def test_a_test_with_a_window_of_the_image_gives_what_a_test_without_windows_gives(setups, task):
    _, engine = setups[task]
    init_default_scope({"detection": "mmdet", "segmentation": "mmseg"}[task])
    model = engine.predictor.model
    packed = engine.predictor.prepare(engine.predictor.make_sample(noise(48, 64)))
    data = {name: [packed[name]] for name in ("inputs", "data_samples")}
    with torch.no_grad():
        (expected,) = model.test_step({**data, "data_samples": [packed["data_samples"].clone()]})
    (found,) = WindowedModel(model, window=64, overlap=16).test_step(data)
    if task == "segmentation":
        assert (found.pred_sem_seg.data == expected.pred_sem_seg.data).all()
    else:
        assert torch.allclose(found.pred_instances.bboxes, expected.pred_instances.bboxes, atol=1e-3)
        assert (found.pred_instances.masks == expected.pred_instances.masks.cpu()).all()


def test_a_test_with_windows_covers_a_larger_image(setups):
    _, engine = setups["segmentation"]
    init_default_scope("mmseg")
    packed = engine.predictor.prepare(engine.predictor.make_sample(noise(100, 130)))
    data = {name: [packed[name]] for name in ("inputs", "data_samples")}
    (found,) = WindowedModel(engine.predictor.model, window=48, overlap=16, batch=2).test_step(data)
    assert found.pred_sem_seg.data.shape == (1, 100, 130)
    assert found.pred_sem_seg.data.max() < 5
