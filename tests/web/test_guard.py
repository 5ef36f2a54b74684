"""The guard in front of the page, with an application behind it that answers everything."""

import base64
from collections.abc import MutableMapping
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.web import guard
from show1_jax.web.guard import Credentials, Guard, is_loopback

CREDENTIALS = Credentials("me", "long: word")


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


def basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def answer(
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    credentials: Credentials | None = None,
    is_local: bool = True,
) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the text with which a request is answered."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing reads the request")

    all_headers = {"host": "127.0.0.1:7860", **(headers or {})}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in all_headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw}
    anyio.run(Guard(behind, credentials, is_local=is_local, upload_bytes=1 << 20), scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"].decode()


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_WRONG_PASSWORD_DELAY", 0.0)


def test_everything_but_health_needs_the_password() -> None:
    for path in ("/", "/config", "/outputs/a-1-0/run.json", "/gradio_api/file=/etc/passwd", "/gradio_api/upload"):
        code, headers, line = answer(path, credentials=CREDENTIALS)
        assert (code, "Basic" in headers["www-authenticate"]) == (401, True)
        assert "user name or the password" in line
        assert answer(path, basic("me", "wrong"), credentials=CREDENTIALS)[0] == 401
        assert answer(path, basic("you", "long: word"), credentials=CREDENTIALS)[0] == 401
    assert answer("/", basic("me", "long: word"), credentials=CREDENTIALS)[0] == 200
    assert answer("/health", credentials=CREDENTIALS)[0] == 200
    assert answer("/health", method="POST", credentials=CREDENTIALS)[0] == 401
    assert answer("/health/..", credentials=CREDENTIALS)[0] == 401


@given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60))
def test_no_other_header_is_accepted(header: str) -> None:
    assert not CREDENTIALS.accepts(header)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("evil.example", False),
        ("localhost.evil.example:7860", False),
        ("10.0.0.1:7860", False),
        ("", False),
        ("[", False),
        ("[::1", False),
        ("[evil.example]:7860", False),
    ],
)
def test_a_page_for_this_machine_has_names_of_this_machine_only(host: str, is_ours: bool) -> None:
    code, _, line = answer("/", {"host": host})
    assert code == (200 if is_ours else 403)
    assert is_ours or "SHOW1_WEB_USER" in line
    assert answer("/", {"host": host}, is_local=False)[0] == 200
    assert answer("/", {"host": host, **basic(*CREDENTIALS)}, credentials=CREDENTIALS)[0] == 200


def test_forms_of_other_sites_are_refused() -> None:
    path = "/gradio_api/run/predict"
    assert answer(path, {"origin": "http://evil.example"}, "POST")[0] == 403
    assert answer(path, {"origin": "null"}, "POST")[0] == 403
    assert answer(path, {"origin": "http://["}, "POST")[0] == 403
    assert answer(path, {"origin": "http://127.0.0.1:7860"}, "POST")[0] == 200
    proxied = {"host": "127.0.0.1:7860", "origin": "https://show.example", "x-forwarded-host": "show.example"}
    assert answer(path, proxied, "POST")[0] == 200
    assert answer(path, {}, "POST")[0] == 200  # no browser


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://evil.example/a.png",
        "/gradio_api/file=https:/evil.example/a.png",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=%68ttp://evil.example",
        "/gradio_api/proxy=https://evil.hf.space/",
        "/gradio_api/file=http://[",
    ],
)
def test_nothing_is_fetched_from_elsewhere(path: str) -> None:
    assert answer(path)[0] == 403


def test_large_uploads_are_refused_before_they_are_read() -> None:
    upload = "/gradio_api/upload"
    code, _, line = answer(upload, {"content-length": str(3 << 20)}, "POST")
    assert (code, "maximum allowed size of 1 MB" in line) == (413, True)
    assert answer(upload, {"content-length": str(1 << 20)}, "POST")[0] == 200


def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    for credentials in (None, CREDENTIALS):
        headers = answer("/", credentials=credentials)[1]
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_credentials_come_from_both_variables_or_from_none() -> None:
    assert Credentials.from_environment({}) is None
    both = {"SHOW1_WEB_USER": "me", "SHOW1_WEB_PASSWORD": "word"}
    assert Credentials.from_environment(both) == ("me", "word")
    for name in both:
        with pytest.raises(UserError, match="set both, or neither"):
            Credentials.from_environment({name: both[name]})
    with pytest.raises(UserError, match="colon"):
        Credentials.from_environment(both | {"SHOW1_WEB_USER": "a:b"})


def test_names_of_this_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "show.localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "example.org", "192.168.0.1")))
