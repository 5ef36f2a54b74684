"""Files of torch.save from before torch 1.6, or saved with `_use_new_zipfile_serialization=False`.

Such a file is a sequence: pickles of a magic number, the format's version, facts of the machine, the state dict, and
the keys of its storages in order; then the storages, each behind its number of elements. It has no checksums.
"""

import io
import mmap
import pickletools
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from show1_jax.errors import shown

from .mapped import TensorTable
from .pickle_machine import MAX_INSTRUCTIONS, MalformedError, PickleMachine
from .torch_state_dict import MAX_PICKLE, Storage, state_dict

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001
_COUNT: Final = struct.Struct("<q")
_LIST: Final = frozenset(
    {"PROTO", "FRAME", "EMPTY_LIST", "MARK", "BINPUT", "LONG_BINPUT", "MEMOIZE", "APPEND", "APPENDS"}
)
"""Instructions of a list of texts, besides the texts."""
_TEXT: Final = frozenset({"BINUNICODE", "SHORT_BINUNICODE"})


def read_legacy(buffer: mmap.mmap) -> TensorTable:
    """Return the tensors of a state dict by name, as positions in the mapped file.

    Raises:
        MalformedError: another pickle; a big-endian file; a pickle that requests anything but tensors and dicts;
            storages that are missing, cut off or have other sizes than the tensors say.
        Exception: it is damaged; of any class. See `convert.pickle_machine.named_errors`.
    """
    place, magic = _next_object(buffer, 0)
    if magic != _MAGIC:
        raise MalformedError("a pickle that torch.save did not write; save `model.state_dict()` with torch.save")
    place, version = _next_object(buffer, place)
    if version != _VERSION:
        raise MalformedError(f"torch's format {shown(version)}, not {_VERSION}; re-save it with a recent torch")
    place, machine = _next_object(buffer, place)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise MalformedError("saved on a big-endian machine; re-save it on a little-endian one")
    described, program = _Described(buffer), _stream(buffer, place)
    state_dict(program, described)
    place, keys = _next_keys(buffer, place + program.tell())
    program.seek(0)
    return state_dict(program, _Placed(_positions(buffer, place, keys, described.storages)))


class _Facts(PickleMachine):
    """An interpreter of the pickles of numbers and of tables of numbers at the start of the file."""

    contents = "file of torch.save"
    remedy = ""
    names = frozenset()


class _Described:
    """The storages as the pickle describes them; their positions, which follow from all sizes, are not known yet."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.storages: dict[str, Storage] = {}
        self._buffer = buffer

    def storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        storage = Storage(self._buffer, dtype, 0, numel, None)
        if numel < 0 or self.storages.setdefault(key, storage) != storage:
            raise MalformedError(f"storage {shown(key)} has several sizes or types; do not trust this file")
        return storage


class _Placed:
    """The storages at their positions."""

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self._storages = storages

    def storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        return self._storages[key]


def _positions(buffer: mmap.mmap, place: int, keys: list[str], described: Mapping[str, Storage]) -> dict[str, Storage]:
    """Return the storages with their positions; they lie one behind the other, in the order of the keys."""
    if sorted(keys) != sorted(described):
        raise MalformedError("its list of storages is not that of its tensors; do not trust this file")
    placed = {}
    for key in keys:
        storage = described[key]
        content = place + _COUNT.size
        end = content + storage.numel * storage.dtype.itemsize
        if end > len(buffer):
            raise MalformedError("truncated; download it again")
        (numel,) = _COUNT.unpack(buffer[place:content])
        if numel != storage.numel:
            raise MalformedError(f"storage {shown(key)} has {numel} elements, not {storage.numel}; download it again")
        placed[key] = Storage(buffer, storage.dtype, content, numel, None)
        place = end
    if place != len(buffer):
        raise MalformedError(f"has {len(buffer) - place} bytes behind its storages; do not trust this file")
    return placed


def _next_object(buffer: mmap.mmap, place: int) -> tuple[int, Any]:
    """Return the end of the pickle at a place, and its object."""
    stream = _stream(buffer, place)
    value = _Facts().run(stream)
    return place + stream.tell(), value


def _next_keys(buffer: mmap.mmap, place: int) -> tuple[int, list[str]]:
    """Return the end of the pickle of a list of texts, and the texts."""
    stream = _stream(buffer, place)
    keys = []
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in _TEXT:
            keys.append(str(argument))
        elif (opcode.name not in _LIST and opcode.name != "STOP") or count == MAX_INSTRUCTIONS:
            raise MalformedError(f"its list of storages uses the instruction {opcode.name}; do not trust this file")
    return place + stream.tell(), keys


def _stream(buffer: mmap.mmap, place: int) -> io.BytesIO:
    """Return the bytes from a place on, at most as many as a pickle may have."""
    return io.BytesIO(buffer[place : place + MAX_PICKLE])
