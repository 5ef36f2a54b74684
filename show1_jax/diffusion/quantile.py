"""Quantiles without sorting, which is slow on vector hardware."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, UInt32

_BITS = 31
"""Bits of a non-negative float32; as integers, these bits have the same order as the floats."""


def magnitude_quantile(x: Float32[Array, "*frames h w c"], share: float) -> Float32[Array, "*frames 1 1 1"]:
    """Return the quantile of |x| over the last three axes, interpolated linearly as by `jnp.quantile`.

    The smaller of the two neighbouring values is found bit by bit, by counting the values below a candidate, in 31
    passes. Sorting takes about twenty times as long on a CPU.

    Args:
        x: frames of one clip or of a batch; finite.
        share: fraction of the values below the quantile, 0 to 1.
    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.uint32)
    position = share * (math.prod(x.shape[-3:]) - 1)
    rank = math.floor(position)

    def count(is_counted: Array) -> Array:
        return jnp.sum(is_counted, axis=(-3, -2, -1), keepdims=True, dtype=jnp.int32)

    def set_bit(index: Int[Array, ""], found: UInt32[Array, "*frames 1 1 1"]) -> UInt32[Array, "*frames 1 1 1"]:
        larger = found | (jnp.uint32(1) << jnp.uint32(_BITS - 1 - index))
        return jnp.where(count(bits < larger) <= rank, larger, found)

    found = jax.lax.fori_loop(0, _BITS, set_bit, jnp.zeros_like(bits[..., :1, :1, :1]))
    above = jnp.min(jnp.where(bits > found, bits, jnp.uint32(2**32 - 1)), axis=(-3, -2, -1), keepdims=True)
    following = jnp.where(count(bits <= found) > rank + 1, found, above)
    low, high = (jax.lax.bitcast_convert_type(value, jnp.float32) for value in (found, following))
    weight = position - rank
    return low + (high - low) * weight if weight else low
