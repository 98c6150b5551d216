"""Downloads: resumed, retried, checked, and atomic."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.helpers.models import raises_user_error
from tests.helpers.server import (
    CONTENT,
    DAMAGED,
    HALF,
    LEGACY,
    OTHER,
    PAGE,
    SAFETENSORS,
    archive,
    refuse,
    saved,
    send,
)
from xcit_dense.weights import download, zoo
from xcit_dense.weights.resolve import resolve

# Downloads that succeed


@pytest.mark.parametrize(
    ("content", "file"),
    [(CONTENT, "a.pth"), (LEGACY, "a.pth"), (SAFETENSORS, "a.safetensors")],
    ids=["zip", "legacy", "safetensors"],
)
@pytest.mark.parametrize("length", [True, False], ids=["size", "no size"])
def test_checkpoints_of_every_format_are_downloaded(server, content, file, length):
    server.answers = [send(content, length=length)]
    assert resolve(f"{server.address}/{file}").read_bytes() == content


def test_no_bar_is_shown_outside_a_terminal(server, published, capfd):
    resolve(published)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("version", [{"ETag": '"1"'}, {"Last_Modified": "Mon, 05 Jul 2021 10:00:00 GMT"}], ids=str)
def test_a_broken_download_is_resumed(server, cache, published, version, caplog):
    server.answers = [send(stop=HALF, **version), send(**version)]
    assert resolve(published).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert server.requests[1][1]["If-Range"] in version.values()
    assert f"{HALF} of {len(CONTENT)} bytes" in caplog.text
    assert len(list(cache.iterdir())) == 1


def test_a_stalled_download_is_resumed(server, published, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.3)
    server.answers = [send(stop=HALF, stall=True), send()]
    assert resolve(published).read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert server.ranges[1].startswith("bytes=")


@pytest.mark.parametrize("version", [{"ETag": 'W/"1"'}, {"X_Other": "1"}], ids=["weak tag", "no tag"])
def test_a_file_without_a_strong_version_is_not_resumed(server, published, version):
    server.answers = [send(stop=HALF, **version), send(**version)]
    assert resolve(published).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_server_without_ranges_sends_the_file_again(server, published):
    server.answers = [send(stop=HALF, ranges=False), send(ranges=False)]
    assert resolve(published).read_bytes() == CONTENT
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
    assert resolve(published).read_bytes() == content


def test_a_file_that_has_become_shorter_than_what_is_there_is_sent_again(server, published):
    short = saved(1, number=100, _use_new_zipfile_serialization=False)
    assert len(short) < HALF
    server.answers = [send(stop=HALF + 1), send(short, if_range=False, ETag='"2"')]
    assert resolve(published).read_bytes() == short
    assert server.ranges == [None, f"bytes={HALF + 1}-", None]


def test_a_server_error_is_retried(server, published):
    server.answers = [refuse(500), refuse(503), send()]
    assert resolve(published).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_two_downloads_of_one_file_at_the_same_time_do_not_mix(server, cache, published):
    together = threading.Barrier(2)
    server.answers = [send(meet=together), send(OTHER, meet=together)]
    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(resolve, [published, published]))
    assert len(server.requests) == 2
    assert found == {cache / "xcit_nano_12_p16_224.pth"} == set(cache.iterdir())
    assert found.pop().read_bytes() in (CONTENT, OTHER)


def test_the_partial_file_of_a_killed_process_is_removed_after_an_hour(server, cache, published):
    seen = []

    def watch(handler):
        seen.extend(cache.iterdir())
        send()(handler)

    server.answers = [watch]
    resolve(published)
    (partial,) = seen
    other = resolve(f"{server.address}/other.pth")
    for age, stays in ((60, True), (7200, False)):
        partial.write_bytes(CONTENT[:HALF])
        os.utime(partial, (time.time() - age,) * 2)
        other.unlink()
        resolve(f"{server.address}/other.pth")
        assert partial.exists() == stays
    assert set(cache.iterdir()) == {other, cache / "xcit_nano_12_p16_224.pth"}


# Downloads that fail


def test_offline_the_error_has_the_address_and_the_place_for_the_file(closed_address, cache, monkeypatch):
    address = f"{closed_address}/xcit_nano_12_p16_224.pth"
    weights = zoo.Weights("nano_12_p16_224", address, "nano_12_p16", "classification", {})
    monkeypatch.setitem(zoo.ZOO, "nano_12_p16_224", weights)
    with raises_user_error(address, f"put it at {cache / 'xcit_nano_12_p16_224.pth'}"):
        resolve("xcit://nano_12_p16_224")
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
            resolve(published)
        assert list(cache.iterdir()) == []
    assert len(server.requests) == 2 * attempts


def test_a_stalled_server_is_an_error(server, cache, published, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.1)
    server.answers = [send(stop=0, stall=True)]
    with raises_user_error("timed out"):
        resolve(published)
    assert len(server.requests) == 4
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "file", "words"),
    [
        (PAGE, "a.pth", ["a web page", "Please sign in"]),
        (PAGE, "a.safetensors", ["a web page", "Please sign in"]),
        (b'{"error": "busy"}', "a.pth", ["not a checkpoint", "busy"]),
        (b"", "a.pth", ["not a checkpoint"]),
        (b"", "a.safetensors", ["not a checkpoint"]),
        (SAFETENSORS, "a.pth", ["not a checkpoint"]),
        (CONTENT, "a.safetensors", ["not a checkpoint"]),
        (CONTENT[:-100], "a.pth", ["cut short"]),
        (SAFETENSORS[:-100], "a.safetensors", ["cut short"]),
        (DAMAGED, "a.pth", ["cut short or damaged"]),
        (LEGACY[: len(LEGACY) // 2], "a.pth", ["cut short or damaged"]),
        (archive(), "a.pth", ["an archive that is not a checkpoint"]),
    ],
)
@pytest.mark.parametrize("length", [True, False], ids=["size", "no size"])
def test_a_file_that_is_not_an_intact_checkpoint_is_refused(server, cache, content, file, words, length):
    server.answers = [send(content, length=length)]
    with raises_user_error(f"{server.address}/{file}", "put the right file at", *words):
        resolve(f"{server.address}/{file}")
    assert list(cache.iterdir()) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["coco/mask_rcnn/coat_small_1x", "coat_lite_medium_384"])
@pytest.mark.parametrize("is_published", [True, False], ids=["published", "other"])
def test_only_the_file_with_the_published_hash_is_put_in_place(server, cache, monkeypatch, name, is_published):
    published = zoo.ZOO[name]
    file = published.url.rpartition("/")[2]
    digits = hashlib.sha256(CONTENT).hexdigest()[: len(published.sha256)]
    monkeypatch.setitem(zoo.ZOO, name, replace(published, url=f"{server.address}/{file}", sha256=digits))
    server.answers = [send(CONTENT if is_published else OTHER)]
    if is_published:
        assert resolve(f"xcit://{name}") == cache / file
        assert (cache / file).read_bytes() == CONTENT
        return
    found = hashlib.sha256(OTHER).hexdigest()[:8]
    with raises_user_error(f"{server.address}/{file}", f"begins with {found}, not with {digits}", cache / file):
        resolve(f"xcit://{name}")
    assert list(cache.iterdir()) == []


def test_an_invalid_address_is_refused_at_once(cache):
    with raises_user_error("http://127.0.0.1/a file.pth"):
        resolve("http://127.0.0.1/a file.pth")
    assert list(cache.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_an_error_with_a_sentence(cache):
    cache.parent.write_text("a file in the way")
    with raises_user_error(zoo.ZOO["coco/small_12_p16"].url, cache):
        resolve("xcit://coco/small_12_p16")
