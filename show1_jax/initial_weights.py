"""Weights at birth, drawn by NumPy: nothing is compiled, and a weight is the same on any mesh."""

import math
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final

import jax
import numpy as np

from show1_jax.weights import WeightPath, Weights

# The last layer of what looks along time: a video network is born as an image network (Show-1, section 3.2).
_BORN_ZERO: Final = re.compile(
    r"(temp_convs/\d+/conv4/conv|temp_attentions/\d+/proj_out|transformer_in/proj_out)/kernel$"
)


def initial_weight(path: WeightPath, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """One weight at birth, float32.

    Norms are born as the identity, biases and the last temporal layers as zero, tables with unit variance, all else
    with a variance of one over its inputs.

    Args:
        path: decides the kind, and with `seed` the draw.
        shape: the inputs of a kernel are all its sides but the last.
        seed: 0 to 2^32 - 1.
    """
    kind = path[-1]
    if kind == "scale":
        return np.ones(shape, np.float32)
    if kind == "bias" or _BORN_ZERO.search("/".join(path)):
        return np.zeros(shape, np.float32)
    rng = np.random.Generator(np.random.Philox(key=(seed, zlib.crc32("/".join(path).encode()))))
    inputs = {"embedding": 1, "positional_embedding": shape[-1]}.get(kind, math.prod(shape[:-1]))
    return rng.standard_normal(shape, np.float32) / np.float32(inputs**0.5)


def initial_weights(shapes: Mapping[WeightPath, Any], shardings: Mapping[WeightPath, Any], seed: int) -> Weights:
    """All weights of a network at birth, each where it belongs; one at a time is whole on the host."""
    weights: Weights = {}
    for path, leaf in shapes.items():
        weight = initial_weight(path, leaf.shape, seed)
        weights[path] = jax.make_array_from_callback(leaf.shape, shardings[path], weight.__getitem__)
    return weights
