"""A local server that imitates the parts of the hub's API that downloads and uploads use."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from show1_jax.checkpoints import hub as our_hub

TOKEN = "hf_test"
LARGE = 1000
"""Files of more bytes are uploaded by LFS."""


@dataclass
class Repository:
    """A repository: the files of each commit, and the commits of its branches."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files to a branch."""
        digest = hashlib.sha1(repr([len(self.commits), sorted(files.items())]).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.branches[branch] = digest
        return digest

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """Return the files of a branch."""
        return self.commits[self.branches[branch]] if branch in self.branches else {}


@dataclass
class FakeHub:
    """The state of the server.

    Attributes:
        repositories: by `owner/name`.
        objects: uploaded LFS objects by their SHA-256.
        requests: `METHOD path` of every request.
        failures: status to answer with, by a part of `METHOD path`; used once each.
        dropped: paths whose next download ends after half of its bytes.
        damaged: paths of downloads whose last byte is changed.
        messages: messages of commits.
        page: content of the answers of `failures`.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    page: bytes = b"{}"

    def downloads(self) -> list[str]:
        """Return the files that were downloaded."""
        return [
            request.partition("/resolve/")[2].partition("/")[2]
            for request in self.requests
            if request.startswith("GET") and "/resolve/" in request
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def handle_one(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        line = f"{self.command} {path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        self.hub.requests.append(line)
        for part in [part for part in self.hub.failures if part in line]:
            status = self.hub.failures.pop(part)
            return self._send(self.hub.page, status, {"X-Error-Code": "RepoNotFound"} if status == 404 else {})
        if self.command in ("POST", "PUT"):
            return self._write(path, body)
        return self._read(path)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _is_allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _read(self, path: str) -> None:
        is_api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if owner == "gated":
            return self._send(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        if repository is None or (repository.private and not self._is_allowed()):
            return self._send(b"{}", 404 if self._is_allowed() else 401, {"X-Error-Code": "RepoNotFound"})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            if is_api and not repository.commits and revision == "main":
                return self._json({"id": f"{owner}/{name}", "private": repository.private, "siblings": []})
            return self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        files = repository.commits[commit]
        if is_api:
            siblings = [{"rfilename": file} for file in files]
            described = {"id": f"{owner}/{name}", "sha": commit, "private": repository.private, "siblings": siblings}
            return self._json(described)
        file = "/".join(rest[2:])
        if file not in files:
            return self._send(b"{}", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        return self._file(file, files[file], commit)

    def _file(self, file: str, content: bytes, commit: str) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        if file in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        status = 206 if "Range" in self.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        rest = content[start:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            if file in self.hub.dropped:
                self.hub.dropped.discard(file)
                rest = rest[: len(rest) // 2]
                self.close_connection = True
            self.wfile.write(rest)

    def _write(self, path: str, body: bytes) -> None:
        if path.startswith("objects/"):
            self.hub.objects[path.removeprefix("objects/")] = body
            return self._send(b"")
        if not self._is_allowed():
            return self._send(b"{}", 401)
        values = {} if path.endswith("-ndjson") or "/commit/" in path else json.loads(body or b"{}")
        if path == "api/validate-yaml":
            return self._json({})
        if path == "api/repos/create":
            name = f"{values['organization']}/{values['name']}"
            if name in self.hub.repositories:
                return self._send(b"{}", 409)
            self.hub.repositories[name] = Repository(values.get("visibility") == "private")
            return self._json({"url": f"{self.hub.endpoint}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._json({"objects": [self._lfs(entry) for entry in values["objects"]]})
        owner, name, action, *rest = path.removeprefix("api/models/").split("/")
        return self._change(f"{owner}/{name}", action, "/".join(rest), values, body)

    def _lfs(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.hub.objects:
            return entry
        return entry | {"actions": {"upload": {"href": f"{self.hub.endpoint}/objects/{entry['oid']}?signature=x"}}}

    def _change(self, name: str, action: str, branch: str, values: dict[str, Any], body: bytes) -> None:
        repository = self.hub.repositories[name]
        if action == "branch":
            repository.branches[branch] = repository.branches["main"]
            return self._json({})
        if action == "preupload":
            modes = {file["path"]: "lfs" if file["size"] > LARGE else "regular" for file in values["files"]}
            described = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._json({"files": described})
        assert action == "commit", action
        files = dict(repository.files(branch))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                assert entry["key"] == "deletedFile", entry
                del files[value["path"]]
        digest = repository.commit(files, branch)
        return self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{digest}", "commitOid": digest})

    def _json(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value).encode())

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Run a server while the block lasts."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Apply HF_ENDPOINT and HF_HOME, which the library reads only at import, and forget opened checkpoints."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_XET_CACHE": str(cache / "xet"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    our_hub._opened.clear()


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
