"""Published weights by name: their addresses, and how they get onto this machine whole."""

import io
import os
import socket
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.helpers.models import raises_user_error
from xcit_dense import VARIANTS, list_weights, load_weights
from xcit_dense.errors import UserError
from xcit_dense.weights import download, zoo
from xcit_dense.weights.resolve import locate

ROOT = Path(__file__).parents[2]


def saved(value, number=50000, **options):
    file = io.BytesIO()
    torch.save({"weight": torch.full((number,), float(value))}, file, **options)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("notes.txt", "hello")
    return file.getvalue()


CONTENT = saved(1)
OTHER = saved(2)
LEGACY = saved(1, _use_new_zipfile_serialization=False)
SAFETENSORS = safetensors.torch.save({"weight": torch.ones(50000)})
HALF = len(CONTENT) // 2
DAMAGED = CONTENT[:HALF] + bytes(100) + CONTENT[HALF + 100 :]
PAGE = b"<!DOCTYPE html><title>Please sign in</title>"


class Server(ThreadingHTTPServer):
    """A web server on this machine. It gives each request the next of its answers, and the last one from then on."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = [send()]
        self.requests = []
        self.closing = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self):
        """What part of the file each request asked for."""
        return [headers["Range"] for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_):
        pass


def send(content=CONTENT, stop=None, ranges=True, if_range=True, stall=False, meet=None, length=True, **headers):
    """An answer: a file, of which no more than ``stop`` bytes come.

    ``ranges`` and ``if_range``: whether the server understands these headers. ``stall``: it then holds the connection.
    ``meet``: a barrier at which it waits half-way.
    """
    headers = {name.replace("_", "-"): value for name, value in (headers or {"ETag": '"1"'}).items()}

    def answer(handler):
        asked, condition = handler.headers["Range"], handler.headers["If-Range"]
        partial = asked and ranges and (not if_range or condition in (None, *headers.values()))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if partial else 0
        if start and start >= len(content):
            refuse(416)(handler)
            return
        handler.send_response(206 if partial else 200)
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length:
            handler.send_header("Content-Length", str(len(content) - start))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = content[start:][:stop]
        handler.wfile.write(body[: len(body) // 2])
        if meet:
            meet.wait(10)
        handler.wfile.write(body[len(body) // 2 :])
        if stall:
            handler.server.closing.wait(10)

    return answer


def refuse(status):
    """An answer: an error."""

    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"sorry")

    return answer


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where downloads go: an empty directory. Retries come at once, three of them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(server, monkeypatch):
    """The name of a published file, which the server has."""
    name = "nano_12_p16_224"
    address = f"{server.address}/xcit_nano_12_p16_224.pth"
    monkeypatch.setitem(zoo.ZOO, name, zoo.Weights(name, address, "nano_12_p16", "classification", {}))
    return f"xcit://{name}"


@pytest.fixture
def closed_address():
    """An address on this machine at which nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


# The table


def test_names_addresses_and_figures_are_the_published_ones(reference):
    of = reference("zoo")
    families = {
        "": ("imagenet", {"top1": "top-1"}),
        "dino/": ("dino", {"linear_top1": "linear top-1"}),
        "coco/": ("coco_mask_rcnn", {"box_ap": "box AP", "mask_ap": "mask AP"}),
        "ade20k/sem_fpn/": ("ade20k_sem_fpn", {"miou": "mIoU"}),
        "ade20k/upernet/": ("ade20k_upernet", {"miou": "mIoU"}),
    }
    expected = {
        prefix + name: (entry["url"], {label: entry[key] for key, label in labels.items()}, entry.get("schedule"))
        for prefix, (family, labels) in families.items()
        for name, entry in of[family].items()
    }
    assert len(expected) == 70
    assert {name: (w.url, w.metrics, w.schedule) for name, w in zoo.ZOO.items()} == expected


def test_each_entry_knows_its_name_and_variant():
    for name, weights in zoo.ZOO.items():
        assert weights.name == name
        assert weights.variant in VARIANTS
        assert weights.variant in name


def test_files_of_two_names_are_not_mixed_up():
    assert len({weights.url.rsplit("/", 1)[-1] for weights in zoo.ZOO.values()}) == len(zoo.ZOO)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("small_12_p16_384_dist", None),
        ("dino/small_12_p8", None),
        ("coco/small_12_p16", "configs/detection/mask_rcnn_xcit_s12.py"),
        ("coco/small_12_p8", "configs/detection/mask_rcnn_xcit_s12_p8.py"),
        ("ade20k/sem_fpn/tiny_12_p8", "configs/segmentation/sem_fpn_xcit_t12_p8.py"),
        ("ade20k/upernet/medium_24_p16", "configs/segmentation/upernet_xcit_m24.py"),
    ],
)
def test_the_weights_of_a_whole_model_name_its_config(name, config):
    assert zoo.ZOO[name].config == config


def test_every_config_is_there():
    configs = {weights.config for weights in zoo.ZOO.values()} - {None}
    assert len(configs) == 24
    assert not [config for config in configs if not (ROOT / config).is_file()]


# Listing


def test_all_names_are_listed():
    assert list_weights() == list(zoo.ZOO)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"pattern": "*_384_dist"}, 14),
        ({"pattern": "coco/*"}, 8),
        ({"pattern": "COCO/*"}, 0),
        ({"pattern": "coco"}, 0),
        ({"variant": "small_12_p16"}, 7),
        ({"variant": "xcit_nano_12_p8"}, 3),
        ({"task": "classification"}, 42),
        ({"task": "self-supervision"}, 4),
        ({"task": "detection"}, 8),
        ({"task": "segmentation"}, 16),
        ({"pattern": "*upernet*", "variant": "medium_24_p8", "task": "segmentation"}, 1),
    ],
    ids=str,
)
def test_names_are_listed_by_pattern_variant_and_task(options, number):
    names = list_weights(**options)
    assert len(names) == number
    assert all(zoo.ZOO[name].task == options.get("task", zoo.ZOO[name].task) for name in names)
    assert all(zoo.ZOO[name].variant in options.get("variant", name) for name in names)


def test_an_unknown_variant_or_task_is_refused():
    with raises_user_error("'small_12'", "small_12_p16"):
        list_weights(variant="small_12")
    with raises_user_error("'segment'", "segmentation", "classification"):
        list_weights(task="segment")


# Names


@pytest.mark.parametrize("path", ["some/where.pth", Path("some/where.pth"), "/some/where.safetensors"])
def test_a_path_is_passed_on(path):
    assert locate(path) == Path(path)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("xcit://nano_12_p16", "nano_12_p16_"),
        ("xcit://coco/smal_12_p16", "coco/small_12_p16'"),
        ("timm://xcit_small_12_p16_384.fb_dist", "xcit_small_12_p16_384.fb_dist_in1k'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with raises_user_error(repr(name.partition("://")[2]), f"Did you mean '{nearest}"):
        locate(name)


def test_a_name_is_downloaded_once(server, cache, published):
    first = locate(published)
    assert first == cache / "xcit_nano_12_p16_224.pth"
    assert first.read_bytes() == CONTENT
    assert locate(published) == first
    assert [path for path, _ in server.requests] == ["/xcit_nano_12_p16_224.pth"]
    assert list(cache.iterdir()) == [first]


@pytest.mark.parametrize("slash", ["", "/"])
def test_timms_copies_come_from_the_hugging_face_mirror(server, cache, monkeypatch, slash):
    monkeypatch.setenv("HF_ENDPOINT", server.address + slash)
    server.answers = [send(SAFETENSORS)]
    path = locate("timm://xcit_small_12_p16_384.fb_dist_in1k")
    assert path == cache / "xcit_small_12_p16_384.fb_dist_in1k.safetensors"
    assert path.read_bytes() == SAFETENSORS
    assert [path for path, _ in server.requests] == [
        "/timm/xcit_small_12_p16_384.fb_dist_in1k/resolve/main/model.safetensors"
    ]


def test_files_of_one_name_at_two_addresses_are_kept_apart(server):
    server.answers = [send(CONTENT), send(OTHER)]
    first, second = (locate(f"{server.address}/{run}/epoch_36.pth?download=true") for run in "ab")
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)
    assert locate(f"{server.address}/a/epoch_36.pth?download=true") == first
    assert first.suffix == ".pth"
    assert len(server.requests) == 2


def test_an_address_of_the_zoo_is_the_zoos_file(server, cache, published):
    path = locate(published)
    assert locate(zoo.ZOO["nano_12_p16_224"].url) == path
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("file", "plain"), [("a-0123abcd.pth", True), ("a-0123ABCD.pth", False), ("a-0123abc.pth", False), ("a.pth", False)]
)
def test_a_file_with_its_hash_in_the_name_is_the_one_that_pytorch_downloaded(server, cache, file, plain):
    cache.mkdir(parents=True)
    (cache / file).write_bytes(OTHER)
    path = locate(f"{server.address}/{file}")
    assert (path == cache / file) == plain
    assert path.read_bytes() == (OTHER if plain else CONTENT)


def test_a_downloaded_file_that_cannot_be_read_says_that_it_may_be_deleted(cache, tmp_path):
    cache.mkdir(parents=True)
    file = cache / "xcit_nano_12_p16_224.pth"
    file.write_bytes(CONTENT[:HALF])
    with raises_user_error(file, "was cut short", "delete it, and it is downloaded again"):
        load_weights(torch.nn.Identity(), "nano_12_p16_224")
    own = file.replace(tmp_path / "mine.pth")
    with pytest.raises(UserError) as caught:
        load_weights(torch.nn.Identity(), own)
    assert "delete" not in str(caught.value)


def test_a_file_put_in_place_by_hand_is_not_downloaded(cache):
    cache.mkdir(parents=True)
    file = cache / "xcit_nano_12_p16_224.pth"
    file.write_bytes(b"weights")
    assert locate("xcit://nano_12_p16_224") == file
    assert file.read_bytes() == b"weights"


# Downloads that succeed


@pytest.mark.parametrize(
    ("content", "file"),
    [(CONTENT, "a.pth"), (LEGACY, "a.pth"), (SAFETENSORS, "a.safetensors")],
    ids=["zip", "legacy", "safetensors"],
)
@pytest.mark.parametrize("length", [True, False], ids=["size", "no size"])
def test_checkpoints_of_every_format_are_downloaded(server, content, file, length):
    server.answers = [send(content, length=length)]
    assert locate(f"{server.address}/{file}").read_bytes() == content


def test_no_bar_is_shown_outside_a_terminal(server, published, capfd):
    locate(published)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", [{"ETag": '"1"'}, {"Last_Modified": "Mon, 05 Jul 2021 10:00:00 GMT"}], ids=str)
def test_a_broken_download_is_resumed(server, cache, published, version, caplog):
    server.answers = [send(stop=HALF, **version), send(**version)]
    assert locate(published).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert server.requests[1][1]["If-Range"] in version.values()
    assert f"{HALF} of {len(CONTENT)} bytes" in caplog.text
    assert len(list(cache.iterdir())) == 1


def test_a_stalled_download_is_resumed(server, published, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.3)
    server.answers = [send(stop=HALF, stall=True), send()]
    assert locate(published).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert server.ranges[1].startswith("bytes=")


@pytest.mark.parametrize("version", [{"ETag": 'W/"1"'}, {"X_Other": "1"}], ids=["weak tag", "no tag"])
def test_a_file_that_cannot_be_told_from_a_changed_one_is_not_resumed(server, published, version):
    server.answers = [send(stop=HALF, **version), send(**version)]
    assert locate(published).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_server_that_knows_no_ranges_sends_the_file_anew(server, published):
    server.answers = [send(stop=HALF, ranges=False), send(ranges=False)]
    assert locate(published).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    ("content", "version"),
    [(OTHER, {"ETag": '"2"'}), (LEGACY, {"ETag": '"2"'}), (LEGACY, {"X_Other": "1"})],
    ids=["same size", "other size", "no tag"],
)
@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changes_between_attempts_is_not_spliced(server, published, content, version, if_range):
    server.answers = [send(stop=HALF), send(content, if_range=if_range, **version)]
    assert len(content) > HALF
    assert locate(published).read_bytes() == content


def test_a_file_that_has_become_shorter_than_what_is_there_is_sent_anew(server, published):
    short = saved(1, number=100, _use_new_zipfile_serialization=False)
    assert len(short) < HALF
    server.answers = [send(stop=HALF + 1), send(short, if_range=False, ETag='"2"')]
    assert locate(published).read_bytes() == short
    assert server.ranges == [None, f"bytes={HALF + 1}-", None]


def test_a_server_in_trouble_is_asked_again(server, published):
    server.answers = [refuse(500), refuse(503), send()]
    assert locate(published).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_downloads_at_the_same_time_do_not_mix(server, cache, published):
    together = threading.Barrier(2)
    server.answers = [send(meet=together), send(OTHER, meet=together)]
    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(locate, [published, published]))
    assert len(server.requests) == 2
    assert found == {cache / "xcit_nano_12_p16_224.pth"} == set(cache.iterdir())
    assert found.pop().read_bytes() in (CONTENT, OTHER)


def test_what_a_killed_process_left_is_removed_once_it_must_be_dead(server, cache, published):
    seen = []

    def watch(handler):
        seen.extend(cache.iterdir())
        send()(handler)

    server.answers = [watch]
    locate(published)
    (partial,) = seen
    other = locate(f"{server.address}/other.pth")
    for age, stays in ((60, True), (7200, False)):
        partial.write_bytes(CONTENT[:HALF])
        os.utime(partial, (time.time() - age,) * 2)
        other.unlink()
        locate(f"{server.address}/other.pth")
        assert partial.exists() == stays
    assert set(cache.iterdir()) == {other, cache / "xcit_nano_12_p16_224.pth"}


# Downloads that fail


def test_offline_the_error_has_the_address_and_the_place_for_the_file(closed_address, cache, monkeypatch):
    address = f"{closed_address}/xcit_nano_12_p16_224.pth"
    weights = zoo.Weights("nano_12_p16_224", address, "nano_12_p16", "classification", {})
    monkeypatch.setitem(zoo.ZOO, "nano_12_p16_224", weights)
    with raises_user_error(address, f"put it at {cache / 'xcit_nano_12_p16_224.pth'}"):
        locate("xcit://nano_12_p16_224")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "reason", "attempts"),
    [
        (refuse(403), "403", 1),
        (refuse(404), "404", 1),
        (refuse(410), "410", 1),
        (refuse(416), "416", 1),
        (refuse(500), "500", 4),
        (send(stop=0), f"0 of {len(CONTENT)} bytes", 4),
        (send(stop=HALF, ranges=False), f"{HALF} of {len(CONTENT)} bytes", 4),
    ],
    ids=["403", "404", "410", "416", "500", "nothing", "half"],
)
def test_a_download_that_fails_leaves_no_file_and_says_why(server, cache, published, answer, reason, attempts):
    server.answers = [answer]
    for _ in range(2):
        with raises_user_error(
            f"{server.address}/xcit_nano_12_p16_224.pth", reason, cache / "xcit_nano_12_p16_224.pth"
        ):
            locate(published)
        assert list(cache.iterdir()) == []
    assert len(server.requests) == 2 * attempts


def test_a_server_that_stalls_is_given_up(server, cache, published, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.1)
    server.answers = [send(stop=0, stall=True)]
    with raises_user_error("timed out"):
        locate(published)
    assert len(server.requests) == 4
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "file", "words"),
    [
        (PAGE, "a.pth", ["a web page", "Please sign in"]),
        (PAGE, "a.safetensors", ["a web page", "Please sign in"]),
        (b'{"error": "busy"}', "a.pth", ["no checkpoint", "busy"]),
        (b"", "a.pth", ["no checkpoint"]),
        (b"", "a.safetensors", ["no checkpoint"]),
        (SAFETENSORS, "a.pth", ["no checkpoint"]),
        (CONTENT, "a.safetensors", ["no checkpoint"]),
        (CONTENT[:-100], "a.pth", ["cut short"]),
        (SAFETENSORS[:-100], "a.safetensors", ["cut short"]),
        (DAMAGED, "a.pth", ["cut short or damaged"]),
        (LEGACY[: len(LEGACY) // 2], "a.pth", ["cut short or damaged"]),
        (archive(), "a.pth", ["an archive that is no checkpoint"]),
    ],
)
@pytest.mark.parametrize("length", [True, False], ids=["size", "no size"])
def test_a_file_that_is_no_whole_checkpoint_is_refused(server, cache, content, file, words, length):
    server.answers = [send(content, length=length)]
    with raises_user_error(f"{server.address}/{file}", "put the right file at", *words):
        locate(f"{server.address}/{file}")
    assert list(cache.iterdir()) == []
    assert len(server.requests) == 1


def test_an_address_that_is_none_is_refused_at_once(cache):
    with raises_user_error("http://127.0.0.1/a file.pth"):
        locate("http://127.0.0.1/a file.pth")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["xcit://coco/small_12_p16"], ["coco/small_12_p16"]),
        (["UPerNet", "medium", "p8"], ["ade20k/upernet/medium_24_p8"]),
        (["dino", "small_12"], ["dino/small_12_p16", "dino/small_12_p8"]),
        (["small", "24", "p16", "mask"], ["coco/small_24_p16"]),
        (["384_dist", "large*", "p8"], ["large_24_p8_384_dist"]),
        (["ADE20K", "tiny", "p8"], ["ade20k/sem_fpn/tiny_12_p8", "ade20k/upernet/tiny_12_p8"]),
    ],
)
def test_weights_are_found_by_whole_words(words, names):
    assert [weights.name for weights in zoo.search_weights(words)] == names


def test_without_words_all_weights_are_found():
    assert zoo.search_weights([]) == list(zoo.ZOO.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["p8", "smal"], ["'smal'", "'small'"]), (["2"], ["'2'"]), (["coco", "dino"], ["all of coco, dino"])],
)
def test_words_that_find_nothing_are_refused(words, said):
    with raises_user_error(*said):
        zoo.search_weights(words)


def test_a_directory_that_cannot_be_made_is_an_error_with_a_sentence(cache):
    cache.parent.write_text("a file in the way")
    with raises_user_error(zoo.ZOO["coco/small_12_p16"].url, cache):
        locate("xcit://coco/small_12_p16")
