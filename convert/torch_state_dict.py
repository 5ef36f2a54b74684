"""The pickle of a state dict, which both formats of torch.save have, and the tensors that it describes."""

import io
import math
import mmap
from dataclasses import dataclass
from typing import Any, Final, Protocol

import ml_dtypes
import numpy as np

from show1_jax.errors import shown

from .mapped import Checksum, MappedTensor, TensorTable
from .pickle_machine import MalformedError, Name, PickleMachine

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
_MAX_DIMENSIONS = 8
MAX_PICKLE: Final = 16 << 20
"""Size limit of a pickle in bytes."""


@dataclass(frozen=True)
class Storage:
    """The position of a storage in the mapped file, with the number of its elements."""

    buffer: mmap.mmap
    dtype: np.dtype
    offset: int
    numel: int
    checksum: Checksum | None


class Storages(Protocol):
    """The storages of a file."""

    def storage(self, key: str, dtype: np.dtype, numel: int) -> Storage:
        """Return a storage, after checking that the file has all of it."""


def state_dict(program: bytes | io.BytesIO, storages: Storages) -> TensorTable:
    """Return the tensors that a pickle describes, by name; a stream is then at the pickle's end.

    Raises:
        MalformedError: it is no pickle of tensors by name, or requests anything else.
        Exception: it is damaged; of any class. See `convert.pickle_machine.named_errors`.
    """
    contents = _StateDictMachine(storages).run(program)
    if not isinstance(contents, dict):
        raise MalformedError("holds no state dict (name -> tensor); save `model.state_dict()`")
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, MappedTensor):
            kind = type(value).__name__
            raise MalformedError(f"{shown(name)} is not a tensor ({kind}); save `model.state_dict()` alone")
    return contents


class _StateDictMachine(PickleMachine):
    """An interpreter of the pickle of a state dict."""

    contents = "state dict"
    remedy = "save `model.state_dict()`"
    names = frozenset({_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_STORAGES})

    def __init__(self, storages: Storages) -> None:
        super().__init__()
        self._storages = storages

    def persistent(self, identity: Any) -> Storage:
        match identity:
            # In the old format, a sixth item says which part of another storage this is; None: no part.
            case ("storage", Name(name=name), str() as key, _, int() as numel, *view) if name in _STORAGES:
                if view in ([], [None]):
                    return self._storages.storage(key, _STORAGES[name], numel)
        raise MalformedError("a tensor without a storage; download it again")

    def called(self, function: Any, arguments: Any) -> Any:
        match function, arguments:
            case Name(name=name), () if name == _ORDERED_DICT:
                return {}
            case Name(name=name), (MappedTensor() as tensor, *_) if name == _REBUILD_PARAMETER:
                return tensor
            case Name(name=name), (Storage() as storage, int() as offset, tuple() as size, tuple() as stride, *_) if (
                name == _REBUILD_TENSOR
            ):
                return _rebuilt_tensor(storage, offset, size, stride)
        return super().called(function, arguments)


def _rebuilt_tensor(storage: Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> MappedTensor:
    """Return the view (offset, size, stride) of a storage, in elements; every element must lie inside the storage."""
    counts = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in counts):
        raise MalformedError(f"a tensor with offset, size and stride {shown(counts)}; download it again")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (numel and last >= storage.numel) or numel > storage.numel or offset > storage.numel:
        raise MalformedError(
            f"a tensor of size {shown(size)}, stride {shown(stride)} and offset {shown(offset)} reaches outside its "
            f"storage of {storage.numel} elements; do not trust this file, download the released one"
        )
    itemsize = storage.dtype.itemsize
    strides = tuple(step * itemsize for step in stride) if numel else (0,) * len(size)
    place = storage.offset + offset * itemsize
    return MappedTensor(storage.buffer, storage.dtype, size, strides, place, storage.checksum)
