"""Records of ArrayRecord files that somebody else may have written, read at random.

An ArrayRecord file is one of Riegeli's records files, whose chunks are compressed: 200 kB can become gigabytes in
memory. Their headers say how large they become, and are looked at before a file is read.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from show1_jax.errors import UserError
from show1_jax.files import open_regular

MAX_CHECKED: Final = 100_000
"""Records of a file up to which all headers are read first, in about 0.4 s; a file of more is no small download."""
_BLOCK: Final = 1 << 16
_BLOCK_HEADER: Final = 24
_CHUNK_HEADER: Final = struct.Struct("<5Q")
_KINDS: Final = b"smrtp"
"""A signature, metadata, records, transposed records, padding."""
_INDEX_BYTES: Final = 64
"""More than a record takes in the index at the end of its file, which takes as much for `_INDEX_RECORDS` more."""
_INDEX_RECORDS: Final = 64
_MORE_CHUNKS: Final = 8
"""A signature, the index, the place of the index, and padding."""


@dataclass(frozen=True)
class RecordFile:
    """A file with the number of its records, as `ArrayRecordDataSource` takes it to open nothing at first."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        """All its records."""
        return self.take


class Records:
    """The records of some files, one after the other; safe in threads, and in processes that it is sent to."""

    def __init__(self, files: Sequence[RecordFile], max_bytes: int):
        """Open nothing yet.

        Args:
            files: that hold the records.
            max_bytes: of a record; one that declares more is not read.
        """
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._files = tuple(files)
        self._max_bytes = max_bytes
        self._too_large: dict[RecordFile, set[int]] = {}
        self._source = ArrayRecordDataSource(self._files)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of a record.

        Raises:
            ValueError: it declares that it is too large. ArrayRecord raises errors of several types for damage.
        """
        self._check(index)
        record: bytes = self._source[index]
        return record

    def __getitems__(self, indices: Sequence[int]) -> Sequence[bytes]:
        """Return several records, which are read side by side."""
        for index in indices:
            self._check(index)
        records: Sequence[bytes] = self._source.__getitems__(indices)
        return records

    def check_counts(self) -> None:
        """Check that the files have as many records as was said; it opens all of them.

        Raises:
            ValueError: the numbers differ.
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
            self._too_large[file] = too_large(file, self._max_bytes) if file.take <= MAX_CHECKED else set()
        return self._too_large[file]


def check_path(folder: Path) -> None:
    """Refuse a folder for records that ArrayRecord cannot name.

    Raises:
        UserError: its path is not UTF-8.
    """
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"the path {os.fspath(folder)!a} is not UTF-8; rename the folder") from None


def file_inside(folder: Path, name: str) -> Path:
    """A file of a folder that somebody else may have made.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is a link, or no regular file.
    """
    mode = (folder / name).lstat().st_mode
    if not stat.S_ISREG(mode):
        is_link = stat.S_ISLNK(mode)
        raise ValueError(f"{name} is {'a link: copy the file itself' if is_link else 'not a regular file'}")
    return folder / name


def too_large(file: RecordFile, max_bytes: int) -> set[int]:
    """Return the records of a file that say they take more than a limit, without decompressing any.

    What comes after damage is not looked at: ArrayRecord finds damage, but does not limit sizes.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more records, or its index, which is read when it is opened, takes too much.
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
    """Yield the number of records in each chunk, and its size when it is decompressed, up to the first damage.

    https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md: every 64 KiB block begins with a
    header, which may interrupt a chunk. Positions here do not count these headers.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while (place := _place(position)) < size:
            data = os.pread(file.fileno(), _CHUNK_HEADER.size + _BLOCK_HEADER, place)
            rest = _BLOCK - place % _BLOCK
            if rest < _CHUNK_HEADER.size:
                data = data[:rest] + data[rest + _BLOCK_HEADER :]
            if len(data) < _CHUNK_HEADER.size:
                return
            _, data_size, _, kind_and_records, decoded_size = _CHUNK_HEADER.unpack(data[: _CHUNK_HEADER.size])
            num_records, kind = divmod(kind_and_records, 0x100)
            if kind not in _KINDS:
                return
            yield num_records, decoded_size
            # A chunk takes at least a byte a record, so that each has a place of its own.
            begin = place - _BLOCK_HEADER if place % _BLOCK == _BLOCK_HEADER else place
            position = max(position + _CHUNK_HEADER.size + data_size, _position(begin + num_records))


def _place(position: int) -> int:
    """Where in the file a position is, after the header if a block begins there."""
    return position + _BLOCK_HEADER * (position // (_BLOCK - _BLOCK_HEADER) + 1)


def _position(place: int) -> int:
    block, offset = divmod(place, _BLOCK)
    return block * (_BLOCK - _BLOCK_HEADER) + max(0, offset - _BLOCK_HEADER)
