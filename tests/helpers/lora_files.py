"""LoRA files of the tiny cascade's keyframe network, in the layouts and under the names of PyTorch's libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

RANK: Final = 4
LAYERS: Final[Mapping[str, tuple[int, ...]]] = {
    "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
    "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_out.0": (32, 32),
    "mid_block.attentions.0.add_k_proj": (32, 64),
    "mid_block.temp_attentions.0.transformer_blocks.0.ff.net.0.proj": (256, 32),
    "conv_in": (32, 3, 3, 3),
    "up_blocks.0.resnets.0.conv_shortcut": (32, 64, 1, 1),
    "mid_block.temp_convs.0.conv4.3": (32, 32, 3, 1, 1),
}
"""Released names of layers of every kind, and the shapes of their kernels: (outputs, inputs, kernel size...)."""
Matrices = dict[str, tuple[np.ndarray, np.ndarray]]


def matrices(rank: int = RANK, seed: int = 0) -> Matrices:
    """Return random A (rank, inputs, kernel size...) and B (outputs, rank, 1...) by the layer's released name."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal((rank, *inputs)).astype(np.float32),
            rng.standard_normal((outputs, rank, *(1,) * (len(inputs) - 1))).astype(np.float32),
        )
        for name, (outputs, *inputs) in LAYERS.items()
    }


def peft_names(
    pairs: Matrices, prefix: str = "unet.", ends: tuple[str, str] = ("lora_A", "lora_B")
) -> dict[str, np.ndarray]:
    """Return the tensors of a file by peft's names, or by names with other ends."""
    return {
        f"{prefix}{name}.{end}.weight": part
        for name, pair in pairs.items()
        for end, part in zip(ends, pair, strict=True)
    }


def kohya_names(pairs: Matrices, alphas: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the tensors of a file by kohya's names; layers without an alpha have none in the file."""
    tensors: dict[str, np.ndarray] = {}
    for name, (a, b) in pairs.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{flat}.lora_down.weight": a, f"{flat}.lora_up.weight": b}
        if name in alphas:
            tensors[f"{flat}.alpha"] = np.array(alphas[name], np.float32)
    return tensors


def write_lora(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a `.safetensors` file with the library, and return its path."""
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, dict(metadata or {}))
    return path
