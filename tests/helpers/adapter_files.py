"""Adapters of the tiny cascade's keyframe network, written without training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.checkpoints.adapters import ADAPTER, AdapterConfig
from show1_jax.checkpoints.arrays import new_checkpoint
from show1_jax.checkpoints.manifest import Component, read_manifest
from show1_jax.parallel.weights import WeightPath

COMPONENT: Final = "keyframes"
QUERY: Final = ("mid_block", "temp_attentions", "0", "transformer_blocks", "0", "attn1", "to_q", "kernel")
"""A kernel of that network, with 32 inputs and outputs."""
CONV: Final = ("conv_in", "kernel")
RANK, ALPHA = 4, 2.0


def pair(kernel: WeightPath, inputs: tuple[int, ...], outputs: int, seed: int) -> dict[WeightPath, np.ndarray]:
    """Return a random low-rank pair of a kernel."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((*inputs, RANK)), rng.standard_normal((RANK, outputs))
    return {(*kernel[:-1], "lora_a"): a.astype(np.float32), (*kernel[:-1], "lora_b"): b.astype(np.float32)}


def pairs(seed: int = 0) -> dict[WeightPath, np.ndarray]:
    """Return random low-rank pairs of the two kernels."""
    return pair(QUERY, (32,), 32, seed) | pair(CONV, (3, 3, 3), 32, seed + 1)


def write_adapter(
    folder: Path,
    checkpoint: Path,
    arrays: Mapping[WeightPath, np.ndarray],
    *,
    component: str = COMPONENT,
    rank: int = RANK,
    alpha: float = ALPHA,
    base: str = "",
) -> Path:
    """Write an adapter with these arrays.

    Args:
        folder: folder to make.
        checkpoint: checkpoint that it belongs to.
        arrays: its arrays, by path.
        component: network that it adapts.
        rank: the rank that its record states.
        alpha: the alpha that its record states.
        base: digest of the network that it belongs to; empty: that of the checkpoint.
    """
    config = AdapterConfig(base or read_manifest(checkpoint).digest(component), rank, alpha)
    with new_checkpoint(folder) as writer:
        record = Component(ADAPTER, config.to_dict(), "float32")
        writer.add(component, record, arrays, {path: array.dtype for path, array in arrays.items()})
    return folder
