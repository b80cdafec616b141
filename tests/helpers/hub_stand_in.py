"""A hub of data sets on loopback, with the few addresses that huggingface_hub and datasets ask for."""

import json
import os
import threading
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves the data set ``me/intents`` from the folder that the server has; its one branch is ``main``."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        begin = "/api/datasets/me/intents"
        if path in (begin, f"{begin}/revision/main", f"{begin}/revision/{COMMIT}"):
            files = [{"rfilename": file.name} for file in self.files()]
            self.say(
                {"id": "me/intents", "sha": COMMIT, "private": False, "tags": [], "siblings": files, "downloads": 0, "likes": 0}
            )
        elif path.startswith(f"{begin}/tree/{COMMIT}"):
            inside = path.removeprefix(f"{begin}/tree/{COMMIT}").strip("/")
            self.say([] if inside else [self.described(file) for file in self.files()])
        elif path.startswith(f"/datasets/me/intents/resolve/{COMMIT}/"):
            file = self.server.folder / path.rpartition("/")[2]
            if file.is_file():
                self.send(file.read_bytes(), "application/octet-stream")
            else:
                self.say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self):
        self.server.asked.append(f"POST {self.path}")
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        named = {file.name: file for file in self.files()}
        self.say([self.described(named[name]) for name in content.get("paths", []) if name in named])

    def files(self):
        return sorted(self.server.folder.iterdir())

    def described(self, file):
        content = file.read_bytes()
        return {"type": "file", "path": file.name, "size": len(content), "oid": sha1(content).hexdigest()}

    def say(self, content, status=200, headers=None):
        self.send(json.dumps(content).encode(), "application/json", status, headers)

    def send(self, content, kind, status=200, headers=None):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "ETag": f'"{sha1(content).hexdigest()}"',
                   "X-Repo-Commit": COMMIT, **(headers or {})}  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub(folder: Path):
    """A hub that serves the folder's files, as the environment of a process that asks it, and what it was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    try:
        yield environment | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}, server.asked
    finally:
        server.shutdown()
        server.server_close()
