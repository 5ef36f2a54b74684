"""Convolutions, with the form that is the fastest on the device."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from show1_jax.ops.choice import num_input_channels
from show1_jax.ops.target import current_target


def convolve(
    x: Float[Array, "n *pixels c"], kernel: Float[Array, "*sides c k"], *args: Any, **settings: Any
) -> Float[Array, "n *outputs k"]:
    """Convolve as `jax.lax.conv_general_dilated`; few input channels may be filled up with zeros, which add nothing.

    Args:
        x: features, channels last.
        kernel: kernel with the axes of its input and output channels last.
        args: see `jax.lax.conv_general_dilated`.
        settings: see there.
    """
    added = num_input_channels(current_target(), x.dtype, x.shape[-1]) - x.shape[-1]
    if added:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, added)])
        kernel = jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 2) + [(0, added), (0, 0)])
    return jax.lax.conv_general_dilated(x, kernel, *args, **settings)
