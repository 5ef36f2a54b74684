"""Random access to the records of untrusted ArrayRecord files.

An ArrayRecord file is a Riegeli records file, whose chunks are compressed: 200 kB can become gigabytes in memory. The
chunk headers contain the decompressed sizes, which are checked before a file is read.
"""

import contextlib
import os
import resource
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from show1_jax.errors import UserError
from show1_jax.files import open_regular

MAX_CHECKED: Final = 100_000
"""Maximum number of records of a file whose headers are all read first, which takes about 0.4 s; files with more are
not small downloads."""
_OTHER_FILES: Final = 256
"""Files that a process opens beside those of records."""
_BLOCK: Final = 1 << 16
_BLOCK_HEADER: Final = 24
_CHUNK_HEADER: Final = struct.Struct("<5Q")
_CHUNK_KINDS: Final = b"smrtp"
"""Signature, metadata, records, transposed records, padding."""
_INDEX_BYTES: Final = 64
"""Upper bound of a record's bytes in the index at the end of its file; the rest of the index is less than
`_INDEX_RECORDS` such entries."""
_INDEX_RECORDS: Final = 64
_MORE_CHUNKS: Final = 8
"""Upper bound of the chunks without records: signature, index, location of the index, and padding."""


@dataclass(frozen=True)
class RecordFile:
    """A file and its number of records, which lets `ArrayRecordDataSource` open the file only at the first read."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """Number of all records of the file."""
        return self.take


class Records:
    """The concatenated records of several files; safe in threads, and in processes that it is sent to."""

    def __init__(self, files: Sequence[RecordFile], max_bytes: int, *, together: bool = False):
        """Store the paths; the files are opened when they are first read.

        Args:
            files: the files that contain the records.
            max_bytes: maximum size of a record; one that declares more is not read.
            together: compare `MAX_CHECKED` with the records of all files, and not with those of each file.

        Raises:
            UserError: there are more files than this process may open.
        """
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        _allow_open_files(len(files))
        self._files = tuple(files)
        self._max_bytes = max_bytes
        self._total = sum(file.take for file in files) if together else 0
        self._too_large: dict[RecordFile, set[int]] = {}
        self._source = ArrayRecordDataSource(self._files)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of a record.

        Raises:
            ValueError: it declares more than `max_bytes`. ArrayRecord raises errors of several types for damage.
        """
        self._check(index)
        record: bytes = self._source[index]
        return record

    def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]:
        """Return several records, which are read in parallel."""
        for index in indices:
            self._check(index)
        records: Sequence[bytes] = self._source.__getitems__(indices)
        return records

    def check_counts(self) -> None:
        """Open all files and check their numbers of records.

        Raises:
            ValueError: a file has another number of records than its `RecordFile`.
        """
        from array_record.python.array_record_module import ArrayRecordReader

        for file in self._files:
            self._too_large_in(file)
            with contextlib.closing(ArrayRecordReader(file.filename)) as reader:
                if reader.num_records() != file.take:
                    raise ValueError(f"{Path(file.filename).name} has {reader.num_records()} records, not {file.take}")

    def _check(self, index: int) -> None:
        for file in self._files:
            if index < file.take:
                if index in self._too_large_in(file):
                    raise ValueError(f"it declares more than {self._max_bytes:,} bytes")
                return
            index -= file.take

    def _too_large_in(self, file: RecordFile) -> set[int]:
        if file not in self._too_large:
            is_small = max(file.take, self._total) <= MAX_CHECKED
            self._too_large[file] = too_large(file, self._max_bytes) if is_small else set()
        return self._too_large[file]


def _allow_open_files(count: int) -> None:
    """Let this process, and workers that it starts later, open more files: ArrayRecord keeps each file open.

    The usual limit is 1024, and a dataset of 260 GB has as many files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY:
        if count + _OTHER_FILES > hard:
            raise UserError(
                f"the data are in {count:,} files, and a process may open {hard:,}; raise the limit (`ulimit -Hn`)"
            )
        count = min(count, hard - soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft + count, hard))


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a file in an untrusted folder.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is a link, or not a regular file.
    """
    mode = (folder / name).lstat().st_mode
    if not stat.S_ISREG(mode):
        is_link = stat.S_ISLNK(mode)
        raise ValueError(f"{name} is {'a link: copy the file itself' if is_link else 'not a regular file'}")
    return folder / name


def too_large(file: RecordFile, max_bytes: int) -> set[int]:
    """Return the indices of records that declare more than `max_bytes`, without decompressing any.

    The check stops at the first damage: ArrayRecord detects damage, but does not limit sizes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has more records than `file` says, or its index, which ArrayRecord reads when it opens the file,
            is too large.
    """
    path, found, count = Path(file.filename), set[int](), 0
    for number, (num_records, num_bytes) in enumerate(_chunks(path)):
        if number > file.take + _MORE_CHUNKS:
            raise ValueError(f"{path.name} has more records than {file.take}")
        if count >= file.take and num_bytes > _INDEX_BYTES * (file.take + _INDEX_RECORDS):
            raise ValueError(f"{path.name} declares an index of {num_bytes:,} bytes")
        if count < file.take and num_bytes > max_bytes:
            found.update(range(count, min(count + num_records, file.take)))
        count += num_records
    return found


def _chunks(path: Path) -> Iterator[tuple[int, int]]:
    """Yield the number of records in each chunk and its decompressed size, up to the first damage.

    https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md: every 64 KiB block begins with a
    header, which may interrupt a chunk. A position here is an offset that does not count these headers.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while (offset := _to_file_offset(position)) < size:
            data = os.pread(file.fileno(), _CHUNK_HEADER.size + _BLOCK_HEADER, offset)
            rest = _BLOCK - offset % _BLOCK
            if rest < _CHUNK_HEADER.size:
                data = data[:rest] + data[rest + _BLOCK_HEADER :]
            if len(data) < _CHUNK_HEADER.size:
                return
            _, data_size, _, kind_and_records, decoded_size = _CHUNK_HEADER.unpack(data[: _CHUNK_HEADER.size])
            num_records, kind = divmod(kind_and_records, 0x100)
            if kind not in _CHUNK_KINDS:
                return
            yield num_records, decoded_size
            # A chunk takes at least one byte for each record, so that every record has a different position.
            begin = offset - _BLOCK_HEADER if offset % _BLOCK == _BLOCK_HEADER else offset
            position = max(position + _CHUNK_HEADER.size + data_size, _to_data_position(begin + num_records))


def _to_file_offset(position: int) -> int:
    """Return the file offset of a position, after the header if a block begins there."""
    return position + _BLOCK_HEADER * (position // (_BLOCK - _BLOCK_HEADER) + 1)


def _to_data_position(offset: int) -> int:
    block, place = divmod(offset, _BLOCK)
    return block * (_BLOCK - _BLOCK_HEADER) + max(0, place - _BLOCK_HEADER)
