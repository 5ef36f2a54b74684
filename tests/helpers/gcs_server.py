"""A server of the parts of Google Cloud Storage's JSON API that TensorStore uses, with objects in memory and faults.

Source of the interface: https://cloud.google.com/storage/docs/json_api/v1
"""

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_PAGE = 100
"""Objects in one page of a listing; the service's own pages have 1000."""


class Request(NamedTuple):
    """A request as faults see it: the method, the path, and the object's name (empty for a listing)."""

    method: str
    path: str
    name: str


class Answer(NamedTuple):
    """A fault: what the server does in place of its answer.

    Attributes:
        status: status of an error to answer with; 0: answer as usual.
        delay: seconds to wait before answering.
        drops: close the connection without an answer.
        halves: close the connection after half of the body.
        loses: do what is asked, and close the connection without an answer.
    """

    status: int = 0
    delay: float = 0.0
    drops: bool = False
    halves: bool = False
    loses: bool = False


class GcsServer:
    """A server on loopback; a context manager.

    Attributes:
        objects: content and generation of every object, by bucket and name. Tests may read and change them.
        requests: all requests so far.
        fault: returns the fault of a request, or None; it is called before the request is served.
        token: if not empty, requests need this bearer token.
    """

    def __init__(self, *buckets: str):
        self.objects: dict[str, dict[str, tuple[bytes, int]]] = {bucket: {} for bucket in buckets}
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Answer | None] = lambda request: None
        self.token = ""
        self.lock = threading.Lock()
        self.generation = 1000
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send TensorStore to this server."""
        return {"TENSORSTORE_GCS_HTTP_URL": self.url}

    def __enter__(self) -> "GcsServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """Remove all objects and faults."""
        for objects in self.objects.values():
            objects.clear()
        self.requests.clear()
        self.fault = lambda request: None

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the sorted names of a bucket's objects that begin with `prefix`."""
        with self.lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def write(self, bucket: str, name: str, content: bytes) -> int:
        """Write an object, and return its generation."""
        with self.lock:
            self.generation += 1
            self.objects[bucket][name] = content, self.generation
            return self.generation


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors, except those of connections that a killed process leaves."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: otherwise each answer waits 40 ms
    disable_nagle_algorithm = True
    store: GcsServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        match = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?", url.path)
        self.loses = self.halves = False
        if match is None:
            return self._answer(404, b"{}")
        bucket, name = unquote(match[2]), unquote(match[3]) if match[3] else query.get("name", "")
        request = Request(method, url.path, name)
        self.store.requests.append(request)
        fault = self.store.fault(request) or Answer()
        time.sleep(fault.delay)
        self.loses, self.halves = fault.loses, fault.halves
        if fault.drops:
            self.close_connection = True
            return None
        if fault.status:
            return self._answer(fault.status, b'{"error": {"message": "a fault of the test"}}')
        if self.store.token and self.headers.get("Authorization") != f"Bearer {self.store.token}":
            return self._answer(401, b'{"error": {"message": "Anonymous caller does not have access"}}')
        if bucket not in self.store.objects:
            return self._answer(404, b'{"error": {"message": "The specified bucket does not exist."}}')
        if method == "GET" and not name:
            return self._list(bucket, query)
        if method == "GET":
            return self._read(bucket, name, query)
        return self._write(bucket, name, query, body if method == "POST" else None)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        first, end = query.get("startOffset", ""), query.get("endOffset", "")
        names = [name for name in self.store.names(bucket) if name >= first and (not end or name < end)]
        names = [name for name in names if name > query.get("pageToken", "")]
        page = names[:_PAGE]
        answer: dict[str, Any] = {"items": [{"name": name, "size": str(self._size(bucket, name))} for name in page]}
        if len(names) > _PAGE:
            answer["nextPageToken"] = page[-1]
        self._answer(200, json.dumps(answer).encode())

    def _size(self, bucket: str, name: str) -> int:
        return len(self.store.objects[bucket].get(name, (b"", 0))[0])

    def _read(self, bucket: str, name: str, query: dict[str, str]) -> None:
        content, generation = self.store.objects[bucket].get(name, (b"", 0))
        if not generation:
            return self._answer(404, b"{}")
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304, b"")
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self._answer(412, b"{}")
        headers = {"x-goog-generation": str(generation)}
        if query.get("alt") != "media":
            return self._answer(200, json.dumps(_resource(name, content, generation)).encode(), headers)
        total, status = len(content), 200
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(match[1]) if match[1] else max(0, total - int(match[2]))
            last = min(int(match[2]), total - 1) if match[1] and match[2] else total - 1
            if first >= total:
                return self._answer(416, b"", {"Content-Range": f"bytes */{total}"})
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        return self._answer(status, content, headers)

    def _write(self, bucket: str, name: str, query: dict[str, str], content: bytes | None) -> None:
        with self.store.lock:
            generation = self.store.objects[bucket].get(name, (b"", 0))[1]
            if query.get("ifGenerationMatch", str(generation)) != str(generation):
                return self._answer(412, b"{}")
            if content is None:
                found = self.store.objects[bucket].pop(name, None)
                return self._answer(404 if found is None else 204, b"")
            self.store.generation += 1
            self.store.objects[bucket][name] = content, self.store.generation
            resource = _resource(name, content, self.store.generation)
        return self._answer(200, json.dumps(resource).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.loses:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.halves else body)
        self.close_connection = self.close_connection or self.halves


def _resource(name: str, content: bytes, generation: int) -> dict[str, str]:
    return {"kind": "storage#object", "name": name, "size": str(len(content)), "generation": str(generation)}
