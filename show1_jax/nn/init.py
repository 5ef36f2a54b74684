"""Initial weights: one rule for their distribution; the draws are on the host or on the devices.

On the host NumPy draws them: nothing is compiled, and a weight is the same on any mesh.
"""

import math
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from show1_jax.diffusion.random_keys import new_key, normal
from show1_jax.parallel.weights import WeightPath, Weights

# The last layers along time: without them a video network is the image network that it is inflated from (Show-1,
# section 3.2).
_LAST_TEMPORAL_KERNEL: Final = re.compile(
    r"(temp_convs/\d+/conv4/conv|temp_attentions/\d+/proj_out|transformer_in/proj_out)/kernel$"
)


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
    of one over the number of their inputs.

    Args:
        path: its last name is the kind of weight.
        shape: shape of the weight; the inputs of a kernel are all axes but the last.
        temporal_identity: initialise the last temporal layers as zero, so that every temporal block is the identity.
    """
    kind = path[-1]
    if kind == "scale":
        return Distribution(1.0)
    if kind == "bias" or (temporal_identity and _LAST_TEMPORAL_KERNEL.search("/".join(path))):
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


def initial_weight_on_devices(path: WeightPath, leaf: jax.ShapeDtypeStruct, *, temporal_identity: bool = True) -> Array:
    """Return one initial weight, drawn on its devices; the draw differs from that of `initial_weight`.

    Args:
        path: determines the distribution and the draw.
        leaf: shape, dtype and sharding of the weight.
        temporal_identity: see `initial_distribution`.
    """
    constant, num_inputs = initial_distribution(path, leaf.shape, temporal_identity=temporal_identity)
    if constant is not None:
        return jnp.full(leaf.shape, constant, leaf.dtype, device=leaf.sharding)
    draw = jax.jit(_gaussian, static_argnums=(1, 2, 3), out_shardings=leaf.sharding)
    drawn: Array = draw(new_key(np.uint32(_path_hash(path))), leaf.shape, num_inputs, leaf.dtype)
    return drawn


def _gaussian(key: Key[Array, ""], shape: tuple[int, ...], num_inputs: int, dtype: DTypeLike) -> Float[Array, "..."]:
    return (normal(key, shape) / jnp.float32(num_inputs**0.5)).astype(dtype)


def _path_hash(path: WeightPath) -> int:
    """Return the CRC-32 of a path, 0 to 2^32 - 1."""
    return zlib.crc32("/".join(path).encode())
