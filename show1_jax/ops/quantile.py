"""Quantiles of magnitudes, for dynamic thresholding."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, UInt32

from show1_jax.ops.choice import QuantileVariant, quantile_variant
from show1_jax.ops.target import current_target
from show1_jax.parallel import activation_axes, shards_of

_BITS = 31
"""Bits of a non-negative float32; as integers, these bits have the same order as the floats."""

Quantile = Float32[Array, "*frames 1 1 1"]
Bits = UInt32[Array, "*frames 1 1 1"]


def magnitude_quantile(x: Float32[Array, "*frames h w c"], share: float) -> Quantile:
    """Return the quantile of |x| over the last three axes, interpolated linearly as by `jnp.quantile`.

    Args:
        x: frames of one clip or of a batch; finite.
        share: fraction of the values below the quantile, 0 to 1.
    """
    _, rows = activation_axes(1)  # after guidance, so its branches are not in the batch
    return VARIANTS[quantile_variant(current_target(), shards_of(rows))](x, share)


def counted(x: Float32[Array, "*frames h w c"], share: float) -> Quantile:
    """Find the smaller of the two neighbouring values bit by bit, by counting the values below it, in 31 passes."""
    bits = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.uint32)
    position = share * (math.prod(x.shape[-3:]) - 1)
    rank = math.floor(position)

    def count(is_counted: Array) -> Array:
        return jnp.sum(is_counted, axis=(-3, -2, -1), keepdims=True, dtype=jnp.int32)

    def set_bit(index: Int[Array, ""], found: Bits) -> Bits:
        larger = found | (jnp.uint32(1) << jnp.uint32(_BITS - 1 - index))
        return jnp.where(count(bits < larger) <= rank, larger, found)

    found = jax.lax.fori_loop(0, _BITS, set_bit, jnp.zeros_like(bits[..., :1, :1, :1]))
    above = jnp.min(jnp.where(bits > found, bits, jnp.uint32(2**32 - 1)), axis=(-3, -2, -1), keepdims=True)
    following = jnp.where(count(bits <= found) > rank + 1, found, above)
    return _interpolated(found, following, position - rank)


def by_sorting(x: Float32[Array, "*frames h w c"], share: float) -> Quantile:
    """Find the two neighbouring values by sorting all."""
    bits = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.uint32)
    ordered = jnp.sort(bits.reshape(*x.shape[:-3], 1, 1, -1), axis=-1)
    position = share * (ordered.shape[-1] - 1)
    rank = math.floor(position)
    low, high = (ordered[..., index, None] for index in (rank, min(rank + 1, ordered.shape[-1] - 1)))
    return _interpolated(low, high, position - rank)


def _interpolated(low: Bits, high: Bits, weight: float) -> Quantile:
    low, high = (jax.lax.bitcast_convert_type(value, jnp.float32) for value in (low, high))
    return low + (high - low) * weight if weight else low


VARIANTS: Final[Mapping[QuantileVariant, Callable[..., Quantile]]] = {"counted": counted, "sorted": by_sorting}
"""The variants, with the arguments of `magnitude_quantile`. `counted` is the reference."""
