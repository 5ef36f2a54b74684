"""`.npz`: a zip of NumPy arrays, read with limits and without pickles."""

import math
import zipfile
from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.errors import UserError, shown
from show1_jax.files import open_regular

from .pickle_machine import MalformedError, named_errors

_SUFFIX: Final = ".npy"
_MAX_BYTES: Final = 1 << 30
"""Size limit of all arrays; the largest published file has 313 MB."""
_MAX_ARRAYS: Final = 10_000
_MAX_HEADER: Final = 10_000


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays by name.

    Raises:
        UserError: missing, damaged or hostile file, or one with anything but arrays of numbers.
    """
    try:
        with open_regular(path) as file, named_errors(path), zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) > _MAX_ARRAYS or sum(entry.file_size for entry in entries) > _MAX_BYTES:
                raise MalformedError("has more than any published network; do not trust this file")
            arrays = {entry.filename.removesuffix(_SUFFIX): _read(archive, entry) for entry in entries}
            if len(arrays) < len(entries):
                raise MalformedError("two of its arrays have one name; do not trust this file")
            return arrays
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return an array; its size in bytes is compared with its header's before memory is allocated."""
    if not entry.filename.endswith(_SUFFIX):
        raise MalformedError(f"{shown(entry.filename)} is not an array; use the published file")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise MalformedError(f"{shown(entry.filename)} has the format {version}; use the published file")
        shape, is_fortran, dtype = readers[version](file, max_header_size=_MAX_HEADER)
        if dtype.kind not in "fiu" or not dtype.isnative:
            raise MalformedError(
                f"{shown(entry.filename)} is of {shown(str(dtype))}, not of numbers; use the published file"
            )
        size = math.prod(shape) * dtype.itemsize
        if size > entry.file_size:
            raise MalformedError(f"{shown(entry.filename)} has {entry.file_size} bytes, not {size}; download it again")
        content = file.read()
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order="F" if is_fortran else "C")
