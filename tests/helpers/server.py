"""A web server on this machine that serves checkpoints, well or badly."""

import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import safetensors.torch
import torch


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

    def do_HEAD(self):
        self.do_GET()

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
        if handler.command == "HEAD":
            return
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
