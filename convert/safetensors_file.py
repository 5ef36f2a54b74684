"""`.safetensors`: an 8-byte length, a JSON header, then the tensors (https://github.com/huggingface/safetensors).

The library's NumPy reader copies the tensors and does not support bfloat16; here every tensor is a view of the mapped
file. Its writer requires all tensors at once; here they are requested one by one.
"""

import json
import math
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import ml_dtypes
import numpy as np

from show1_jax.errors import UserError, shown, shown_name
from show1_jax.files import check_json, reject_repeated_names

from .mapped import MappedTensor, TensorTable, map_file

ELEMENT_TYPES = {
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

_LARGEST_SIZE = 2**48  # limit of a dimension or an offset; NumPy refuses far larger dimensions even if another is 0
_MAX_HEADER: Final = 16 << 20
"""Size limit in bytes, enough for 100,000 tensors. The library allows 100 MB, which need gigabytes when parsed."""


def read_safetensors(path: Path) -> TensorTable:
    """Return the tensors of one `.safetensors` file by name, as positions in the mapped file.

    Raises:
        UserError: missing, empty, truncated or damaged file, tensors that overlap or leave bytes between or behind them
            (the library refuses these, too), or an element type that no network here uses.
    """
    buffer = map_file(path)
    header, data_start = _read_header(path, buffer)
    _pop_metadata(path, header)
    table = {name: _mapped_tensor(path, buffer, name, entry, data_start) for name, entry in header.items()}
    _check_cover(path, table, data_start, len(buffer))
    return table


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts that the header of one `.safetensors` file has besides the tensors.

    Raises:
        UserError: missing, empty or damaged file.
    """
    return _pop_metadata(path, _read_header(path, map_file(path))[0])


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one `.safetensors` file, tensor by tensor; wider dtypes come first, so that all tensors are aligned.

    Args:
        path: the file's path, which must not exist.
        tensors: the shape and dtype of each tensor by name.
        read: returns the tensor of a name; called when the tensor is written.
        metadata: texts for the header.
    """
    names = {dtype: name for name, dtype in ELEMENT_TYPES.items()}
    order = sorted(tensors, key=lambda name: -tensors[name][1].itemsize)
    texts = {"format": "pt", **(metadata or {})}  # transformers reads no file without the format
    header: dict[str, Any] = {"__metadata__": texts}
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


def _read_header(path: Path, buffer: mmap.mmap) -> tuple[dict[str, Any], int]:
    if len(buffer) < 8:
        raise UserError(f"{path}: truncated inside the header; download it again")
    length = int.from_bytes(buffer[:8], "little")
    if 8 + length > len(buffer):
        raise UserError(f"{path}: truncated inside the header, or no safetensors file; download it again")
    if length > _MAX_HEADER:
        raise UserError(f"{path}: a header of {length:,} bytes, more than any network needs; download it again")
    try:
        text = buffer[8 : 8 + length].decode()
        header = json.loads(text, object_pairs_hook=reject_repeated_names, parse_constant=_no_constant)
        check_json(header)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else shown_name(str(error))
        raise UserError(f"{path}: the header is damaged ({reason}); download it again") from None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the header is not a table of tensors, the file is damaged; download it again")
    return header, 8 + length


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _pop_metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_text_table(metadata):
        raise UserError(f"{path}: its __metadata__ is not a table of texts, the file is damaged; download it again")
    return metadata or {}


def _is_text_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_cover(path: Path, table: TensorTable, data_start: int, size: int) -> None:
    """Refuse tensors that do not cover the file byte for byte: other readers could read other bytes."""
    end, before = data_start, "the header"
    for begin, nbytes, name in sorted((tensor.offset, tensor.nbytes, name) for name, tensor in table.items()):
        if begin != end:
            problem = "overlaps" if begin < end else f"leaves {begin - end} bytes behind"
            raise UserError(f"{path}: {shown(name)} {problem} {before}; do not trust this file, download it again")
        end, before = begin + nbytes, shown(name)
    if end != size:
        raise UserError(f"{path}: {size - end} bytes behind its last tensor; do not trust this file, download it again")


def _mapped_tensor(path: Path, buffer: mmap.mmap, name: str, entry: Any, data_start: int) -> MappedTensor:
    try:
        type_name, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_valid = isinstance(type_name, str) and isinstance(shape, list) and len(shape) <= 8
        is_valid = is_valid and all(type(n) is int and 0 <= n < _LARGEST_SIZE for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        is_valid = False
    if not is_valid:
        raise UserError(f"{path}: {shown(name)} has a damaged header entry; download the file again")
    if type_name not in ELEMENT_TYPES:
        raise UserError(f"{path}: {shown(name)} has element type {shown(type_name)}; re-save it as F32, F16 or BF16")
    dtype = ELEMENT_TYPES[type_name]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise UserError(
            f"{path}: {shown(name)} has {end - begin} bytes, which do not fit its shape {shape}; "
            "the file is damaged, download it again"
        )
    if data_start + end > len(buffer):
        raise UserError(
            f"{path}: truncated, {shown(name)} ends at byte {data_start + end} of {len(buffer)}; download it again"
        )
    strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return MappedTensor(buffer, dtype, tuple(shape), strides, data_start + begin)
