"""Group norm (Wu and He 2018, arXiv 1803.08494), with statistics in float32."""

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

_PIXELS_PER_SAMPLE: Final = 256
"""Pixels for each one in the pivot of `per_channel`; a larger number costs less and bounds the error less."""


def group_norm(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise each group of channels over all axes but the leading one, by the fastest variant.

    Args:
        x: features in the compute dtype.
        scale: factor of the normalised features, in the same dtype.
        bias: added to them, in the same dtype.
        num_groups: number of groups of channels; divides c.
        epsilon: added to the variance.
    """
    batch, rows = activation_axes(len(x))
    num_bytes = x.size * x.dtype.itemsize // shards_of(batch)
    variant = norm_variant(current_target(), num_bytes, shards_of(rows))
    return VARIANTS[variant](x, scale, bias, num_groups, epsilon)


def two_pass(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise with the mean over the group, and then the mean of the squared differences to it."""
    size = x.shape[-1] // num_groups
    axes = (*range(1, x.ndim - 1), x.ndim)
    grouped = x.reshape(*x.shape[:-1], num_groups, size).astype(jnp.float32)
    mean = grouped.mean(axes)
    variance = jax.lax.square(grouped - jnp.expand_dims(mean, axes)).mean(axes)
    return _normalised(x, mean, variance, scale, bias, epsilon)


def per_channel(x: Features, scale: PerChannel, bias: PerChannel, num_groups: int, epsilon: float) -> Features:
    """Normalise with sums over the pixels of every channel, which need one pass; groups are combined afterwards.

    Sums are of differences to a pivot, the mean p of k of the channel's m pixels, so that the variance does not cancel
    where the mean is large: (p - mean)^2 <= variance m / k by the inequality of Cauchy and Schwarz, so its relative
    error is at most about (1 + m / k) times that of a sum. Groups are combined as by Chan et al. (1983).
    """
    pixels = x.reshape(len(x), -1, x.shape[-1]).astype(jnp.float32)
    pivot = jax.lax.stop_gradient(pixels[:, ::_PIXELS_PER_SAMPLE].mean(axis=1))  # no result depends on it
    shifted = pixels - pivot[:, None]
    mean_shifted = shifted.mean(axis=1)
    within = jnp.maximum(jax.lax.square(shifted).mean(axis=1) - jax.lax.square(mean_shifted), 0.0)
    means, within = (y.reshape(len(x), num_groups, -1) for y in (pivot + mean_shifted, within))
    mean = means.mean(axis=2)
    variance = within.mean(axis=2) + jax.lax.square(means - mean[..., None]).mean(axis=2)
    return _scaled_and_shifted(x, mean, variance, scale, bias, epsilon)


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


VARIANTS: Final[Mapping[NormVariant, Callable[..., Features]]] = {"two_pass": two_pass, "per_channel": per_channel}
"""The variants, with the arguments of `group_norm`. `two_pass` is the reference."""
