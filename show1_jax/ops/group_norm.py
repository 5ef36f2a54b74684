"""Group norm (Wu and He 2018, arXiv 1803.08494), with statistics in float32."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from show1_jax.ops.choice import NormVariant, norm_variant
from show1_jax.ops.target import current_target
from show1_jax.parallel import activation_axes, shards_of

Features = Float[Array, "n *pixels c"]
PerChannel = Float[Array, " c"]

_MIN_PIXELS: Final = 64
"""Fewest pixels of a part that `one_pass` sums."""
_MAX_PARTS: Final = 2048
"""Most parts of a batch, as many as keep a GPU busy."""


def group_norm(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise each group of channels over all axes but the leading one, by the fastest variant.

    Args:
        x: features in the compute dtype.
        scale: factor of the normalised features, in the same dtype.
        bias: added to them, in the same dtype.
        num_groups: number of groups of channels; divides c.
        epsilon: added to the variance.
    """
    _, rows = activation_axes(len(x))
    variant = norm_variant(current_target(), x.dtype, shards_of(rows))
    return VARIANTS[variant](x, scale, bias, num_groups, epsilon)


def two_pass(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise with the mean over the group, and then the mean of the squared differences to it."""
    size = x.shape[-1] // num_groups
    axes = (*range(1, x.ndim - 1), x.ndim)
    grouped = x.reshape(*x.shape[:-1], num_groups, size).astype(jnp.float32)
    mean = grouped.mean(axes)
    variance = jax.lax.square(grouped - jnp.expand_dims(mean, axes)).mean(axes)
    return _normalised(x, mean, variance, scale, bias, epsilon)


def one_pass(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise features of half precision with float32 sums of the features and of their squares, in one pass.

    The variance is a difference of two means, whose rounding is 2^-24 of the mean square. That is less than what the
    rounding of the features has done to it, 2^-18 in bfloat16, however large their mean is; float32 has no such margin.
    On GPUs a norm is four kernels: sums of parts of the pixels a channel first, which XLA may join with the operation
    before; their sums for each group; a factor and a shift for each channel; and the result.
    """
    n, channels = len(x), x.shape[-1]
    num_pixels = math.prod(x.shape[1:-1])
    grouped = (-1, num_groups, channels // num_groups)
    parts = x.reshape(n, _num_parts(n, num_pixels), *grouped).astype(jnp.float32)
    sums = jnp.stack([parts.sum(axis=2), jax.lax.square(parts).sum(axis=2)])
    mean, mean_square = sums.sum(axis=(2, 4)) / (num_pixels * grouped[2])
    variance = jnp.maximum(mean_square - jax.lax.square(mean), 0.0)
    return _scaled_and_shifted(x, mean, variance, scale, bias, epsilon)


def _num_parts(num_samples: int, num_pixels: int) -> int:
    """Return the number of parts that the pixels of a sample are divided into evenly."""
    most = min(_MAX_PARTS // num_samples, num_pixels // _MIN_PIXELS)
    return next((number for number in range(most, 1, -1) if num_pixels % number == 0), 1)


def _normalised(
    x: Features,
    mean: Float[Array, "n groups"],
    variance: Float[Array, "n groups"],
    scale: PerChannel,
    bias: PerChannel,
    epsilon: float,
) -> Features:
    channels = (1,) * (x.ndim - 1) + (-1,)
    mean, variance = (jnp.repeat(y, x.shape[-1] // y.shape[1], axis=1) for y in (mean, variance))
    mean, variance = (y.reshape(len(x), *channels[1:]) for y in (mean, variance))
    centred = x.astype(jnp.float32) - mean
    factor = jax.lax.rsqrt(variance + epsilon) * scale.reshape(channels).astype(jnp.float32)
    return (centred * factor + bias.reshape(channels).astype(jnp.float32)).astype(x.dtype)


def _scaled_and_shifted(
    x: Features,
    mean: Float[Array, "n groups"],
    variance: Float[Array, "n groups"],
    scale: PerChannel,
    bias: PerChannel,
    epsilon: float,
) -> Features:
    """Return `x factor + shift`, as PyTorch does, where a channel's factor and shift have mean and bias in them.

    The rounding of the shift is at most that of the features themselves. The barrier keeps XLA from computing both
    again for every pixel.
    """
    size = x.shape[-1] // mean.shape[1]
    factor = jnp.repeat(jax.lax.rsqrt(variance + epsilon), size, axis=1) * scale.astype(jnp.float32)
    shift = bias.astype(jnp.float32) - jnp.repeat(mean, size, axis=1) * factor
    factor, shift = jax.lax.optimization_barrier((factor, shift))
    per_sample = (len(x), *(1,) * (x.ndim - 2), -1)
    return (x.astype(jnp.float32) * factor.reshape(per_sample) + shift.reshape(per_sample)).astype(x.dtype)


VARIANTS: Final[Mapping[NormVariant, Callable[..., Features]]] = {"two_pass": two_pass, "one_pass": one_pass}
"""The variants, with the arguments of `group_norm`. `two_pass` is the reference."""
