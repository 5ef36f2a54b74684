"""`.npy` files as frames, mapped into memory: only the frames that are used are read."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from show1_jax.files import open_regular
from show1_jax.media.errors import VideoError
from show1_jax.media.images import MAX_IMAGE_PIXELS

_MAX_HEADER_BYTES: Final = 1 << 16
_HEADER_READERS: Final = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def mapped_array(path: Path) -> Iterator[np.ndarray]:
    """Map the array of a `.npy` file: uint8 or floating point, `(t, h, w, 3)`.

    Raises:
        OSError: the file cannot be read.
        VideoError: it is damaged, contains less than it declares, or is not a video. Nothing is unpickled.
    """
    with open_regular(path) as file:
        shape, fortran_order, dtype, offset = _npy_header(file)
        if len(shape) != 4 or not (dtype == np.uint8 or np.issubdtype(dtype, np.floating)):
            raise VideoError(f"it must be uint8 or float (t, h, w, 3), not {dtype} {shape}")
        if min(shape) < 0 or offset + math.prod(shape) * dtype.itemsize > file.seek(0, io.SEEK_END):
            raise VideoError(f"it declares {dtype} {shape}, which it does not contain")
        if not min(shape):
            raise VideoError("it has no frames")
        if shape[3] != 3:
            raise VideoError(f"it has frames of shape {shape[1:]}, not (height, width, 3)")
        if shape[1] * shape[2] > MAX_IMAGE_PIXELS:
            raise VideoError(f"its frames have more than {MAX_IMAGE_PIXELS:,} pixels")
        yield np.memmap(file, dtype, "r", offset, shape, "F" if fortran_order else "C")


def _npy_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, "np.dtype[Any]", int]:
    """Return the shape, whether the order is Fortran's, the dtype, and the offset of the values in bytes."""
    start = io.BytesIO(file.read(_MAX_HEADER_BYTES))
    try:
        with warnings.catch_warnings(action="ignore"):  # of literals in an old Python notation
            shape, fortran_order, dtype = _HEADER_READERS[np.lib.format.read_magic(start)](start)
    except KeyError:
        raise VideoError("it is of another version of the format") from None
    except Exception as error:  # NumPy raises many types for a damaged header
        raise VideoError(f"its header is damaged: {' '.join(str(error).split())[:200]}") from error
    return shape, fortran_order, dtype, start.tell()


def frame_values(array: np.ndarray, index: int) -> np.ndarray:
    """Return a frame of an array, uint8 or floats in [-1, 1].

    Raises:
        VideoError: a float is outside [-1, 1] or NaN.
    """
    frame = np.asarray(array[index])
    if frame.dtype != np.uint8 and not (np.abs(frame) <= 1).all():
        raise VideoError("it has values outside [-1, 1]; scale them, or save uint8")
    return frame
