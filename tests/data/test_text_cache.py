"""Untrusted caches of text states, and files of captions of any size."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.data import records, text_cache
from show1_jax.data.__main__ import main
from show1_jax.data.names import MAX_CAPTION
from show1_jax.data.text_cache import TextCache, collect_captions
from show1_jax.data.transfer.record import write_record
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from tests.helpers.buckets import BUCKET

CAPTIONS = sorted(["", "a red ball", "a blue box"], key=text_cache._key)
POSITIONS, WIDTH = 4, 8
RECORD = {
    "component": "text_t5",
    "encoder": "0" * 64,
    "text_padding": "zeros",
    "num_captions": len(CAPTIONS),
    "positions": POSITIONS,
    "width": WIDTH,
    "format": text_cache.CACHE_FORMAT,
}


def write_cache(folder: Path, *states: bytes, **changes: Any) -> Path:
    """Return a cache with the given first records."""
    folder.mkdir()
    (folder / "cache.json").write_text(json.dumps(RECORD | changes))
    (folder / "keys.bin").write_bytes(b"".join(map(text_cache._key, CAPTIONS)))
    write_states(folder / "states.array_record", [*states, *map(whole, range(len(states), len(CAPTIONS)))])
    return folder


def write_states(path: Path, states: Sequence[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in states:
        writer.write(record)
    writer.close()


def whole(number: int) -> bytes:
    """Return the states of a caption."""
    return np.full((2, WIDTH), number, ml_dtypes.bfloat16).tobytes()


def read(folder: Path) -> np.ndarray:
    return TextCache.open(folder, "text_t5", "zeros").read(CAPTIONS)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        read(folder)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    return str(raised.value)


def test_a_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cache(tmp_path / "cache")
    assert read(folder)[:, :, 0].astype(int).tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 0, 0]]
    monkeypatch.setenv("HOME", str(tmp_path))
    TextCache.open("~/cache", "text_t5", "zeros")
    with pytest.raises(UserError, match="not a URL that is supported"):
        TextCache.open("hdfs://bucket/cache", "text_t5", "zeros")


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_cache_in_a_bucket_is_that_on_disk(request: pytest.FixtureRequest, tmp_path: Path, scheme: str) -> None:
    request.getfixturevalue("gcs" if scheme == "gs" else "s3_session")
    folder = write_cache(tmp_path / "cache")
    write_record(folder)
    url = f"{scheme}://{BUCKET}/caches/t5"
    assert main(["upload", str(folder), "--out", url]) == 0
    cache = TextCache.open(url, "text_t5", "zeros", copies=str(tmp_path / "copies"))
    np.testing.assert_array_equal(cache.read(CAPTIONS), read(folder))
    (storage_path(url) / "states.array_record").write_bytes(b"x" * 100)
    assert TextCache.open(url, "text_t5", "zeros", copies=str(tmp_path / "copies")).record == cache.record
    with pytest.raises(UserError, match=r"states\.array_record: damaged, or changed while it was read"):
        TextCache.open(url, "text_t5", "zeros", copies=str(tmp_path / "others"))
    storage_path(url).remove_all()  # type: ignore[attr-defined]


def test_sizes_in_a_large_cache_are_not_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That would read all of it, however many files it has."""
    folder = write_cache(tmp_path / "cache", captions_per_file=2)
    for name, states in (("states-00000", range(2)), ("states-00001", range(2, 3))):
        write_states(folder / f"{name}.array_record", [whole(number) for number in states])
    checked: list[str] = []

    def check(file: records.RecordFile, _: int) -> set[int]:
        checked.append(file.filename)
        return set()

    monkeypatch.setattr(records, "too_large", check)
    for most, files in ((3, 2), (2, 0)):
        monkeypatch.setattr(records, "MAX_CHECKED", most)
        checked.clear()
        read(folder)
        assert len(checked) == files


def test_states_in_several_files(tmp_path: Path) -> None:
    """The number of files is what the record says, also a wrong one."""
    folder = write_cache(tmp_path / "cache", captions_per_file=2)
    (folder / "states.array_record").unlink()
    for name, states in (("states-00000", range(2)), ("states-00001", range(2, 3))):
        write_states(folder / f"{name}.array_record", [whole(number) for number in states])
    expected = read(write_cache(tmp_path / "one"))
    np.testing.assert_array_equal(read(folder), expected)
    (folder / "states-00001.array_record").unlink()
    assert "No such file" in refusal(folder)
    record = json.loads((folder / "cache.json").read_text())
    for wrong in (1, 3, -1, 10**10):
        (folder / "cache.json").write_text(json.dumps(record | {"captions_per_file": wrong}))
        refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_captions": "3"},
        {"num_captions": 3.0},
        {"num_captions": True},
        {"num_captions": 0},
        {"num_captions": 10**30},
        {"positions": 10**9},
        {"positions": -4, "width": -8},
        {"width": 10**400},
        {"width": None},
        {"component": ["text_t5"]},
        {"text_padding": {}},
        {"encoder": 0},
        {"more": 1},
        {"format": "show1_jax.text_cache.v2"},
        {"format": ["x" * 10_000]},
    ],
)
def test_a_record_of_other_types_or_sizes_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    message = refusal(write_cache(tmp_path / "cache", **changes))
    assert "cache.json: " in message or "format" in message or "different caches" in message


@given(st.binary(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_record_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    folder = write_cache(tmp_path_factory.mktemp("any") / "cache")
    (folder / "cache.json").write_bytes(content.encode() if isinstance(content, str) else content)
    refusal(folder)


@pytest.mark.parametrize("name", ["cache.json", "keys.bin", "states.array_record"])
@pytest.mark.parametrize("swap", ["link", "loop", "fifo", "folder", "device", "gone", "empty"])
def test_only_files_of_the_cache_itself_are_read(tmp_path: Path, name: str, swap: str) -> None:
    path = write_cache(tmp_path / "cache") / name
    shutil.move(path, tmp_path / "elsewhere")
    swaps: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "loop": lambda: path.symlink_to(path.name),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "gone": lambda: None,
        "empty": path.touch,
    }
    swaps[swap]()
    refusal(path.parent)


@pytest.mark.parametrize(
    ("states", "says"),
    [
        (bytes(5 * 2 * WIDTH), "declares more than 64 bytes"),
        (bytes(2 * WIDTH + 2), "a caption has 18 bytes of states"),
        (bytes(3), "a caption has 3 bytes of states"),
        (bytes(1 << 20), "declares more than 64 bytes"),
    ],
)
def test_states_that_do_not_fit_are_refused(tmp_path: Path, states: bytes, says: str) -> None:
    assert says in refusal(write_cache(tmp_path / "cache", states))


def test_another_number_of_states_is_refused(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", num_captions=2)
    (folder / "keys.bin").write_bytes(b"".join(map(text_cache._key, CAPTIONS[:2])))
    assert "states.array_record has 3 records, not 2" in refusal(folder)


# Files of captions


def test_captions_are_read_a_line_at_a_time(tmp_path: Path) -> None:
    longest = "x" * MAX_CAPTION
    (tmp_path / "captions").write_bytes(f"\ufeffone\r\n\n two \rl\u00e4st\n{longest}\none".encode())
    assert collect_captions(file=tmp_path / "captions") == {"one", " two ", "l\u00e4st", longest}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"one\n{'x' * (MAX_CAPTION + 1)}\n".encode(), "captions, line 2: more than 10,000 characters"),
        (b"x" * (1 << 22), "captions, line 1: more than 10,000 characters"),
        (b"one\ncaf\xe9\n", "captions: cannot be read as UTF-8 text"),
        ("one\n".encode("utf-16"), "captions: cannot be read as UTF-8 text"),
    ],
)
def test_captions_without_bound_are_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "captions").write_bytes(content)
    with pytest.raises(UserError, match=says) as raised:
        collect_captions(file=tmp_path / "captions")
    assert "\n" not in str(raised.value)


def test_captions_are_read_of_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2 << 30)
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "gone", tmp_path / "large"):
        with pytest.raises(UserError, match=r"cannot be read as UTF-8 text|more than 1 GiB") as raised:
            collect_captions(file=path)
        assert "\n" not in str(raised.value)
