"""`.ckpt`: a pickle of nested dicts of NumPy arrays, as Flax projects publish weights, read without running it."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from show1_jax.errors import shown

from .pickle_machine import MalformedError, Name, PickleMachine

_RECONSTRUCT: Final = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})
"""The function that makes an empty array, before and since NumPy 2."""
_ARRAY: Final = "numpy ndarray"
_DTYPE: Final = "numpy dtype"
_DTYPES: Final = {code: np.dtype(f"<{code}") for code in ("f2", "f4", "f8", "i4", "i8")}
_MAX_DEPTH: Final = 16
_MAX_DIMENSIONS: Final = 8


def read_numpy_pickle(program: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of nested dicts by their keys, joined with dots; they share the memory of the pickle's bytes.

    Raises:
        MalformedError: it is no pickle of nested dicts of numeric arrays, or requests anything else.
        Exception: it is damaged; of any class. See `convert.pickle_machine.named_errors`.
    """
    contents = _ArraysMachine().run(program)
    if not isinstance(contents, dict):
        raise MalformedError("holds no table of arrays; use the published file")
    arrays: dict[str, np.ndarray] = {}
    _flatten(contents, (), arrays, seen=set())
    return arrays


def _flatten(table: dict[str, Any], path: tuple[str, ...], arrays: dict[str, np.ndarray], seen: set[int]) -> None:
    """Add the arrays of nested dicts. No dict may occur twice: few bytes could make any number of names, or a loop."""
    if id(table) in seen or len(path) == _MAX_DEPTH:
        raise MalformedError("its tables are nested in each other; do not trust this file")
    seen.add(id(table))
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, dict):
            _flatten(value, (*path, key), arrays, seen)
        elif not isinstance(value, _Array) or value.content is None:
            raise MalformedError(f"{shown(name)} is not an array ({type(value).__name__}); use the published file")
        elif name in arrays:
            raise MalformedError(f"has {shown(name)} twice; do not trust this file")
        else:
            arrays[name] = value.content


@dataclass
class _DType:
    """A dtype that the pickle describes; its byte order comes after its code."""

    code: str
    byte_order: str = ""


@dataclass
class _Array:
    """An array that the pickle describes; empty until its state is set."""

    content: np.ndarray | None = None


class _ArraysMachine(PickleMachine):
    """An interpreter of the pickle of NumPy arrays: `ndarray.__reduce__` and `dtype.__reduce__` say what is in it."""

    contents = "table of arrays"
    remedy = ""
    names = frozenset({*_RECONSTRUCT, _ARRAY, _DTYPE})

    def called(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case Name(name=name), (Name(name=kind), (0,), bytes()) if name in _RECONSTRUCT and kind == _ARRAY:
                return _Array()
            case Name(name=name), (str() as code, bool(), bool()) if name == _DTYPE:
                return _DType(code)
        return super().called(function, arguments)

    def build(self, target: Any, state: Any) -> None:
        match target, state:
            case _DType(), (int(), str() as byte_order, None, None, None, *_):
                target.byte_order = byte_order
            case _Array(), (int(), tuple() as shape, _DType() as dtype, bool() as is_fortran, bytes() as content):
                target.content = _array(shape, dtype, is_fortran, content)
            case _:
                raise MalformedError("its pickle sets what no table of arrays has; do not trust this file")


def _array(shape: tuple[Any, ...], described: _DType, is_fortran: bool, content: bytes) -> np.ndarray:
    dtype = _DTYPES.get(described.code)
    if dtype is None or described.byte_order != "<":
        raise MalformedError(
            f"an array of dtype {shown(described.byte_order + described.code)}; only little-endian floats and integers "
            "are read"
        )
    if len(shape) > _MAX_DIMENSIONS or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise MalformedError(f"an array of shape {shown(shape)}; download it again")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise MalformedError(
            f"an array of shape {shown(shape)} and {dtype} with {len(content)} bytes; download it again"
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
