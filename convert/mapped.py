"""Tensors that lie in a memory-mapped file: where they are, and a view that reads nothing until it is used."""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from show1_jax.errors import UserError


@dataclass(frozen=True)
class MappedTensor:
    """Where one tensor lies: `strides` and `offset` in bytes from the start of the mapped file."""

    buffer: mmap.mmap
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def view(self) -> np.ndarray:
        """A read-only array that shares the mapping: reading it costs page cache only."""
        return np.ndarray(self.shape, self.dtype, buffer=self.buffer, offset=self.offset, strides=self.strides)


TensorTable = Mapping[str, MappedTensor]


def map_file(path: Path) -> mmap.mmap:
    """Maps a whole file for reading.

    Raises:
      UserError: the file is missing, empty, unreadable, or a Git LFS pointer instead of weights.
    """
    try:
        with path.open("rb") as file:
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
