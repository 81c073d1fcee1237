"""A model hub that speaks the Hugging Face hub's HTTP, as far as its client asks: in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Commits = dict[str, dict[str, bytes]]  # commit -> path -> content, in the order of commits


class Hub(ThreadingHTTPServer):
    """Repositories by name, and the paths that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, Commits] = {}
        self.asked: list[str] = []
        self.token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        commits = self.repositories.setdefault(repo, {})
        whole = (list(commits.values())[-1] if commits else {}) | files
        oid = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        commits[oid] = whole
        return oid


@contextmanager
def hub_double() -> Generator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Answer(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = found.groups()
            commit, files = self._files(repo, revision)
            if name in files:
                etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
                return self._send(200, files[name], {"ETag": etag, "X-Repo-Commit": commit})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            repo, what, revision = found.groups()
            commit, files = self._files(repo, revision or "main")
            if commit:
                listed = [
                    {"type": "file", "path": n, "rfilename": n, "size": len(c), "oid": "0" * 40}
                    for n, c in files.items()
                ]
                about = {"id": repo, "sha": commit, "siblings": listed}
                return self._json(200, listed if what == "tree" else about)
        return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            return self._send(401, b"{}", {})
        if self.path == "/api/repos/create":
            about = json.loads(body)
            repo = "/".join(filter(None, [about.get("organization"), about["name"]]))
            self.server.repositories.setdefault(repo, {})
            return self._json(200, {"url": f"{self.server.url}/{repo}", "name": repo})
        if self.path == "/api/validate-yaml":
            return self._json(200, {"warnings": [], "errors": []})
        repo, what = re.match(r"/api/models/([^/]+/[^/]+)/(\w+)", self.path).groups()  # pyright: ignore
        if what == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._json(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        oid = self.server.commit(repo, added)
        url = f"{self.server.url}/{repo}/commit/{oid}"
        return self._json(200, {"commitOid": oid, "commitUrl": url, "success": True})

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = self.server.repositories.get(repo, {})
        commit = next(reversed(commits), "") if revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else ("", {})

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
