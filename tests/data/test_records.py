"""Records of many files: a process may open them all, or is refused in one line."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from show1_jax.data.records import RecordFile, Records
from show1_jax.errors import UserError

NUM_FILES = 40


@pytest.fixture
def files(tmp_path: Path) -> list[RecordFile]:
    from array_record.python.array_record_module import ArrayRecordWriter

    for number in range(NUM_FILES):
        writer = ArrayRecordWriter(str(tmp_path / str(number)), "group_size:1")
        writer.write(str(number).encode())
        writer.close()
    return [RecordFile(str(tmp_path / str(number)), 1) for number in range(NUM_FILES)]


@pytest.fixture
def open_files() -> Iterator[int]:
    """The number of open files; the limit that a test sets is removed at the end."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_files_than_the_usual_limit_are_read(files: list[RecordFile], open_files: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + NUM_FILES // 2, hard))
    records = Records(files, 100)
    records.check_counts()
    assert [records[number] for number in range(NUM_FILES)] == [str(number).encode() for number in range(NUM_FILES)]


def test_more_files_than_the_system_allows_are_refused(
    files: list[RecordFile], open_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, NUM_FILES))
    with pytest.raises(UserError, match=r"40 files, and a process may open 40; raise the limit \(`ulimit -Hn`\)"):
        Records(files, 100)
