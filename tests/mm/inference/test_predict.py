"""Predictions of images and videos equal the predictions of the libraries. Unreadable files do not end a run."""

import contextlib
import dataclasses
import errno
import gc
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import cv2

import xcit_dense.mm  # noqa: F401  # isort: skip
from mmengine.registry import init_default_scope
from pycocotools import mask as coding
from pycocotools.coco import COCO

from tests.helpers.models import raises_user_error
from tests.helpers.tiny import TASKS, save_tiny, tiny_config
from xcit_dense import XCiT
from xcit_dense.inference.stream import FileFrame
from xcit_dense.media.inputs import Medium, find_media
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.inference.predict import OUTPUTS, make_predictor, reserve, run

each_task = pytest.mark.parametrize("task", TASKS)


@dataclasses.dataclass(frozen=True)
class Setup:
    config: object
    weights: Path
    predictor: object


@pytest.fixture(scope="module")
def setups(tmp_path_factory):
    """A small model for each task, with random weights. The detector finds five objects in every image."""
    made = {}
    for task in TASKS:
        config, weights = tiny_config(task), tmp_path_factory.mktemp(task) / "weights.pth"
        save_tiny(config, weights)
        made[task] = Setup(config, weights, make_predictor(config, str(weights)))
    return made


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    """A directory of images. Some consecutive images have the same size."""
    directory = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for number, size in enumerate([(48, 36), (48, 36), (48, 36), (36, 48), (1, 1), (96, 96), (48, 37)]):
        small = Image.fromarray(noise.integers(0, 256, (5, 6, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(directory / f"{number}.png")
    return directory


@pytest.fixture
def predict(setups, tmp_path):
    """Predicts inputs. Returns the summary and the directory."""

    def start(task, *inputs, name="out", **options):
        setup, out = setups[task], tmp_path / name
        init_default_scope(setup.config.default_scope)
        reserve(out)
        summary = run(setup.predictor, find_media(list(map(str, inputs))), out, **options)
        assert not [path for path in out.rglob("*") if "part" in path.name], "not cleared away"
        return summary, out

    return start


def clip(path, frames=3):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (48, 32))
    for number in range(frames):
        video.write(np.full((32, 48, 3), 60 * number, np.uint8))
    video.release()


def detections(out):
    with contextlib.redirect_stdout(None):
        images = COCO(str(out / "images.json"))
        results = images.loadRes(str(out / "results.json"))
    return {
        image["file_name"]: results.loadAnns(results.getAnnIds(number)) for number, image in sorted(images.imgs.items())
    }


def labels(out):
    return {
        path.relative_to(out / "labels").as_posix(): np.asarray(Image.open(path))
        for path in sorted(out.rglob("labels/**/*.png"))
    }


def same_detections(got, expected):
    assert got.keys() == expected.keys()
    for name in got:
        for one, other in zip(got[name], expected[name], strict=True):
            assert one["category_id"] == other["category_id"]
            assert [*one["bbox"], one["score"]] == pytest.approx([*other["bbox"], other["score"]], abs=1e-2)


# Predictions


def test_the_detector_finds_what_mmdetection_finds(setups, predict, image_dir):
    from mmdet.apis import inference_detector, init_detector

    _, out = predict("detection", image_dir)
    model = init_detector(setups["detection"].config, str(setups["detection"].weights), device="cpu")
    got = detections(out)
    assert len(got) == 7
    for name, found in got.items():
        expected = inference_detector(model, str(image_dir / name)).pred_instances
        assert len(found) == len(expected) == 5
        for one, box, label, score, mask in zip(
            found, expected.bboxes, expected.labels, expected.scores, expected.masks
        ):
            x, y, width, height = one["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), abs=1e-2)
            assert one["category_id"] == label + 1
            assert one["score"] == pytest.approx(float(score), abs=1e-4)
            assert (coding.decode(one["segmentation"]) == mask.cpu().numpy()).mean() > 0.98


def test_the_segmentor_labels_as_mmsegmentation_does(setups, predict, image_dir):
    from mmseg.apis import inference_model, init_model

    summary, out = predict("segmentation", image_dir)
    model = init_model(setups["segmentation"].config, str(setups["segmentation"].weights), device="cpu")
    got = labels(out)
    assert len(got) == summary.images == 7
    assert len(set(np.concatenate([one.ravel() for one in got.values()]))) > 2, "only one class"
    for name, found in got.items():
        expected = inference_model(model, str(image_dir / name)).pred_sem_seg.data[0].numpy()
        assert found.dtype == np.uint8
        assert found.shape == expected.shape
        assert (found == expected).mean() > 0.999


@each_task
def test_batches_give_the_predictions_of_single_images(predict, image_dir, task, monkeypatch):
    _, one = predict(task, image_dir, name="one", score_thr=None)
    sizes = []
    original = torch.nn.Module.__call__

    def spy(module, *args, **kwargs):
        if isinstance(module, XCiT):
            sizes.append(len(args[0]))
        return original(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", spy)
    _, two = predict(task, image_dir, name="two", score_thr=None, batch=2)
    assert sizes == [2, 1, 1, 1, 1, 1]
    if task == "detection":
        same_detections(detections(two), detections(one))
    else:
        got, expected = labels(two), labels(one)
        assert got.keys() == expected.keys()
        assert all((got[name] == expected[name]).mean() > 0.999 for name in got)


@each_task
def test_the_model_is_in_the_form_that_only_infers(setups, task):
    assert [module.deployed for module in setups[task].predictor.model.modules() if isinstance(module, XCiT)] == [True]


def test_drawings_have_objects_above_the_threshold_and_results_have_all_objects(predict, image_dir):
    image = image_dir / "5.png"
    drawn, written = {}, {}
    for score_thr in (0.0, 1.0, None):
        _, out = predict("detection", image, name=f"out{score_thr}", score_thr=score_thr)
        written[score_thr] = (out / "results.json").read_bytes()
        assert (out / "pictures").exists() == (score_thr is not None)
        if score_thr is not None:
            with Image.open(out / "pictures/5.jpg") as drawing, Image.open(image) as plain:
                whole = plain.resize(drawing.size, Image.Resampling.BICUBIC)
                drawn[score_thr] = abs(np.asarray(drawing, int) - np.asarray(whole)).mean()
    assert written[0.0] == written[1.0] == written[None]
    assert drawn[1.0] < 2
    assert drawn[0.0] > 5


# Class names


@each_task
def test_a_model_of_more_classes_than_have_names_is_refused_before_any_work(setups, tmp_path, task):
    setup = setups[task]
    torch.save({**torch.load(setup.weights), "meta": {}}, tmp_path / "a.pth")
    config = setup.config.copy()
    config.test_dataloader = {"dataset": {**setup.config.test_dataloader.dataset, "metainfo": {"classes": ("a", "b")}}}
    count = len(setup.predictor.classes)
    with raises_user_error(f"more than 2 of the model's {count} classes", "metainfo"):
        make_predictor(config, str(tmp_path / "a.pth"))


# Inputs


@each_task
def test_unreadable_files_are_reported_and_the_others_are_predicted(predict, image_dir, tmp_path, task):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("a.png", "c.png"):
        (inputs / name).symlink_to(image_dir / "0.png")
    (inputs / "b.png").write_bytes((image_dir / "5.png").read_bytes()[:80])
    (inputs / "d.mp4").touch()
    Image.new("RGB", (900, 1)).save(inputs / "e.png")  # after the resize, the height is less than a pixel
    summary, out = predict(task, inputs, batch=2)
    assert summary.images == 2
    assert [name for name, _ in summary.failures] == ["b.png", "d.mp4", "e.png"]
    for (_, why), word in zip(summary.failures, ("may be cut short", "not a video", "at 900 x 1 pixels")):
        assert word in why
        assert str(inputs) not in why, "its path twice"
    assert [path.name for path in sorted((out / "pictures").iterdir())] == ["a.jpg", "c.jpg"]
    if task == "detection":
        assert list(detections(out)) == ["a.png", "c.png"]
        assert summary.objects == 10


@each_task
def test_a_video_is_predicted_frame_by_frame_and_drawn_as_a_video(predict, image_dir, tmp_path, task):
    """The directory next to the video contains an image with the name that a frame could have."""
    inputs = tmp_path / "in"
    (inputs / "clip").mkdir(parents=True)
    clip(inputs / "clip.mp4")
    (inputs / "clip/000000.png").symlink_to(image_dir / "5.png")
    summary, out = predict(task, inputs, batch=2)
    assert summary.images == 4
    video = cv2.VideoCapture(str(out / "pictures/clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    video.release()
    assert (out / "pictures/clip/000000.jpg").is_file()
    frames = [f"clip.mp4/00000{number}" for number in range(3)]
    if task == "detection":
        assert list(detections(out)) == [*frames, "clip/000000.png"]
        images = json.loads((out / "images.json").read_text())["images"]
        assert [image.get("frame") for image in images] == [0, 1, 2, None]
        assert [image["width"] for image in images] == [48, 48, 48, 96]
    else:
        shapes = {name: found.shape for name, found in labels(out).items()}
        assert shapes == {**{f"{name}.png": (32, 48) for name in frames}, "clip/000000.png": (96, 96)}


@each_task
def test_a_model_of_bands_predicts_images_and_refuses_a_video(setups, predict, image_dir, tmp_path, task, monkeypatch):
    _, plain = predict(task, image_dir / "0.png", name="plain", score_thr=None)
    by_bands = dataclasses.replace(setups[task].predictor, load=LoadBands([3, 2, 1]))  # as OpenCV orders the colours
    monkeypatch.setitem(setups, task, dataclasses.replace(setups[task], predictor=by_bands))
    clip(tmp_path / "a.mp4")
    summary, out = predict(task, image_dir / "0.png", tmp_path / "a.mp4", name="bands")
    assert summary.images == 1
    ((name, why),) = summary.failures
    assert (name.endswith("a.mp4"), "the model needs the bands 3,2,1" in why) == (True, True)
    assert len(list(out.rglob("pictures/**/*.jpg"))) == 1
    # The image is resized as floating-point numbers, and not rounded.
    if task == "detection":
        (got,), (expected,) = detections(out).values(), detections(plain).values()
        assert len(got) == len(expected)
        assert got[0]["score"] == pytest.approx(expected[0]["score"], abs=0.01)
    else:
        (got,), (expected,) = labels(out).values(), labels(plain).values()
        assert (got == expected).mean() > 0.95


@each_task
def test_images_of_the_same_name_do_not_overwrite_each_other(predict, image_dir, tmp_path, task):
    for name, source in (("a/x.png", "0.png"), ("b/x.png", "3.png"), ("a/x.bmp", "5.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(image_dir / source).save(tmp_path / "in" / name)
    _, out = predict(task, tmp_path / "in/a", tmp_path / "in/b")
    assert len(list(out.rglob("pictures/*/*.jpg"))) == 3
    if task == "segmentation":
        assert {found.shape for found in labels(out).values()} == {(36, 48), (48, 36), (96, 96)}


def test_a_video_cut_short_is_kept_and_reported(predict, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for _ in range(20):
        video.write(np.zeros((32, 48, 3), np.uint8))
    video.release()
    path = tmp_path / "clip.avi"
    path.write_bytes(b"00dc".join(path.read_bytes().split(b"00dc")[:10]))
    summary, out = predict("segmentation", path)
    assert 5 < summary.images == len(labels(out)) < 12
    ((name, why),) = summary.failures
    assert name == "clip.avi"
    assert f"after {summary.images} of 20 frames" in why


# What goes wrong with one image


@pytest.fixture
def mixed(setups, image_dir, tmp_path):
    """Predicts images 0 to 2, in one batch, and a video. `change` replaces each call of the detector."""

    def start(change, **options):
        setup = setups["detection"]
        clip(tmp_path / "v.mp4")

        class Changed:
            calls = 0

            def test_step(self, data):
                Changed.calls += 1
                names = [Path(sample.img_path).name for sample in data["data_samples"]]
                return change(names, lambda: setup.predictor.model.test_step(data))

        init_default_scope(setup.config.default_scope)
        reserve(tmp_path / "out")
        media = find_media([*(str(image_dir / f"{number}.png") for number in range(3)), str(tmp_path / "v.mp4")])
        predictor = dataclasses.replace(setup.predictor, model=Changed())
        return run(predictor, media, tmp_path / "out", batch=3, **options), tmp_path / "out"

    return start


def outside(names):
    return sorted(Path(name).name for name in names)


def test_the_images_of_a_batch_too_large_for_the_gpu_are_tried_one_by_one(mixed):
    def change(names, step):
        if len(names) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step()

    summary, out = mixed(change)
    assert summary.images == len(detections(out)) == 6
    assert not summary.failures


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "the GPU's memory is too small for it"),
        (RuntimeError("shapes\n  differ"), "RuntimeError: shapes differ"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_an_image_with_which_the_model_fails_is_reported_and_the_others_are_predicted(mixed, error, words):
    def change(names, step):
        if {"1.png", "v.mp4"} & set(names):
            raise type(error)(*error.args)  # a new error, because a reused error keeps the images in memory
        return step()

    summary, out = mixed(change, score_thr=None)
    assert [(Path(name).name, why) for name, why in summary.failures] == [
        ("1.png", words),
        ("v.mp4", f"{words} (3 frames)"),
    ]
    assert outside(detections(out)) == ["0.png", "2.png"]


@pytest.mark.parametrize("fault", ["not a number", "no such class", "a name too long"])
def test_an_image_with_an_invalid_prediction_is_reported_and_the_others_are_predicted(mixed, monkeypatch, fault):
    def change(names, step):
        samples = step()
        for name, sample in zip(names, samples):
            if name == "1.png":
                found = sample.pred_instances
                if fault == "not a number":
                    found.scores[2] = float("nan")
                elif fault == "no such class":
                    found.labels[2] = 99
        return samples

    if fault == "a name too long":
        original = Image.Image.save

        def save(self, path, **options):
            if ".1." in path.name:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            original(self, path, **options)

        monkeypatch.setattr(Image.Image, "save", save)
    summary, out = mixed(change)
    ((name, why),) = summary.failures
    assert name.endswith("1.png")
    assert {"not a number": "not finite", "no such class": "IndexError", "a name too long": "too long"}[fault] in why
    found = outside(detections(out))
    assert [name for name in found if name.endswith("png")] == (
        ["0.png", "1.png", "2.png"] if fault == "a name too long" else ["0.png", "2.png"]
    )
    assert len(found) == 3 + sum(name.endswith("png") for name in found)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_failing_disk_ends_the_run_and_leaves_the_results(mixed, tmp_path, monkeypatch, number):
    original = Image.Image.save

    def save(self, path, **options):
        if ".2." in path.name:
            raise OSError(number, os.strerror(number))
        original(self, path, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    with raises_user_error(os.strerror(number)):
        mixed(lambda names, step: step())
    assert outside(detections(tmp_path / "out")) == ["0.png", "1.png", "2.png"]


# Several processes


def test_rank_0_of_several_processes_reports_that_it_counts_its_own_images(predict, image_dir, monkeypatch, capsys):
    """Rank 0 takes three of seven images. The other process did not find objects."""
    reserve_, seconds = reserve, itertools.count()

    def with_the_others_part(out):
        reserve_(out)
        (out / "parts/1.jsonl").touch()

    monkeypatch.setitem(globals(), "reserve", with_the_others_part)
    monkeypatch.setattr("xcit_dense.inference.write.rank_and_world", lambda: (0, 2))
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))  # a short run does not print its progress
    assert predict("segmentation", image_dir, score_thr=None)[0].images == 3
    assert "3 of 3 images of this process in " in capsys.readouterr().err


# Memory


@each_task
def test_at_most_two_batches_are_in_memory(setups, image_dir, tmp_path, task):
    setup, held = setups[task], []

    def load(results):
        counted = len(held) % 3 == 0  # only every third time, because the count is slow
        held.append(sum(type(thing) is FileFrame for thing in gc.get_objects()) if counted else 0)
        return setup.predictor.load(results)

    media = [Medium(image_dir / f"{number % 3}.png", f"{number}.png", str(number)) for number in range(12)]
    init_default_scope(setup.config.default_scope)
    reserve(tmp_path / "out")
    summary = run(dataclasses.replace(setup.predictor, load=load), media, tmp_path / "out", batch=3)
    assert summary.images == len(held) == 12
    assert 3 <= max(held) <= 6


@pytest.mark.slow
@pytest.mark.long
def test_memory_stays_constant_over_a_thousand_images_of_varying_size(setups, memory, tmp_path):
    """Boxes and masks of all images are written, and some images are drawn."""
    setup, chance, seen = setups["detection"], random.Random(0), []

    def load(results):
        if len(seen) % 100 == 0:
            gc.collect()
        seen.append(memory())
        width, height = chance.randrange(8, 120), chance.randrange(8, 120)
        noise = np.random.default_rng(len(seen)).integers(0, 256, (height, width, 3), np.uint8)
        return {**results, "img": noise, "img_shape": noise.shape[:2], "ori_shape": noise.shape[:2]}

    predictor = dataclasses.replace(setup.predictor, load=load)
    init_default_scope(setup.config.default_scope)
    for count, score_thr in ((100, 0.2), (900, None)):
        media = [Medium(tmp_path / f"{number}.png", f"{number}.png", str(number)) for number in range(count)]
        reserve(tmp_path / str(count))
        assert run(predictor, media, tmp_path / str(count), batch=2, score_thr=score_thr).images == count
    assert max(seen[-100:]) - max(seen[200:400]) < 4


# Directories


@pytest.mark.parametrize("name", OUTPUTS)
def test_results_are_not_mixed_with_the_results_of_another_run(tmp_path, name):
    (tmp_path / name).mkdir()
    with raises_user_error(tmp_path / name, "exists already", "another directory"):
        reserve(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with raises_user_error(tmp_path / "file/out", "cannot be made"):
        reserve(tmp_path / "file/out")


def test_an_interrupted_run_leaves_only_complete_files(setups, image_dir, tmp_path):
    setup, loaded = setups["detection"], []
    clip(tmp_path / "clip.mp4")

    def load(results):
        loaded.append(results)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return setup.predictor.load(results)

    init_default_scope(setup.config.default_scope)
    out = tmp_path / "out"
    reserve(out)
    media = find_media([str(tmp_path / "clip.mp4"), str(image_dir)])
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(setup.predictor, load=load), media, out)
    assert sorted(path.name for path in out.iterdir()) == ["images.json", "parts", "pictures", "results.json"]
    assert outside(detections(out)) == ["0.png", "000000", "000001", "000002"]
    drawn = sorted(path for path in (out / "pictures").rglob("*") if path.is_file())
    assert [path.suffix for path in drawn] == [".jpg", ".mp4"]
    Image.open(drawn[0]).load()
    assert cv2.VideoCapture(str(drawn[1])).get(cv2.CAP_PROP_FRAME_COUNT) == 3


# Models


def test_weights_of_another_model_are_refused(setups):
    with raises_user_error("do not fill the model", "missing"):
        make_predictor(setups["detection"].config, str(setups["segmentation"].weights))


def test_a_config_without_a_way_to_load_images_is_refused(setups):
    config = setups["detection"].config.copy()
    config.test_dataloader = None
    with raises_user_error("LoadImageFromFile", "test_dataloader.dataset.pipeline"):
        make_predictor(config, str(setups["detection"].weights))
