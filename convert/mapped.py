"""Tensors in memory-mapped files: their positions, and views that read nothing until they are used."""

import math
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from show1_jax.errors import UserError
from show1_jax.files import open_regular

_CHUNK = 1 << 24


class Checksum:
    """The CRC-32 that a file states for some of its bytes. It is compared once, when these are first needed."""

    def __init__(self, buffer: mmap.mmap, offset: int, size: int, crc: int, where: str) -> None:
        self._buffer, self._offset, self._size, self._crc, self._where = buffer, offset, size, crc, where
        self._compared = False

    def compare(self) -> None:
        """Compare the bytes with the checksum, unless this was done before.

        Raises:
            UserError: they differ.
        """
        if self._compared:
            return
        crc = 0
        with memoryview(self._buffer) as view:
            for start in range(self._offset, self._offset + self._size, _CHUNK):
                with view[start : min(start + _CHUNK, self._offset + self._size)] as chunk:
                    crc = zlib.crc32(chunk, crc)
        if crc != self._crc:
            raise UserError(f"{self._where}: damaged, its CRC-32 is {crc:08x}, not {self._crc:08x}; download it again")
        self._compared = True


@dataclass(frozen=True)
class MappedTensor:
    """The position of a tensor in a mapped file.

    Attributes:
        strides: in bytes.
        offset: in bytes from the start of the file.
        checksum: the checksum of the bytes around it, if the format has one.
    """

    buffer: mmap.mmap
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    checksum: Checksum | None = None

    def view(self) -> np.ndarray:
        """Return a read-only array that shares the mapping: reading it costs only page cache.

        Raises:
            UserError: its bytes do not match the checksum.
        """
        if self.checksum:
            self.checksum.compare()
        return np.ndarray(self.shape, self.dtype, buffer=self.buffer, offset=self.offset, strides=self.strides)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


TensorTable = Mapping[str, MappedTensor]


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file for reading.

    Raises:
        UserError: the file is missing, empty, unreadable, not a regular file, or a Git LFS pointer instead of weights.
    """
    try:
        with open_regular(path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; download it again") from None
    except ValueError:
        raise UserError(f"{path}: the file is empty; download it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if mapped[:24] == b"version https://git-lfs.":
        raise UserError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    return mapped
