"""The guard in front of the page: it checks every request before Gradio sees it."""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from starlette.formparsers import MultiPartException

from show1_jax.errors import UserError

HEALTH: Final = "/health"
USER_VARIABLE, PASSWORD_VARIABLE = "SHOW1_WEB_USER", "SHOW1_WEB_PASSWORD"
_WRONG_PASSWORD_DELAY: Final = 1.0
"""Seconds until a wrong password is answered, against programs that try many."""
_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio has scripts in its page
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""Content Security Policy: the browser itself refuses requests to elsewhere."""
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_UPLOAD: Final = "/gradio_api/upload"
_FORM_BYTES: Final = 1 << 20
"""Bytes of an upload's form beside the file."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Credentials(NamedTuple):
    """The user name and password of a page."""

    user: str
    password: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Credentials | None":
        """Return those of the environment variables; None if there are none.

        Raises:
            UserError: one of the two is missing, or the user name has a colon.
        """
        user, password = environment.get(USER_VARIABLE, ""), environment.get(PASSWORD_VARIABLE, "")
        if bool(user) != bool(password):
            given, missing = (USER_VARIABLE, PASSWORD_VARIABLE) if user else (PASSWORD_VARIABLE, USER_VARIABLE)
            raise UserError(f"{given} is set and {missing} is not; set both, or neither")
        if ":" in user:
            raise UserError(f"{USER_VARIABLE} has a colon, which user names on the web cannot have; choose another")
        return cls(user, password) if user else None

    def accepts(self, header: str) -> bool:
        """Return whether an `Authorization` header has this user name and password."""
        kind, _, encoded = header.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        expected = f"{self.user}:{self.password}".encode()
        return hmac.compare_digest(given, expected) and kind.lower() == "basic"


class Guard:
    """An ASGI application that passes on what is allowed to another one.

    Every address except `/health` needs the password, if there is one. Without a password, a page that is bound to this
    machine is served under names of this machine only: otherwise a page from elsewhere could reach it through the
    user's browser (DNS rebinding). Forms of other sites, addresses that make Gradio fetch something from elsewhere, and
    uploads that are too large are refused; an upload that does not state its size is ended when it is too large.

    Args:
        application: the application behind the guard.
        credentials: user name and password; None: everybody may use the page.
        is_local: the page is bound to this machine.
        upload_bytes: largest number of bytes of a file.
    """

    def __init__(self, application: Application, credentials: Credentials | None, *, is_local: bool, upload_bytes: int):
        self._application, self._credentials = application, credentials
        self._is_local, self._upload_bytes = is_local, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page has no web sockets
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        refusal = await self._refusal(scope, headers)
        if refusal is None:
            limited = self._limited(receive) if _is_upload(scope) else receive
            await self._application(scope, limited, send_with_headers)
            return
        code, line = refusal
        extra = [(b"www-authenticate", b'Basic realm="Show-1", charset="UTF-8"')] if code == 401 else []
        body = f"{line}\n".encode()
        start = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *extra]
        await send_with_headers({"type": "http.response.start", "status": code, "headers": start})
        await send_with_headers({"type": "http.response.body", "body": body})

    async def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the line with which a request is refused; None: it is allowed."""
        path, host = scope["path"], headers.get("host", "")
        if path == HEALTH and scope["method"] in ("GET", "HEAD"):
            return None
        if self._credentials is None:
            if self._is_local and not is_loopback(_parts(f"//{host}").hostname or ""):
                return (
                    403,
                    f"this page is for this machine alone; set {USER_VARIABLE} and {PASSWORD_VARIABLE} to share it",
                )
        elif not self._credentials.accepts(headers.get("authorization", "")):
            if "authorization" in headers:
                await asyncio.sleep(_WRONG_PASSWORD_DELAY)
            return 401, "the user name or the password is wrong; reload the page to try again"
        origin = headers.get("origin")
        own = {host, headers.get("x-forwarded-host", host)}
        if scope["method"] != "GET" and origin is not None and _parts(origin).netloc not in own:
            return 403, "requests of other sites are refused"
        if _fetches_from_elsewhere(path):
            return 403, "this address is refused: nothing is fetched from elsewhere"
        length = headers.get("content-length", "")
        if _is_upload(scope) and length.isascii() and length.isdigit() and int(length) > self._most_bytes:
            return 413, self._too_large
        return None

    @property
    def _most_bytes(self) -> int:
        """Largest number of bytes of an upload: one file and its form."""
        return self._upload_bytes + _FORM_BYTES

    @property
    def _too_large(self) -> str:
        # Gradio answers with code 413 if a line has the words "maximum allowed size"
        return f"the upload is above the maximum allowed size of {self._upload_bytes >> 20} MB; send one smaller file"

    def _limited(self, receive: Receive) -> Receive:
        """Return a function that receives an upload up to its largest size: in chunks, it does not state its size."""
        received = 0

        async def receive_limited() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most_bytes:
                raise MultiPartException(self._too_large)  # Gradio removes the parts that it has written
            return message

        return receive_limited


def _is_upload(scope: Scope) -> bool:
    return bool(scope["path"].startswith(_UPLOAD) and scope["method"] == "POST")


def _fetches_from_elsewhere(path: str) -> bool:
    """Return whether Gradio would make a request to another server for this path."""
    _, has_file, file = unquote(path).partition("/file=")
    return "/proxy=" in path or (bool(has_file) and bool(_parts(file).scheme))


def _parts(address: str) -> SplitResult:
    """Return the parts of an address that a browser sent; one that is malformed has no host, and an unknown scheme."""
    try:
        return urlsplit(address)
    except ValueError:  # brackets that are no IPv6 address
        return SplitResult("malformed", "", "", "", "")


def is_loopback(host: str) -> bool:
    """Return whether a host name or an address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
