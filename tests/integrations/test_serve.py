"""The serving example, over the loopback: images in, JSON and PNG out, and clear errors for bad requests."""

import importlib.util
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytest.importorskip("python_multipart", reason="python-multipart is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
import httpx
import uvicorn
from pycocotools import mask as coding

import xcit_dense
from tests.helpers.tiny import TASKS, write_work_dir

EXAMPLE = Path(__file__).parents[2] / "examples/serve.py"
MAX_BYTES, MAX_PIXELS = 100_000, 10_000
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def load_example():
    spec = importlib.util.spec_from_file_location("serve", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=TASKS)
def served(request, tmp_path_factory):
    """A running server: a client for it, and its model."""
    model = xcit_dense.load(write_work_dir(request.param, tmp_path_factory.mktemp("run")))
    app = load_example().make_app(model, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client, model
    server.should_exit = True
    thread.join(30)


def encoded(image=IMAGE, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def send(client, content, path="/predict", **params):
    return client.post(path, files={"image": ("a.png", content)}, params=params)


def test_the_server_says_what_it_finds(served):
    client, model = served
    task = "segmentation" if model.segments else "detection"
    assert client.get("/").json() == {"task": task, "classes": list(model.classes)}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_gives_the_prediction_of_the_model(served, kind):
    client, model = served
    content = encoded(kind=kind)
    answer = send(client, content, score_thr=0)
    assert answer.status_code == 200
    found = model.predict(Image.open(io.BytesIO(content)), score_thr=0)
    got = answer.json()
    assert (got["width"], got["height"]) == (80, 60)
    assert [result.pop("name") for result in got["results"]] == found.names != []
    assert got["results"] == found.to_coco()
    expected = found.labels == list(model.classes).index(found.names[0]) if model.segments else found.mask[0]
    assert np.array_equal(coding.decode(got["results"][0]["segmentation"]), expected)


def test_an_image_gives_its_drawing_as_png(served):
    client, model = served
    answer = send(client, encoded(), "/draw", score_thr=0)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(drawn, model.predict(IMAGE, score_thr=0).plot())


def test_requests_at_the_same_time_get_their_own_answers(served):
    client, model = served
    images = [np.ascontiguousarray(np.roll(IMAGE, 20 * number, axis=1)[: 40 + number]) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda image: send(client, encoded(image), score_thr=0).json(), images))
    for answer, image in zip(answers, images):
        found = model.predict(image, score_thr=0)
        assert answer["height"] == len(image)
        assert [result["name"] for result in answer["results"]] == found.names


@pytest.mark.parametrize("path", ["/predict", "/draw"])
@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"no image", 415, "JPEG, PNG, WEBP"),
        (b"", 415, "not an image"),
        (encoded(kind="GIF"), 415, "not an image"),
        (encoded()[:3000], 400, "damaged"),
        (encoded(np.zeros((101, 100, 3), np.uint8)), 413, "100 x 101 pixels; at most 10,000"),
        (bytes(MAX_BYTES + 1), 413, "more than 100,000 bytes"),
    ],
    ids=["text", "empty", "another format", "cut short", "too many pixels", "too many bytes"],
)
def test_a_bad_file_gets_a_clear_error(served, path, content, status, words):
    client, _ = served
    answer = send(client, content, path)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_a_long_request_without_a_length_is_refused(served):
    client, _ = served
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    body = iter([start, *(bytes(10_000) for _ in range(20))])
    answer = client.post("/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, "100,000 bytes" in answer.json()["detail"]) == (413, True)


def test_a_request_without_an_image_or_with_an_impossible_score_is_refused(served):
    client, _ = served
    assert client.post("/predict").status_code == 422
    for score in (-0.1, 1.1, "high"):
        answer = send(client, encoded(), score_thr=score)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", "score_thr"]
