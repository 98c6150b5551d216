import socket
import threading

import pytest

from tests.helpers.server import Server
from xcit_dense.weights import download, zoo


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
