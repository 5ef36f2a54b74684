"""Hand-made writers of weight files: torch's zip, opcode by opcode, and safetensors from raw bytes."""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

STORAGE_NAMES = {"float16": "Half", "float32": "Float", "bfloat16": "BFloat16", "int64": "Long"}
SAFETENSORS_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16", "int64": "I64"}


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
    storages = {str(index): array for index, array in enumerate(arrays.values())}
    pickle = Pickle(storages)
    tensors = {
        name: pickle.tensor(Tensor(key, 0, array.shape, tuple(step // array.itemsize for step in array.strides)))
        for (name, array), key in zip(arrays.items(), storages, strict=True)
    }
    torch_zip(path, pickle.dict(tensors), storages)


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


@pytest.fixture(scope="session")
def by_hand() -> SimpleNamespace:
    return SimpleNamespace(
        Tensor=Tensor, Pickle=Pickle, torch_zip=torch_zip, state_dict=state_dict, safetensors=safetensors
    )


Writer = Callable[[Path, Mapping[str, np.ndarray]], None]


@pytest.fixture(params=["safetensors", "bin"])
def kind(request: pytest.FixtureRequest) -> tuple[str, Writer]:
    """Return a file name extension, and a writer of such files."""
    return request.param, {"safetensors": safetensors, "bin": state_dict}[request.param]
