"""Hand-made writers of weight files: torch's two formats, opcode by opcode, and safetensors from raw bytes."""

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

STORAGE_NAMES = {"float16": "Half", "float32": "Float", "bfloat16": "BFloat16", "int64": "Long"}
SAFETENSORS_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16", "int64": "I64"}


class Hostile:
    """An object whose pickle calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self._reduced


@dataclass(frozen=True)
class Tensor:
    """One tensor of a hand-made pickle: the view (offset, size, stride) of the storage `key`."""

    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Pickle:
    """Opcodes of pickle protocol 2, see `pickletools`."""

    storages: Mapping[str, np.ndarray] = field(default_factory=dict)

    # The old format says of each storage whether it is a part of another one.
    is_legacy: bool = False

    def name(self, module: str, name: str) -> bytes:
        return b"c" + f"{module}\n{name}\n".encode()

    def text(self, value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def integer(self, value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def tuple(self, *items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    def dict(self, items: Mapping[str, bytes]) -> bytes:
        return b"}(" + b"".join(self.text(name) + value for name, value in items.items()) + b"u"

    def tensor(self, tensor: Tensor) -> bytes:
        array = self.storages[tensor.key]
        storage = self.tuple(
            self.text("storage"),
            self.name("torch", STORAGE_NAMES[array.dtype.name] + "Storage"),
            self.text(tensor.key),
            self.text("cpu"),
            self.integer(array.size),
            *([b"N"] if self.is_legacy else []),
        )
        hooks = self.name("collections", "OrderedDict") + b")R"
        size, stride = (self.tuple(*map(self.integer, numbers)) for numbers in (tensor.size, tensor.stride))
        arguments = self.tuple(storage + b"Q", self.integer(tensor.offset), size, stride, b"\x89", hooks)
        return self.name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def torch_zip(
    path: Path,
    body: bytes,
    storages: Mapping[str, np.ndarray],
    *,
    byteorder: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write a zip as torch.save does, around the pickle `body`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def state_dict(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a `.bin` with whole, contiguous tensors."""
    torch_zip(path, *whole_tensors(arrays))


def safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a `.safetensors`; bfloat16 is supported."""
    header, at = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    blob = json.dumps(header).encode()
    path.write_bytes(len(blob).to_bytes(8, "little") + blob + b"".join(array.tobytes() for array in arrays.values()))


def whole_tensors(arrays: Mapping[str, np.ndarray], *, is_legacy: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the pickle of whole, contiguous tensors, and their storages."""
    storages = {str(index): array for index, array in enumerate(arrays.values())}
    pickle = Pickle(storages, is_legacy)
    tensors = {
        name: pickle.tensor(Tensor(key, 0, array.shape, tuple(step // array.itemsize for step in array.strides)))
        for (name, array), key in zip(arrays.items(), storages, strict=True)
    }
    return pickle.dict(tensors), storages


def torch_legacy(
    path: Path,
    body: bytes,
    storages: Mapping[str, np.ndarray],
    *,
    is_little_endian: bool = True,
    keys: Sequence[str] | None = None,
    version: int = 1001,
) -> None:
    """Write a file as torch.save did before 1.6, around the pickle `body`."""
    pickle = Pickle()
    magic = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
    machine = pickle.dict({"little_endian": b"\x88" if is_little_endian else b"\x89"})
    listed = b"](" + b"".join(map(pickle.text, storages if keys is None else keys)) + b"e"
    with path.open("wb") as file:
        for part in (magic, pickle.integer(version), machine, body, listed):
            file.write(b"\x80\x02" + part + b".")
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
