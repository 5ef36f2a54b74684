"""`.safetensors`: an 8-byte length, a JSON header, then the tensors (https://github.com/huggingface/safetensors).

The library's NumPy reader copies what it reads and knows no bfloat16; here every tensor is a view of the mapped file.
Its writer wants all tensors at once; here they are asked for one by one.
"""

import json
import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from convert.mapped import MappedTensor, TensorTable, map_file
from show1_jax.errors import UserError

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

_LARGEST = 2**48  # of a side or an offset; NumPy refuses far larger ones even where another side is 0


def read_safetensors(path: Path) -> TensorTable:
    """Names and places of the tensors of one `.safetensors` file.

    Raises:
      UserError: missing, empty, truncated or damaged file, or an element type no network here uses.
    """
    buffer = map_file(path)
    header, data_start = _header(path, buffer)
    return {
        name: _tensor(path, buffer, name, entry, data_start) for name, entry in header.items() if name != "__metadata__"
    }


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes one `.safetensors` file, tensor by tensor.

    Args:
      path: must not exist.
      tensors: shape and dtype of each by name.
      read: gives the tensor of a name, when it is written; wider dtypes come first, so that all are aligned.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    order = sorted(tensors, key=lambda name: -tensors[name][1].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers reads no file without it
    end = 0
    for name in order:
        shape, dtype = tensors[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            shape, dtype = tensors[name]
            array = np.asarray(read(name), dtype, order="C")
            assert array.shape == shape
            file.write(array.reshape(-1).view(np.uint8).data)


def _header(path: Path, buffer: mmap.mmap) -> tuple[dict[str, Any], int]:
    if len(buffer) < 8:
        raise UserError(f"{path}: truncated inside the header; download it again")
    data_start = 8 + int.from_bytes(buffer[:8], "little")
    if data_start > len(buffer):
        raise UserError(f"{path}: truncated inside the header, or no safetensors file; download it again")
    try:
        header = json.loads(buffer[8:data_start], object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the header is damaged ({error}); download it again") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the header is not a table of tensors, the file is damaged; download it again")
    return header, data_start


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name twice")
    return table


def _tensor(path: Path, buffer: mmap.mmap, name: str, entry: Any, data_start: int) -> MappedTensor:
    try:
        type_name, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sane = isinstance(type_name, str) and isinstance(shape, list) and len(shape) <= 8
        sane = sane and all(type(n) is int and 0 <= n < _LARGEST for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sane = False
    if not sane:
        raise UserError(f"{path}: {name!r} has a damaged header entry; download the file again")
    if type_name not in DTYPES:
        raise UserError(f"{path}: {name!r} has element type {type_name!r}; re-save it as F32, F16 or BF16")
    dtype = DTYPES[type_name]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise UserError(
            f"{path}: {name!r} has {end - begin} bytes, which do not fit its shape {shape}; "
            "the file is damaged, download it again"
        )
    if data_start + end > len(buffer):
        raise UserError(
            f"{path}: truncated, {name!r} ends at byte {data_start + end} of {len(buffer)}; download it again"
        )
    strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return MappedTensor(buffer, dtype, tuple(shape), strides, data_start + begin)
