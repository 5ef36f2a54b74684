"""Local copies of datasets and text caches that are in buckets, made once by each host and used by all its processes.

A copy is a folder that is named after the hash of its `files.json`, which is written last: a copy that has it is whole.
Each file is compared with its hash before it gets its name. What a killed process has read is used by the next one.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from show1_jax.buckets.path import BucketPath
from show1_jax.config.training import LOCAL_COPIES
from show1_jax.data.pools import map_in_order, pool
from show1_jax.data.transfer.record import RECORD, UPLOAD, FileTable, StoredFile, read_record
from show1_jax.errors import UserError, disk_error
from show1_jax.files import check_space, user_path, write_bytes
from show1_jax.parallel.processes import wait_for_all_processes
from show1_jax.progress import Bar, say

_PART_BYTES: Final = 16 << 20
_THREADS: Final = 8
_MAX_NAME: Final = 50
_LOCK: Final = ".lock"
_UNFINISHED: Final = ".unfinished"
_REMEDY: Final = "make room, or choose another folder as local_copies"


def local_copy(folder: Path, copies: str | Path = LOCAL_COPIES) -> Path:
    """Return a local folder with the files of `folder`: itself, or a copy of one in a bucket.

    If several processes of a host call this, one of them reads the bucket, and the others wait for it. The files of a
    copy that is whole are not hashed again; each record of an ArrayRecord file has its own checksum.

    Args:
        folder: folder of a dataset or of a text cache.
        copies: folder of all local copies.

    Raises:
        UserError: the folder or one of its files is missing or damaged, the server does not answer, or the disk is too
            small.
    """
    if not isinstance(folder, BucketPath):
        return folder
    content, files = read_record(folder)
    copy = user_path(copies) / f"{folder.name[:_MAX_NAME]}-{hashlib.sha256(content).hexdigest()[:16]}"
    if not _is_whole(copy, content, files):
        try:
            with _lock(copy):
                if not _is_whole(copy, content, files):
                    _download(folder, copy, files)
                    write_bytes(copy / RECORD, content)
        except OSError as error:
            line = disk_error(error) or f"cannot be written ({error.strerror})"
            raise UserError(f"{copy}: {line}; {_REMEDY}") from error
    return copy


def local_copies(folders: Sequence[Path], copies: Sequence[str | Path]) -> list[Path]:
    """Return `local_copy` of several folders, when all processes have theirs: other hosts may take minutes longer.

    Args:
        folders: folders of datasets and text caches, the same in all processes.
        copies: for each of them, the folder of all local copies.

    Raises:
        UserError: see `local_copy`.
    """
    found = [local_copy(folder, place) for folder, place in zip(folders, copies, strict=True)]
    if any(isinstance(folder, BucketPath) for folder in folders):
        wait_for_all_processes("data")
    return found


def _is_whole(copy: Path, content: bytes, files: FileTable) -> bool:
    try:
        return (copy / RECORD).read_bytes() == content and all(
            (copy / name).stat().st_size == file.size for name, file in files.items()
        )
    except OSError:
        return False


@contextmanager
def _lock(copy: Path) -> Iterator[None]:
    """Hold the lock of a copy while the block lasts; it ends with the process."""
    copy.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(copy / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"{copy}: waiting for another process that makes this copy")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{copy}: cannot be locked ({error.strerror}); choose a local disk as local_copies"
            ) from None
        yield
    finally:
        os.close(descriptor)


class _Part(NamedTuple):
    """Bytes `start` to `stop` of a file."""

    name: str
    start: int
    stop: int


def _download(folder: BucketPath, copy: Path, files: FileTable) -> None:
    """Read the files that a copy lacks, several parts at the same time."""
    missing = {name: file for name, file in files.items() if not _has_size(copy / name, file.size)}
    done = {name: min(_size(_unfinished(copy, name)), file.size) for name, file in missing.items()}
    total = sum(file.size for file in missing.values())
    check_space(copy, total - sum(done.values()), _REMEDY)
    parts = (
        _Part(name, start, min(start + _PART_BYTES, file.size))
        for name, file in missing.items()
        for start in range(done[name], file.size, _PART_BYTES)
    )
    with (
        Bar(f"download {folder}", total, done=sum(done.values()), unit="B", leave=False) as bar,
        pool(0, threads=_THREADS) as executor,
    ):
        read = map_in_order(executor, partial(_read, folder), parts, _THREADS)
        for name, file in missing.items():
            num_parts = -(-(file.size - done[name]) // _PART_BYTES)
            _write(folder, copy, name, file, (next(read) for _ in range(num_parts)), bar)


def _read(folder: BucketPath, part: _Part) -> bytes:
    try:
        return folder.bucket.read_range((folder / part.name).key, part.start, part.stop)
    except FileNotFoundError:
        raise UserError(f"{folder / part.name}: missing; upload the folder again with `{UPLOAD}`") from None


def _write(folder: BucketPath, copy: Path, name: str, file: StoredFile, read: Iterator[bytes], bar: Bar) -> None:
    """Append the parts of a file to what is there, and give it its name if the hash is right."""
    unfinished, digest = _unfinished(copy, name), hashlib.sha256()
    with open(unfinished, "a+b") as target:
        target.seek(0)
        while part := target.read(_PART_BYTES):
            digest.update(part)
        for part in read:
            target.write(part)
            digest.update(part)
            bar.update(len(part))
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != file.sha256:
        unfinished.unlink()
        raise UserError(
            f"{folder / name}: damaged, or changed while it was read (its hash is not that of {RECORD}); run this "
            f"again, and if that does not help, upload the folder again with `{UPLOAD}`"
        )
    os.replace(unfinished, copy / name)


def _unfinished(copy: Path, name: str) -> Path:
    return copy / f"{name}{_UNFINISHED}"


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
