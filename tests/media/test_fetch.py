"""Images of http addresses: downloaded up to a limit, and removed afterwards."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.media.fetch import fetched, is_address


@pytest.fixture
def serve():
    """Serves a content under every path. `None` means that there is no such file."""
    servers = []

    def start(content):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if content is not None else 404)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_file_is_downloaded_and_removed_afterwards(serve):
    address = f"{serve(b'x' * 3_000_000)}/photos/A.JPG?size=large"
    with fetched(address) as path:
        assert (path.suffix, path.read_bytes()) == (".jpg", b"x" * 3_000_000)
    assert not path.parent.exists()


def test_a_file_above_the_limit_is_refused(serve):
    with raises_user_error("more than 1,000 bytes", "give its path"), fetched(f"{serve(b'x' * 1001)}/a.jpg", 1000):
        pass
    with fetched(f"{serve(b'x' * 1000)}/a.jpg", 1000) as path:
        assert path.stat().st_size == 1000


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{}/a.jpg", ["404", "cannot be downloaded"]),
        ("http://127.0.0.1:1/a.jpg", ["refused", "check the address"]),
        ("http://[/a.jpg", ["cannot be downloaded"]),
        ("{}/a.mp4", ["is a video", "give its path"]),
    ],
)
def test_an_address_without_an_image_is_refused_by_name(serve, address, words):
    address = address.format(serve(None))
    with raises_user_error(address, *words), fetched(address):
        pass


def test_only_http_addresses_are_addresses():
    assert is_address("https://example.org/a.jpg")
    assert not is_address("file:///etc/passwd")
    assert not is_address("photos/http/a.jpg")
