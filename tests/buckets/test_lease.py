"""The lease of a folder in a bucket: one owner at a time, whatever happens to it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from show1_jax.buckets import lease as module
from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.lease import LEASE, check_lease, leased_folder
from show1_jax.buckets.path import BucketPath
from show1_jax.errors import UserError
from show1_jax.files import locked_folder, storage_path
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import Answer, GcsServer, Request

WAIT = 60.0
"""Seconds after which a test fails or a lease expires, where nothing should take that long."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.05)
    monkeypatch.setattr(module, "EXPIRY_SECONDS", 0.4)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.0)


def folder_of(scheme: str = "gs") -> BucketPath:
    path = storage_path(f"{scheme}://{BUCKET}/run")
    assert isinstance(path, BucketPath)
    return path


def other_owner(**changes: Any) -> bytes:
    """Return the lease of a process on another machine."""
    return json.dumps({"id": "1", "host": "elsewhere", "pid": 7, "boot": "x", "pids": "y"} | changes).encode()


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_one_owner_at_a_time(scheme: str, quick: None, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("gcs" if scheme == "gs" else "s3_session")
    folder = folder_of(scheme)
    for _ in range(2):
        with locked_folder(folder):
            assert (folder / LEASE).is_file()
            refused = pytest.raises(
                UserError, match=r"run: process \d+ of .* is writing there; wait until it has ended"
            )
            with refused, locked_folder(folder):
                pass
            check_lease(folder / "checkpoints" / "1")
        assert not (folder / LEASE).exists()
    check_lease(folder / "checkpoints")  # without a lease, nothing is checked


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(gcs: GcsServer) -> None:
    code = (
        "import os, signal\nfrom show1_jax.files import locked_folder, storage_path\n"
        f"with locked_folder(storage_path('gs://{BUCKET}/run')):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert gcs.names(BUCKET) == [f"run/{LEASE}"]
    with locked_folder(folder_of()):
        pass
    assert gcs.names(BUCKET) == []


@pytest.mark.parametrize("content", [other_owner(), b"no JSON", b"[]"])
def test_a_lease_that_is_not_renewed_expires(gcs: GcsServer, quick: None, content: bytes) -> None:
    gcs.write(BUCKET, f"run/{LEASE}", content)
    with leased_folder(folder_of()):
        pass
    assert gcs.names(BUCKET) == []


def test_a_lease_that_is_renewed_is_respected(
    gcs: GcsServer, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EXPIRY_SECONDS", WAIT)
    gcs.write(BUCKET, f"run/{LEASE}", other_owner())
    renewal = threading.Timer(0.1, lambda: gcs.write(BUCKET, f"run/{LEASE}", other_owner(renewed=2)))
    renewal.start()
    with pytest.raises(UserError, match="process 7 of elsewhere is writing there"), leased_folder(folder_of()):
        pass
    renewal.join()
    assert gcs.names(BUCKET) == [f"run/{LEASE}"]
    assert "waiting at most" in capsys.readouterr().out


def test_a_lease_that_is_released_and_taken_by_another_is_respected(gcs: GcsServer, quick: None) -> None:
    """The object is there at the failed write and its check, is gone at the next read, and is another's then."""
    events = iter([lambda: None, gcs.objects[BUCKET].clear, lambda: gcs.write(BUCKET, f"run/{LEASE}", other_owner())])

    def at_request(request: Request) -> None:
        if request.method == "GET" and request.name:
            next(events, lambda: None)()

    gcs.write(BUCKET, f"run/{LEASE}", other_owner())
    gcs.fault = at_request
    with pytest.raises(UserError, match="process 7 of elsewhere is writing there"), leased_folder(folder_of()):
        pass
    assert next(events, None) is None
    assert gcs.names(BUCKET) == [f"run/{LEASE}"]


def test_a_lease_that_is_released_while_another_waits_is_free(
    gcs: GcsServer, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPIRY_SECONDS", WAIT)
    gcs.write(BUCKET, f"run/{LEASE}", other_owner())
    release = threading.Timer(0.1, lambda: gcs.objects[BUCKET].clear())
    release.start()
    with leased_folder(folder_of()):
        pass
    release.join()


def test_the_thread_renews(gcs: GcsServer, quick: None) -> None:
    with leased_folder(folder_of()):
        first = gcs.objects[BUCKET][f"run/{LEASE}"]
        deadline = time.monotonic() + WAIT
        while gcs.objects[BUCKET][f"run/{LEASE}"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_owner_that_was_replaced_stops_before_it_writes(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.0)
    with leased_folder(folder_of()):
        gcs.write(BUCKET, f"run/{LEASE}", other_owner())
        for _ in range(2):
            with pytest.raises(UserError, match="another process writes there, because this one did not answer"):
                check_lease(folder_of() / "checkpoints")
    assert gcs.objects[BUCKET][f"run/{LEASE}"][0] == other_owner()  # it is the other's, and stays


def test_checks_within_a_second_are_one_write(gcs: GcsServer) -> None:
    with leased_folder(folder_of()):
        written = gcs.objects[BUCKET][f"run/{LEASE}"]
        check_lease(folder_of())
        assert gcs.objects[BUCKET][f"run/{LEASE}"] == written


def test_a_bucket_that_does_not_exist(gcs: GcsServer, s3_session: str) -> None:
    for scheme in ("gs", "s3"):
        folder = storage_path(f"{scheme}://no-such-bucket/run")
        with (
            pytest.raises(UserError, match=f"{scheme}://no-such-bucket: there is no such bucket"),
            locked_folder(folder),
        ):
            pass


def test_a_renewal_whose_answer_is_lost_is_no_loss(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.0)

    def after(number: int, fault: Answer) -> Callable[[Request], Answer | None]:
        writes = iter([None] * number + [fault])
        return lambda request: next(writes, None) if request.method == "POST" else None

    gcs.fault = after(0, Answer(loses=True))
    with leased_folder(folder_of()):
        gcs.fault = after(0, Answer(loses=True))
        check_lease(folder_of())


def test_a_renewal_that_an_outage_hid_is_no_loss(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server writes the object, and then answers no request for so long that the renewal fails."""
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.0)
    with leased_folder(folder_of()):
        renewal = iter([Answer(loses=True)])
        gcs.fault = lambda request: next(renewal, Answer(status=503))
        with pytest.raises(BucketError, match="does not answer"):
            check_lease(folder_of())
        gcs.fault = lambda request: None
        check_lease(folder_of())
        check_lease(folder_of())
    assert gcs.names(BUCKET) == []


def test_a_renewal_counts_from_its_request(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer may come a minute later, when the lease has nearly expired."""
    monkeypatch.setattr(module, "_RECENT_SECONDS", 0.2)
    with leased_folder(folder_of()):
        time.sleep(0.25)
        gcs.fault = lambda request: Answer(delay=0.25)
        check_lease(folder_of())
        renewed = gcs.objects[BUCKET][f"run/{LEASE}"]
        check_lease(folder_of())
        assert gcs.objects[BUCKET][f"run/{LEASE}"] != renewed


def test_a_folder_that_cannot_be_listed_is_refused(gcs: GcsServer) -> None:
    """TensorStore returns an empty list where listing is denied, which would look like a new run."""
    gcs.fault = lambda request: Answer(status=403) if request.method == "GET" and not request.name else None
    with pytest.raises(UserError, match="its objects cannot be listed"), leased_folder(folder_of()):
        pass
    assert gcs.names(BUCKET) == []
