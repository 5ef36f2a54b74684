"""`.bin` and `.pth`: files of torch.save, read without torch and without trusting them.

Since torch 1.6 they are zips; `convert.torch_legacy` reads the older ones. The archive contains `NAME/data.pkl`, a
pickled state dict whose tensors refer to storages `NAME/data/KEY`. These are not compressed, so that they can be
mapped. The pickle is interpreted by `convert.pickle_machine`, which runs nothing. Storages are compared with their
CRC-32 when they are used.
"""

import mmap
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from show1_jax.errors import shown, shown_name

from .mapped import Checksum, TensorTable, map_file
from .pickle_machine import MalformedError, named_errors
from .torch_legacy import read_legacy
from .torch_state_dict import MAX_PICKLE, Storage, state_dict

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_IS_UTF8: Final = 0x800  # flag of an entry: its name is UTF-8
_MAX_DIRECTORY: Final = 8 << 20
"""Size limit in bytes of the zip's list of entries: 100,000 storages; the largest released network has 1,100."""


def read_torch_file(path: Path) -> TensorTable:
    """Return the tensors of a state dict saved by `torch.save`, by name, as positions in the mapped file.

    Tensors may be strided, offset, or share a storage. Every position is checked against the storage's size.

    Raises:
        UserError: missing, empty, truncated or damaged file; a big-endian file; a pickle that requests anything but
            tensors and dicts (the message names it); contents other than name -> tensor.
    """
    buffer = map_file(path)
    with named_errors(path):
        if buffer[:2] == b"PK":
            directory: Any = _BoundedReader(buffer)
            with zipfile.ZipFile(directory) as archive:
                entries = _Archive(path, archive.infolist(), buffer)
                return state_dict(entries.pickle(), entries)
        if buffer[:1] == b"\x80":
            return read_legacy(buffer)
        raise MalformedError("not a file that torch.save wrote, or damaged at its start; download it again")


class _BoundedReader:
    """The file as `zipfile` reads it, with a size limit: `zipfile` reads the list of entries at once, at any size."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.seek: Callable[..., object] = buffer.seek
        self.tell: Callable[[], int] = buffer.tell
        self._read: Callable[[int], bytes] = buffer.read

    def read(self, size: int = -1) -> bytes:
        content = self._read(_MAX_DIRECTORY + 1 if size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(content) > _MAX_DIRECTORY:
            raise MalformedError("more entries than any state dict has; do not trust this file")
        return content


class _Archive:
    """The zip: its pickle, and its storages as positions in the mapped file."""

    def __init__(self, path: Path, entries: list[zipfile.ZipInfo], buffer: mmap.mmap) -> None:
        self._path = path
        self._buffer = buffer
        self._entries = {entry.filename: entry for entry in entries}
        # torch has an option to compute none; it then writes 0 everywhere.
        self._has_checksums = any(entry.CRC for entry in entries)
        self._starts = {entry.filename: self._start(entry) for entry in entries}
        self._checksums: dict[str, Checksum] = {}
        self._check_apart(entries)
        pickles = [name for name in self._entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise MalformedError("a zip without one data.pkl, not a state dict of torch.save; give the released file")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "byteorder" in self._entries and self._content("byteorder", 100) != b"little":
            raise MalformedError("saved on a big-endian machine; re-save it on a little-endian one")

    def pickle(self) -> bytes:
        return self._content("data.pkl", MAX_PICKLE)

    def storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        offset, size = self._find(f"data/{key}")
        if not 0 <= numel * dtype.itemsize <= size:
            raise MalformedError(f"storage {shown(key)} has {size} bytes, not {numel} of {dtype}; download it again")
        return Storage(self._buffer, dtype, offset, numel, self._checksum(f"data/{key}"))

    def _content(self, name: str, most: int) -> bytes:
        offset, size = self._find(name)
        if size > most:
            raise MalformedError(f"its {name} has {size} bytes, more than any state dict's; do not trust this file")
        if checksum := self._checksum(name):
            checksum.compare()
        return self._buffer[offset : offset + size]

    def _find(self, name: str) -> tuple[int, int]:
        """Return the offset and size in bytes of an entry's data in the file."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            where = shown_name(self._root + name)
            raise MalformedError(f"{where} is missing from the archive; download it again")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            where = shown_name(entry.filename)
            raise MalformedError(f"{where} is compressed or encrypted; unzip and zip it with `zip -0`")
        return self._starts[entry.filename], entry.file_size

    def _checksum(self, name: str) -> Checksum | None:
        """Return one object for all tensors of a storage, so that it is compared once; None without checksums."""
        if self._has_checksums and name not in self._checksums:
            offset, size = self._find(name)
            crc = self._entries[self._root + name].CRC
            where = f"{self._path}: {shown_name(self._root + name)}"
            self._checksums[name] = Checksum(self._buffer, offset, size, crc, where)
        return self._checksums.get(name)

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Return the offset of an entry's data, after checking that the file has all of it and a header of its name."""
        start = entry.header_offset
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._buffer[start : start + _LOCAL_HEADER.size])
        start += _LOCAL_HEADER.size
        name = self._buffer[start : start + name_length]
        is_same = name == entry.orig_filename.encode("utf-8" if entry.flag_bits & _IS_UTF8 else "cp437")
        start += name_length + extra_length
        if signature != b"PK\3\4" or not is_same or start + entry.compress_size > len(self._buffer):
            raise MalformedError(f"truncated or damaged at {shown_name(entry.filename)}; download it again")
        return start

    def _check_apart(self, entries: list[zipfile.ZipInfo]) -> None:
        """Refuse entries that share a name or bytes: readers could choose different ones."""
        if len(self._entries) < len(entries):
            raise MalformedError("two of its entries have one name; do not trust this file")
        spans = sorted((entry.header_offset, self._starts[entry.filename] + entry.compress_size) for entry in entries)
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise MalformedError("its entries overlap; do not trust this file")
