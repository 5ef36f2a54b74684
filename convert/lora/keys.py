"""The keys of LoRA files: for each layer of a network, the names that PyTorch libraries give to its low-rank pair.

A file has two matrices for a layer with the kernel W, and their product is added: W + alpha / rank * B A. In PyTorch, A
maps the inputs to `rank` channels with W's kernel size, and B maps these to the outputs with kernel size 1. All names
are made from the network's released keys, and a key of a file is looked up among them. So kohya's keys, which have `_`
in the place of `.`, are never split.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from flax import nnx

from show1_jax.checkpoints.adapters import KERNEL, LORA_A, LORA_B
from show1_jax.parallel.weights import WeightPath

from ..rules import KeyTable, Problems, ReleasedTensor, released_tensors

ALPHA: Final = "alpha"
PREFIX: Final = "unet."
"""Prefix of a UNet's keys in a file of a whole pipeline, which diffusers writes."""
_PREFIXES: Final = ("base_model.model.unet.", "base_model.model.", PREFIX)
"""Prefixes that a file may have; the longer ones are peft's, for a wrapped pipeline or network."""
_KOHYA: Final = "lora_unet_"
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    LORA_A: ("lora_A.weight", "lora_A.default.weight", "lora.down.weight"),
    LORA_B: ("lora_B.weight", "lora_B.default.weight", "lora.up.weight"),
    ALPHA: (ALPHA,),
}
"""Ends of keys behind a layer's dotted name: peft's, peft's with the name of an adapter, and diffusers' before peft."""
_KOHYA_PARTS: Final[Mapping[str, str]] = {LORA_A: "lora_down.weight", LORA_B: "lora_up.weight", ALPHA: ALPHA}
_PROCESSOR_PARTS: Final[Mapping[str, str]] = {LORA_A: "lora.down.weight", LORA_B: "lora.up.weight"}
_PROJECTION: Final = re.compile(r"(?P<attention>.*)\.(?P<name>to_[qkv]|to_out|add_[kv]_proj)(\.0)?")
"""Layers that diffusers' attention processors adapted, before version 0.22."""


@dataclass(frozen=True)
class LoraLayer:
    """A layer of a network that can have a low-rank pair.

    Attributes:
        kernel: path of its kernel.
        tensor: the released tensor of its kernel.
    """

    kernel: WeightPath
    tensor: ReleasedTensor

    @property
    def name(self) -> str:
        """Dotted name of the layer in PyTorch."""
        return self.tensor.key.removesuffix(".weight")

    @property
    def channels(self) -> tuple[int, int]:
        """Numbers of rows of the pair's matrices: inputs with the size of the kernel, and outputs."""
        outputs, *inputs = self.tensor.shape
        return math.prod(inputs), outputs

    def path(self, part: str) -> WeightPath:
        """Return the path of a part of the pair in an adapter."""
        return (*self.kernel[:-1], part)

    def key(self, part: str) -> str:
        """Return the key of a part in the files that we write."""
        return f"{PREFIX}{self.name}.{_PARTS[part][0]}"

    def shape(self, part: str, rank: int) -> tuple[int, ...]:
        """Return the shape of a part in a file."""
        outputs, *inputs = self.tensor.shape
        return (rank, *inputs) if part == LORA_A else (outputs, rank, *(1,) * (len(inputs) - 1))

    def to_released(self, part: str, array: np.ndarray) -> np.ndarray:
        """Return a view of a part in the layout of a file."""
        if part == LORA_A:
            return self.tensor.to_released(array)
        return array.T.reshape(self.shape(LORA_B, array.shape[0]))

    def to_ours(self, part: str, array: np.ndarray) -> np.ndarray:
        """Return a view of a file's part in our layout."""
        if part == LORA_A:
            return self.tensor.to_ours(array)
        return array.reshape(array.shape[:2]).T

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield every key that a file may have for a part, without a prefix, and the part."""
        for part, ends in _PARTS.items():
            yield from ((f"{self.name}.{end}", part) for end in ends)
        for part, end in _KOHYA_PARTS.items():
            yield f"{_KOHYA}{self.name.replace('.', '_')}.{end}", part
        if projection := _PROJECTION.fullmatch(self.name):
            for part, end in _PROCESSOR_PARTS.items():
                for processor in ("", ".processor"):
                    yield f"{projection['attention']}{processor}.{projection['name']}_{end}", part


def lora_layers(state: nnx.State, table: KeyTable) -> dict[WeightPath, LoraLayer]:
    """Return the layers of a network that can have a low-rank pair, by the path of their kernel.

    Args:
        state: the parameters of the network, as `convert.tables.parameters` returns them.
        table: the table of its released keys.
    """
    tensors = released_tensors(state, table)
    return {path: LoraLayer(path, tensor) for path, tensor in tensors.items() if path[-1] == KERNEL}


class LoraKeys:
    """A lookup of the keys of LoRA files.

    Args:
        layers: the layers of the network, see `lora_layers`.

    Raises:
        UserError: two layers have a name in common.
    """

    def __init__(self, layers: Mapping[WeightPath, LoraLayer]) -> None:
        self._found: dict[str, tuple[LoraLayer, str]] = {}
        problems = Problems()
        for layer in layers.values():
            for name, part in layer.names():
                if name in self._found:
                    problems.add("names that two layers share", name)
                self._found[name] = layer, part
        problems.raise_any("keys of LoRA files", "rename a layer")

    def find(self, key: str) -> tuple[LoraLayer, str] | None:
        """Return the layer and the part that a key of a file names; None for any other key."""
        prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
        return self._found.get(key.removeprefix(prefix))
