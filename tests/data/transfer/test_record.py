"""Untrusted `files.json`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.data.transfer.record import RECORD, StoredFile, describe, read_record, to_bytes, write_record
from show1_jax.errors import UserError

GOOD = {"size": 1, "sha256": "0" * 64}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b-00000-of-00001").write_bytes(b"abc")
    (tmp_path / ".hidden").touch()
    write_record(tmp_path)
    content, files = read_record(tmp_path)
    assert content == (tmp_path / RECORD).read_bytes()
    assert [(name, file.size) for name, file in files.items()] == [("a", 0), ("b-00000-of-00001", 3)]
    assert files["b-00000-of-00001"].sha256.startswith("ba7816bf")  # that of FIPS 180-2's first example
    assert describe(tmp_path) == files


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_record(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "files",
    [
        {},
        [],
        {"../a": GOOD},
        {"a/b": GOOD},
        {".hidden": GOOD},
        {RECORD: GOOD},
        {"": GOOD},
        {"x" * 121: GOOD},
        {"a": GOOD | {"more": 1}},
        {"a": {"size": 1}},
        {"a": GOOD | {"size": -1}},
        {"a": GOOD | {"size": True}},
        {"a": GOOD | {"size": 1 << 60}},
        {"a": GOOD | {"sha256": "0" * 63}},
        {"a": GOOD | {"sha256": 0}},
        {"a": None},
    ],
)
def test_names_and_values_of_others_are_refused(tmp_path: Path, files: Any) -> None:
    (tmp_path / RECORD).write_text(json.dumps({"format": "show1_jax.files.v1", "files": files}))
    assert f"{RECORD}: damaged" in refusal(tmp_path)


def test_a_missing_record_is_one_line(tmp_path: Path) -> None:
    assert f"({RECORD} is missing)" in refusal(tmp_path)
    assert f"({RECORD} is missing)" in refusal(tmp_path / "none")


@given(st.binary(max_size=40) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_content_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / RECORD).write_bytes(content.encode() if isinstance(content, str) else content)
    refusal(folder)


def test_a_flipped_bit_is_refused_or_changes_the_list(tmp_path: Path) -> None:
    files = {"a": StoredFile(1, "0" * 64), "b": StoredFile(20, "5" * 64)}
    good = to_bytes(files)
    for place in range(8 * len(good)):
        content = bytearray(good)
        content[place // 8] ^= 1 << place % 8
        (tmp_path / RECORD).write_bytes(content)
        with contextlib.suppress(UserError):
            assert read_record(tmp_path)[1] != files
