"""Local copies of folders in buckets: exact, resumed, shared by processes, and faults in one line."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from show1_jax.buckets.path import BucketPath
from show1_jax.data.transfer import download
from show1_jax.data.transfer.download import local_copy
from show1_jax.data.transfer.record import RECORD, write_record
from show1_jax.data.transfer.upload import upload
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from tests.helpers.buckets import BUCKET
from tests.helpers.gcs_server import Answer, GcsServer, Request
from tests.helpers.processes import environment

CONTENT = {"large": np.random.default_rng(0).bytes(10_000), "one.part": b"x" * 1000, "empty": b"", "small": b"y"}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PART_BYTES", 1000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    write_record(folder)
    return folder


@pytest.fixture(params=["gs", "s3"])
def stored(request: pytest.FixtureRequest, source: Path) -> BucketPath:
    """The folder in a bucket of each kind."""
    request.getfixturevalue("gcs" if request.param == "gs" else "s3_session")
    return uploaded(source, request.param)


@pytest.fixture
def in_gcs(gcs: GcsServer, source: Path) -> BucketPath:
    return uploaded(source, "gs")


def uploaded(source: Path, scheme: str) -> BucketPath:
    out = storage_path(f"{scheme}://{BUCKET}/data/videos")
    assert isinstance(out, BucketPath)
    out.remove_all()
    upload(source, out)
    return out


def content_of(copy: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in copy.iterdir() if path.name not in (RECORD, ".lock")}


def refusal(stored: BucketPath, copies: Path) -> str:
    with pytest.raises(UserError) as raised:
        local_copy(stored, copies)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_copy_has_the_files_and_is_made_once(stored: BucketPath, tmp_path: Path) -> None:
    copy = local_copy(stored, tmp_path / "copies")
    assert content_of(copy) == CONTENT
    assert copy.parent == tmp_path / "copies"
    stamps = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    (stored / "large").unlink()
    assert local_copy(stored, tmp_path / "copies") == copy
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == stamps


def test_a_local_folder_is_its_own_copy(source: Path, tmp_path: Path) -> None:
    assert local_copy(source, tmp_path / "copies") == source
    assert not (tmp_path / "copies").exists()


def test_another_version_is_another_copy(in_gcs: BucketPath, source: Path, tmp_path: Path) -> None:
    first = local_copy(in_gcs, tmp_path / "copies")
    (source / "small").write_bytes(b"z")
    write_record(source)
    upload(source, in_gcs, overwrite=True)
    second = local_copy(in_gcs, tmp_path / "copies")
    assert (first / "small").read_bytes() == b"y"
    assert content_of(second) == CONTENT | {"small": b"z"}


def flip(name: str) -> Callable[[GcsServer], None]:
    def change(gcs: GcsServer) -> None:
        content = bytearray(gcs.objects[BUCKET][f"data/videos/{name}"][0])
        content[len(content) // 2] ^= 4
        gcs.write(BUCKET, f"data/videos/{name}", bytes(content))

    return change


def cut(gcs: GcsServer) -> None:
    gcs.write(BUCKET, "data/videos/large", CONTENT["large"][:-1])


def remove(name: str) -> Callable[[GcsServer], None]:
    return lambda gcs: gcs.objects[BUCKET].pop(f"data/videos/{name}") and None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip("large"), "data/videos/large: damaged, or changed while it was read"),
        (flip("small"), "data/videos/small: damaged"),
        (cut, "data/videos/large: damaged"),
        (remove("large"), "data/videos/large: missing; upload the folder again"),
        (remove(RECORD), f"its upload has not ended ({RECORD} is missing)"),
    ],
)
def test_damage_is_one_line_and_the_next_run_repeats_it_until_it_is_repaired(
    gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path, damage: Callable[[GcsServer], None], says: str
) -> None:
    good = dict(gcs.objects[BUCKET])
    damage(gcs)
    for _ in range(2):
        assert says in refusal(in_gcs, tmp_path / "copies")
    gcs.objects[BUCKET].update(good)
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT


def test_a_bucket_without_the_folder_and_without_an_answer(gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path) -> None:
    assert "no dataset or text cache there" in refusal(in_gcs.parent / "others", tmp_path / "copies")
    gcs.fault = lambda request: Answer(status=503) if request.name.endswith("large") else None
    assert "the server does not answer" in refusal(in_gcs, tmp_path / "copies")
    gcs.fault = lambda request: None
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT


def test_a_server_with_faults_is_survived(gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path) -> None:
    faults = (Answer(status=503), Answer(drops=True), Answer(halves=True), Answer(delay=0.1), Answer(status=429))
    seen: set[int] = set()

    def fault(_: Request) -> Answer | None:
        number = len(gcs.requests)
        if number % 3 or number in seen:
            return None
        seen.add(number)
        return faults[number // 3 % len(faults)]

    gcs.fault = fault
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT
    assert len(seen) > len(faults)


def test_what_an_ended_process_has_read_is_not_read_again(gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path) -> None:
    def end(request: Request) -> Answer | None:
        return Answer(status=403) if request.name.endswith("large") and num_read() == 5 else None

    def num_read() -> int:
        return sum(request.name.endswith("large") for request in gcs.requests) - 1

    gcs.requests.clear()
    gcs.fault = end
    assert "access is denied" in refusal(in_gcs, tmp_path / "copies")
    (copy,) = (tmp_path / "copies").iterdir()
    begun = (copy / "large.unfinished").stat().st_size
    assert 0 < begun < len(CONTENT["large"])
    assert not (copy / RECORD).exists()
    gcs.fault = lambda request: None
    gcs.requests.clear()
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT
    assert num_read() + 1 == (len(CONTENT["large"]) - begun) / 1000


def test_the_rest_of_a_crash_is_checked_as_well(in_gcs: BucketPath, tmp_path: Path) -> None:
    """Bytes that a crash of the machine has damaged on the disk are found, and read again by the next run."""
    copy = local_copy(in_gcs, tmp_path / "copies")
    (copy / RECORD).unlink()
    (copy / "large").unlink()
    (copy / "large.unfinished").write_bytes(bytes(3000))
    assert "large: damaged" in refusal(in_gcs, tmp_path / "copies")
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT
    (copy / "large").write_bytes(b"cut")
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT


def test_another_process_is_waited_for(
    gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs.requests.clear()
    gcs.fault = lambda request: Answer(delay=0.1) if request.name.endswith("large") else None
    threads = [threading.Thread(target=local_copy, args=(in_gcs, tmp_path / "copies")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (copy,) = (tmp_path / "copies").iterdir()
    assert content_of(copy) == CONTENT
    assert sum(request.name.endswith("large") for request in gcs.requests) == 10
    assert "waiting for another process that makes this copy" in capsys.readouterr().err


def test_a_killed_process_is_followed_by_the_next(gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom show1_jax.data.transfer import download\nfrom show1_jax.files import storage_path\n"
        "download._PART_BYTES = 1000\n"
        "download.local_copy(storage_path(sys.argv[1]), sys.argv[2])\n"
    )
    started = threading.Event()

    def stall(request: Request) -> Answer | None:
        if request.name.endswith("large") and len(gcs.requests) > 6:
            started.set()
            return Answer(delay=1.0)
        return None

    gcs.requests.clear()
    gcs.fault = stall
    arguments = [sys.executable, "-c", code, str(in_gcs), str(tmp_path / "copies")]
    process = subprocess.Popen(arguments, env=environment(1))
    assert started.wait(60)
    process.kill()
    process.wait()
    gcs.fault = lambda request: None
    assert content_of(local_copy(in_gcs, tmp_path / "copies")) == CONTENT


def test_a_disk_that_is_too_small_is_refused_first(
    gcs: GcsServer, in_gcs: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=11_000))
    gcs.requests.clear()
    line = refusal(in_gcs, tmp_path / "copies")
    assert "choose another folder as local_copies" in line
    assert RECORD not in line  # which is small
    assert not any(request.name.endswith("large") for request in gcs.requests)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=11_001))
    local_copy(in_gcs, tmp_path / "copies")


@pytest.mark.parametrize("failure", [OSError(28, os.strerror(28)), OSError(13, os.strerror(13))])
def test_a_disk_that_cannot_be_written_is_one_line(
    in_gcs: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: OSError
) -> None:
    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    assert "as local_copies" in refusal(in_gcs, tmp_path / "copies")


def test_a_file_system_without_locks_and_a_file_in_the_way(
    in_gcs: BucketPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert "as local_copies" in refusal(in_gcs, tmp_path / "file")

    def no_locks(*_: int) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert "cannot be locked" in refusal(in_gcs, tmp_path / "copies")


def test_copies_are_named_after_their_content(in_gcs: BucketPath, source: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256((source / RECORD).read_bytes()).hexdigest()
    assert local_copy(in_gcs, tmp_path).name == f"videos-{digest[:16]}"
