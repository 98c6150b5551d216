"""Published weights by name: their addresses, and how they get onto this machine."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from xcit_dense import zoo

CONTENT = bytes(range(256)) * 300


class Server(ThreadingHTTPServer):
    """A web server on this machine: /NAME.pth is CONTENT, /cut.pth breaks off, /none.pth is absent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.send_response(404 if self.path == "/none.pth" else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut.pth" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where downloads go: an empty directory."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def closed_address():
    """An address on this machine at which nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_names_and_addresses_are_the_published_ones(reference):
    published = {name: entry["url"] for name, entry in reference("zoo")["imagenet"].items()}
    assert len(published) == 42
    assert published == zoo.CLASSIFIERS


@pytest.mark.parametrize("path", ["some/where.pth", Path("some/where.pth"), "/some/where.safetensors"])
def test_a_path_is_passed_on(path):
    assert zoo.locate(path) == Path(path)


def test_an_unknown_name_is_answered_with_all_names_and_the_nearest(user_error):
    with user_error("'nano_12_p16'", "Did you mean 'nano_12_p16_", *zoo.CLASSIFIERS):
        zoo.locate("xcit://nano_12_p16")


def test_a_name_is_downloaded_once(server, cache, monkeypatch):
    monkeypatch.setitem(zoo.CLASSIFIERS, "nano_12_p16_224", f"{server.address}/xcit_nano_12_p16_224.pth")
    first = zoo.locate("xcit://nano_12_p16_224")
    assert first == cache / "xcit_nano_12_p16_224.pth"
    assert first.read_bytes() == CONTENT
    assert zoo.locate("xcit://nano_12_p16_224") == first
    assert server.requests == ["/xcit_nano_12_p16_224.pth"]
    assert list(cache.iterdir()) == [first]


def test_an_address_is_downloaded(server):
    assert zoo.locate(f"{server.address}/other.pth").read_bytes() == CONTENT


def test_a_file_put_in_place_by_hand_is_not_downloaded(cache):
    cache.mkdir(parents=True)
    file = cache / "xcit_nano_12_p16_224.pth"
    file.write_bytes(b"weights")
    assert zoo.locate("xcit://nano_12_p16_224") == file
    assert file.read_bytes() == b"weights"


def test_offline_the_error_has_the_address_and_the_place_for_the_file(closed_address, cache, monkeypatch, user_error):
    address = f"{closed_address}/xcit_nano_12_p16_224.pth"
    monkeypatch.setitem(zoo.CLASSIFIERS, "nano_12_p16_224", address)
    with user_error(address, f"put it at {cache / 'xcit_nano_12_p16_224.pth'}"):
        zoo.locate("xcit://nano_12_p16_224")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("file", "reason"), [("none.pth", "404"), ("cut.pth", f"1000 of {len(CONTENT)} bytes")])
def test_a_download_that_fails_leaves_no_file_and_says_why(server, cache, user_error, file, reason):
    for _ in range(2):
        with user_error(f"{server.address}/{file}", reason, cache / file):
            zoo.locate(f"{server.address}/{file}")
        assert list(cache.iterdir()) == []
    assert server.requests == [f"/{file}"] * 2


def test_a_directory_that_cannot_be_made_is_an_error_with_a_sentence(server, cache, user_error):
    cache.parent.write_text("a file in the way")
    with user_error(f"{server.address}/other.pth", cache):
        zoo.locate(f"{server.address}/other.pth")
