"""A Hugging Face hub on this machine: it takes commits and serves the files of repositories."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """The server. ``files`` has the content of each file by the name of its repository and its own name."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.asked = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def environment(self, directory):
        """The environment variables of a process that uses this hub, with its cache in a directory."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(directory),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
        }


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        content = self.server.files.get((repository, file))
        if repository not in {name for name, _ in self.server.files}:
            self.answer(404, b"", X_Error_Code="RepoNotFound")
        elif revision not in ("main", "v1"):
            self.answer(404, b"", X_Error_Code="RevisionNotFound")
        elif content is None:
            self.answer(404, b"", X_Error_Code="EntryNotFound")
        else:
            self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit="1" * 40)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.answer_json({"url": f"{self.server.address}/{name}", "name": name})
        elif path == "api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            self.answer_json({"files": files})
        elif "/commit/" in path:
            repository = path.removeprefix("api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[repository, line["value"]["path"]] = content
            url = f"{self.server.address}/{repository}/commit/{'1' * 40}"
            self.answer_json({"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer(404, b"")

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def answer(self, status, content, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def running_hub():
    """Runs a hub inside the context."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
