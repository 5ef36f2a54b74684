"""Initial weights: one rule for their distribution. NumPy draws them: nothing is compiled, and meshes do not matter."""

import functools
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from show1_jax.parallel.weights import WeightPath, Weights

# The last layers along time: without them a video network is the image network that it is inflated from (Show-1,
# section 3.2).
_LAST_TEMPORAL_KERNEL: Final = re.compile(
    r"(temp_convs/\d+/conv4/conv|temp_attentions/\d+/proj_out|transformer_in/proj_out)/kernel$"
)
_NUM_DRAWS: Final = 2**20 - 3
"""Length of the buffer of `random_weight`: a prime, so that rows of a weight are not equal."""


class Distribution(NamedTuple):
    """Distribution of a weight's elements: a constant, or a Gaussian with zero mean.

    Attributes:
        constant: the value of all elements; None if they are drawn.
        num_inputs: drawn elements have a variance of 1 / num_inputs.
    """

    constant: float | None
    num_inputs: int = 1


def initial_distribution(path: WeightPath, shape: tuple[int, ...], *, temporal_identity: bool) -> Distribution:
    """Return the distribution of an initial weight.

    Norms are the identity, biases are zero, embedding tables have unit variance, and all other weights have a variance
    of one over the number of their inputs. A low-rank change begins at zero, since its second factor is zero.

    Args:
        path: its last name is the kind of weight.
        shape: shape of the weight; the inputs of a kernel are all axes but the last.
        temporal_identity: initialise the last temporal layers as zero, so that every temporal block is the identity.
    """
    kind = path[-1]
    if kind in ("scale", "var"):
        return Distribution(1.0)
    if kind in ("bias", "mean", "lora_b") or (temporal_identity and _LAST_TEMPORAL_KERNEL.search("/".join(path))):
        return Distribution(0.0)
    inputs = {"embedding": 1, "positional_embedding": shape[-1]}.get(kind, math.prod(shape[:-1]))
    return Distribution(None, inputs)


def initial_weight(
    path: WeightPath, shape: tuple[int, ...], seed: int = 0, *, temporal_identity: bool = True
) -> Float[np.ndarray, "..."]:
    """Return one initial weight, float32.

    Args:
        path: determines the distribution, and with `seed` the draw.
        shape: shape of the weight.
        seed: 0 to 2^32 - 1.
        temporal_identity: see `initial_distribution`.
    """
    constant, num_inputs = initial_distribution(path, shape, temporal_identity=temporal_identity)
    if constant is not None:
        return np.full(shape, constant, np.float32)
    rng = np.random.Generator(np.random.Philox(key=(seed, _path_hash(path))))
    return rng.standard_normal(shape, np.float32) / np.float32(num_inputs**0.5)


def initial_weights(shapes: Mapping[WeightPath, Any], shardings: Mapping[WeightPath, Any], seed: int) -> Weights:
    """Return all initial weights of a network, sharded; only one at a time is complete on the host."""
    weights: Weights = {}
    for path, leaf in shapes.items():
        weight = initial_weight(path, leaf.shape, seed)
        weights[path] = jax.make_array_from_callback(leaf.shape, shardings[path], weight.__getitem__)
    return weights


def random_weight(path: WeightPath, leaf: jax.ShapeDtypeStruct) -> Array:
    """Return a random weight for measurements, on its devices; the draw differs from that of `initial_weight`.

    Its elements are copied from one buffer of draws, again and again, from a place that depends on the path. So a
    network of full size takes seconds: drawing as many numbers takes minutes on the host, and on an accelerator the
    compiler takes minutes for the programs, one for each shape.

    Args:
        path: determines the distribution and the place in the buffer.
        leaf: shape, dtype and sharding of the weight.
    """
    constant, num_inputs = initial_distribution(path, leaf.shape, temporal_identity=False)
    if constant is not None:
        weight = np.full(leaf.shape, constant, leaf.dtype)
    else:
        draws, start = _draws(num_inputs, np.dtype(leaf.dtype)), _path_hash(path) % _NUM_DRAWS
        weight = np.resize(draws[start : start + _NUM_DRAWS], leaf.shape)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, weight.__getitem__)


@functools.lru_cache(maxsize=128)
def _draws(num_inputs: int, dtype: np.dtype[Any]) -> Float[np.ndarray, " n"]:
    """Return the buffer of `random_weight`, scaled and cast, twice in a row."""
    draws = np.random.default_rng(0).standard_normal(_NUM_DRAWS, np.float32) / np.float32(num_inputs**0.5)
    return np.tile(draws.astype(dtype), 2)


def _path_hash(path: WeightPath) -> int:
    """Return the CRC-32 of a path, 0 to 2^32 - 1."""
    return zlib.crc32("/".join(path).encode())
