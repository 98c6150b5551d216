"""The object that predicts: all kinds of sources, one or many. The model here finds the mean colour of an image."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.inference.model import Model
from xcit_dense.inference.stream import Input
from xcit_dense.media.arrays import to_rgb
from xcit_dense.media.images import ImageError, open_image
from xcit_dense.predictions import Detection

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8)


class MeanColour:
    """An engine without weights: the box of the only object is the mean colour, and the object's score is 0.5."""

    classes, palette, segments = ["colour"], [(255, 0, 0)], False

    def __init__(self):
        self.batches = []

    def read(self, path):
        return self.accept(open_image(path))

    def accept(self, image, path=None):
        pixels = to_rgb(image)
        return Input(pixels, None, pixels.shape)

    def infer(self, inputs):
        self.batches.append(len(inputs))
        return [self._find(one.image) for one in inputs]

    def _find(self, image):
        if (image == 7).all():
            raise RuntimeError("the image is 7 everywhere")
        box = np.array([[*image.mean((0, 1)), 1]], np.float32)
        scores = np.array([0.5], np.float32)
        objects = {"xyxy": box, "confidence": scores, "class_id": np.array([0])}
        return Detection(image=image, classes=self.classes, **objects)


@pytest.fixture
def model():
    return Model(MeanColour())


@pytest.fixture
def photos(tmp_path):
    """A directory with four images, one of them in a directory of its own."""
    for number, image in enumerate(IMAGES):
        path = tmp_path / "photos" / ("deep" if number == 3 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "photos"


def colour(found):
    return found.xyxy[0, :3]


def mean(image):
    return pytest.approx(image.mean((0, 1)), abs=1e-3)


@pytest.mark.parametrize("kind", ["path", "text", "Pillow", "array", "tensor"])
def test_one_image_gives_one_prediction_in_rgb(model, photos, kind):
    path = photos / "0.png"
    source = {
        "path": path,
        "text": str(path),
        "Pillow": Image.open(path),
        "array": IMAGES[0],
        "tensor": torch.from_numpy(IMAGES[0]).permute(2, 0, 1),
    }[kind]
    found = model.predict(source)
    assert isinstance(found, Detection)
    assert colour(found) == mean(IMAGES[0])
    assert np.array_equal(found.image, IMAGES[0])
    assert found.source == (str(path) if kind in ("path", "text") else None)


@pytest.mark.parametrize("kind", ["directory", "pattern", "paths", "arrays", "stack", "generator", "nested"])
def test_many_images_give_a_generator_in_their_order(model, photos, kind):
    paths = [photos / "0.png", photos / "1.png", photos / "2.png", photos / "deep/3.png"]
    source = {
        "directory": photos,
        "pattern": f"{photos}/**/*.png",
        "paths": [str(path) for path in paths],
        "arrays": list(IMAGES),
        "stack": list(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)),
        "generator": (Image.open(path) for path in paths),
        "nested": [IMAGES[0], str(photos / "1.png"), paths[2], photos / "deep"],
    }[kind]
    found = model.predict(source, batch=3)
    assert iter(found) is found
    assert [tuple(colour(one)) for one in found] == [mean(image) for image in IMAGES]
    assert model.engine.batches == [3, 1]


def test_a_list_of_one_image_gives_a_generator(model):
    (found,) = model.predict([IMAGES[0]])
    assert colour(found) == mean(IMAGES[0])
    assert list(model.predict([])) == []


def test_a_video_gives_its_frames(model, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    pytest.importorskip("av", reason="PyAV is not installed")
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    for level in (0, 100, 200):
        video.write(np.full((32, 48, 3), (0, 0, level), np.uint8))  # OpenCV writes BGR, so this is red
    video.release()
    found = list(model.predict(path))
    assert [(one.source, one.frame) for one in found] == [(str(path), number) for number in range(3)]
    assert [tuple(colour(one)) for one in found] == [pytest.approx((level, 0, 0), abs=6) for level in (0, 100, 200)]


def test_a_generator_reads_only_what_it_needs(model):
    taken = []

    def camera():
        for number in range(1000):
            taken.append(number)
            yield IMAGES[number % 4]

    found = model.predict(camera(), batch=2)
    assert colour(next(found)) == mean(IMAGES[0])
    assert len(taken) <= 3


def test_objects_below_the_score_are_left_out(model):
    assert len(model.predict(IMAGES[0], score_thr=0.5).xyxy) == 1
    assert len(model.predict(IMAGES[0], score_thr=0.51).xyxy) == 0


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("no/such.jpg", {}, ["no/such.jpg", "check the path"]),
        (Path("no/such"), {}, ["no/such"]),
        (7, {}, ["int is not an image", "RGB array"]),
        (IMAGES, {}, ["(4, 20, 30, 3)", "list(images)"]),
        (IMAGES[0], {"score_thr": 50}, ["score_thr=50", "0 to 1"]),
        (IMAGES[0], {"batch": 0}, ["batch=0", "1 or more"]),
    ],
)
def test_a_call_that_cannot_work_is_refused_at_once(model, source, options, words):
    with raises_user_error(*words):
        model.predict(source, **options)
    assert model.engine.batches == []


def test_an_unreadable_image_is_named(model, photos):
    path = photos / "1.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ImageError, match=r"1\.png"):
        model.predict(path)
    found = model.predict(photos, batch=4)
    assert next(found).source == str(photos / "0.png")
    with pytest.raises(ImageError, match=r"1\.png"):
        next(found)


def test_on_error_receives_failures_and_the_others_are_predicted(model, photos):
    (photos / "1.png").write_bytes(b"no image")
    failures = []
    sources = [photos, "no/such.jpg", np.full((20, 30, 3), 7, np.uint8), IMAGES[0] / 255, IMAGES[0]]
    found = list(model.predict(sources, batch=4, on_error=lambda name, error: failures.append((name, str(error)))))
    assert [tuple(colour(one)) for one in found] == [mean(IMAGES[number]) for number in (0, 2, 3, 0)]
    names = [name for name, _ in failures]
    assert sorted(names) == sorted([str(photos / "1.png"), "no/such.jpg", "image in memory", "image in memory"])
    assert any("7 everywhere" in why for _, why in failures)


def test_an_error_of_on_error_ends_the_run(model, photos):
    (photos / "1.png").write_bytes(b"no image")
    calls = []

    def stop(name, error):
        calls.append(name)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        list(model.predict(photos, on_error=stop))
    assert calls == [str(photos / "1.png")]


def test_an_error_of_the_model_keeps_its_type(model):
    with pytest.raises(RuntimeError, match="7 everywhere"):
        model.predict(np.full((20, 30, 3), 7, np.uint8))


def test_files_are_written_as_the_command_writes_them(model, photos, tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed")
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    (photos / "1.png").write_bytes(b"no image")
    summary = model.predict_files([photos], tmp_path / "out", batch=2)
    assert (summary.images, summary.objects, [name for name, _ in summary.failures]) == (3, 3, ["1.png"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images.json", "pictures", "results.json"]
    with raises_user_error("exists already"):
        model.predict_files([photos], tmp_path / "out")


def test_an_image_of_an_address_is_predicted(model, photos):
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=photos)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = model.predict(f"{address}/2.png")
        assert (found.source, tuple(colour(found))) == (f"{address}/2.png", mean(IMAGES[2]))
        with raises_user_error("no.png", "404"):
            model.predict(f"{address}/no.png")
        server.shutdown()
