"""`.bin`: torch's zip of a pickle and its storages, read without torch and without trusting it.

The archive contains `NAME/data.pkl`, a pickled state dict whose tensors refer to storages `NAME/data/KEY`. These are
not compressed, so that they can be mapped. A pickle is a program; this module interprets only the few instructions
that a state dict needs, and can build only dicts and tensors. A name outside `_GLOBALS` is refused before it is used.
Storages are compared with their CRC-32 when they are used.
"""

import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from convert.mapped import Checksum, MappedTensor, TensorTable, map_file
from show1_jax.errors import UserError, shown, shown_name

_STORAGES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
    "torch UntypedStorage": np.dtype("u1"),
    "torch.storage UntypedStorage": np.dtype("u1"),
}
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_GLOBALS = {_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_STORAGES}
_MAX_DIMENSIONS = 8
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_IS_UTF8: Final = 0x800  # flag of an entry: its name is UTF-8
_MAX_DIRECTORY: Final = 8 << 20
"""Size limit in bytes of the zip's list of entries: 100,000 storages; the largest released network has 1,100."""
_MAX_PICKLE: Final = 16 << 20
_MAX_INSTRUCTIONS: Final = 1_000_000
"""Limit of instructions in a pickle: 20,000 tensors."""


@dataclass(frozen=True)
class _Global:
    """A permitted name that the pickle requested. It is a token: nothing is imported or looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    buffer: mmap.mmap
    dtype: np.dtype
    offset: int
    numel: int
    checksum: Checksum | None


class _MalformedError(Exception):
    """A problem of the archive; it becomes a UserError with the file's name."""


def read_torch_zip(path: Path) -> TensorTable:
    """Return the tensors of a state dict saved by `torch.save`, by name, as positions in the mapped file.

    The format is the zip of torch 1.6 and later. Tensors may be strided, offset, or share a storage. Every position is
    checked against the storage's size.

    Raises:
        UserError: missing, empty, truncated or damaged file; the old non-zip format; a big-endian file; a pickle
            that requests anything but tensors and dicts (the message names it); contents other than name -> tensor.
    """
    buffer = map_file(path)
    if buffer[:2] != b"PK":
        raise UserError(_not_zip_message(path, buffer))
    directory: Any = _BoundedReader(buffer)
    try:
        with zipfile.ZipFile(directory) as archive:
            return _state_dict(_Archive(path, archive.infolist(), buffer))
    except UserError:
        raise
    except _MalformedError as error:
        raise UserError(f"{path}: {error}") from None
    # Any other exception means that no writer of this format produced the bytes: pickletools and zipfile raise a dozen
    # kinds of exceptions on damaged input.
    except Exception as error:
        reason = shown_name(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{path}: truncated or damaged ({reason}); download it again") from None


def _not_zip_message(path: Path, buffer: mmap.mmap) -> str:
    if buffer[:1] == b"\x80":
        return (
            f"{path}: torch's old format from before 1.6, which only torch reads; re-save it with a recent torch: "
            f"`import torch; f = {str(path)!r}; torch.save(torch.load(f, 'cpu', weights_only=True), f)` "
            "(weights_only, as any other pickle can run code)"
        )
    return f"{path}: not a file that torch.save wrote, or damaged at its start; download it again"


class _BoundedReader:
    """The file as `zipfile` reads it, with a size limit: `zipfile` reads the list of entries at once, at any size."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.seek: Callable[..., object] = buffer.seek
        self.tell: Callable[[], int] = buffer.tell
        self._read: Callable[[int], bytes] = buffer.read

    def read(self, size: int = -1) -> bytes:
        content = self._read(_MAX_DIRECTORY + 1 if size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(content) > _MAX_DIRECTORY:
            raise _MalformedError("more entries than any state dict has; do not trust this file")
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
            raise _MalformedError("a zip without one data.pkl, not a state dict of torch.save; give the released file")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "byteorder" in self._entries and self._content("byteorder", 100) != b"little":
            raise _MalformedError("saved on a big-endian machine; re-save it on a little-endian one")

    def pickle(self) -> bytes:
        return self._content("data.pkl", _MAX_PICKLE)

    def storage(self, key: str, dtype: np.dtype, numel: int) -> _Storage:
        offset, size = self._find(f"data/{key}")
        if not 0 <= numel * dtype.itemsize <= size:
            raise _MalformedError(f"storage {shown(key)} has {size} bytes, not {numel} of {dtype}; download it again")
        return _Storage(self._buffer, dtype, offset, numel, self._checksum(f"data/{key}"))

    def _content(self, name: str, most: int) -> bytes:
        offset, size = self._find(name)
        if size > most:
            raise _MalformedError(f"its {name} has {size} bytes, more than any state dict's; do not trust this file")
        if checksum := self._checksum(name):
            checksum.compare()
        return self._buffer[offset : offset + size]

    def _find(self, name: str) -> tuple[int, int]:
        """Return the offset and size in bytes of an entry's data in the file."""
        entry = self._entries.get(self._root + name)
        if entry is None:
            where = shown_name(self._root + name)
            raise _MalformedError(f"{where} is missing from the archive; download it again")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            where = shown_name(entry.filename)
            raise _MalformedError(f"{where} is compressed or encrypted; unzip and zip it with `zip -0`")
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
            raise _MalformedError(f"truncated or damaged at {shown_name(entry.filename)}; download it again")
        return start

    def _check_apart(self, entries: list[zipfile.ZipInfo]) -> None:
        """Refuse entries that share a name or bytes: readers could choose different ones."""
        if len(self._entries) < len(entries):
            raise _MalformedError("two of its entries have one name; do not trust this file")
        spans = sorted((entry.header_offset, self._starts[entry.filename] + entry.compress_size) for entry in entries)
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise _MalformedError("its entries overlap; do not trust this file")


def _state_dict(archive: _Archive) -> TensorTable:
    contents = _PickleInterpreter(archive).run(archive.pickle())
    if not isinstance(contents, dict):
        raise _MalformedError("holds no state dict (name -> tensor); save `model.state_dict()`")
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, MappedTensor):
            kind = type(value).__name__
            raise _MalformedError(f"{shown(name)} is not a tensor ({kind}); save `model.state_dict()` alone")
    return contents


class _PickleInterpreter:
    """An interpreter of the pickle instructions of a state dict (the protocol is documented in `pickletools`)."""

    def __init__(self, archive: _Archive) -> None:
        self._archive = archive
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if opcode.name == "STOP":
                return self._stack.pop()
            if count == _MAX_INSTRUCTIONS:
                raise _MalformedError("its pickle has more instructions than any state dict; do not trust this file")
            self._step(opcode.name, argument)
        raise _MalformedError("data.pkl has no end; download it again")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "GLOBAL" | "INST":
                stack.append(_permitted(argument))
            case "STACK_GLOBAL":
                module, name = self._pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise _MalformedError("its pickle asks for a name that is not text; do not trust this file")
                stack.append(_permitted(f"{module} {name}"))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack.append(tuple(self._pop(count)))
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "TUPLE":
                self._unmark().append(tuple(stack))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                _set_items(self._unmark()[-1], stack)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "BUILD":
                stack.pop()  # attributes beside the tensors: the version metadata of a module's state dict
            case _:
                raise _MalformedError(
                    f"its pickle uses the instruction {opcode}, which no state dict needs; "
                    "do not trust this file, download the released one"
                )

    def _pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _unmark(self) -> list[Any]:
        self._stack = self._marked.pop()
        return self._stack

    def _storage(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", _Global(name=name), str() as key, _, int() as numel) if name in _STORAGES:
                return self._archive.storage(key, _STORAGES[name], numel)
        raise _MalformedError("a tensor without a storage; download it again")


def _permitted(name: str) -> _Global:
    if name not in _GLOBALS:
        raise _MalformedError(
            f"its pickle asks for {shown(name.replace(' ', '.'))}, which no state dict needs; "
            "refused, as it could run code: use the released file, or save `model.state_dict()` alone"
        )
    return _Global(name)


def _set_items(target: Any, items: list[Any]) -> None:
    """Fill a dict from key, value, key, value. Keys must be strings: hashing one cannot recurse."""
    if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
        raise _MalformedError("a table whose keys are not names; save `model.state_dict()`")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if key in target:
            raise _MalformedError(f"has {shown(key)} twice; download it again")
        target[key] = value


def _called(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Global(name=name), () if name == _ORDERED_DICT:
            return {}
        case _Global(name=name), (MappedTensor() as tensor, *_) if name == _REBUILD_PARAMETER:
            return tensor
        case _Global(name=name), (_Storage() as storage, int() as offset, tuple() as size, tuple() as stride, *_) if (
            name == _REBUILD_TENSOR
        ):
            return _rebuilt_tensor(storage, offset, size, stride)
        case _:
            raise _MalformedError("its pickle makes a call that no state dict has; do not trust this file")


def _rebuilt_tensor(storage: _Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> MappedTensor:
    """Return the view (offset, size, stride) of a storage, in elements; every element must lie inside the storage."""
    counts = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in counts):
        raise _MalformedError(f"a tensor with offset, size and stride {shown(counts)}; download it again")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (numel and last >= storage.numel) or numel > storage.numel or offset > storage.numel:
        raise _MalformedError(
            f"a tensor of size {shown(size)}, stride {shown(stride)} and offset {shown(offset)} reaches outside its "
            f"storage of {storage.numel} elements; do not trust this file, download the released one"
        )
    itemsize = storage.dtype.itemsize
    strides = tuple(step * itemsize for step in stride) if numel else (0,) * len(size)
    place = storage.offset + offset * itemsize
    return MappedTensor(storage.buffer, storage.dtype, size, strides, place, storage.checksum)
