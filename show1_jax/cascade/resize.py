"""Resizing between stages, with the numbers of the original."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32


def _bilinear_weights(size: int, new_size: int) -> Float32[np.ndarray, "new old"]:
    step = np.float32((size - 1) / (new_size - 1)) if new_size > 1 else np.float32(0)
    position = np.arange(new_size, dtype=np.float32) * step
    low = np.minimum(position.astype(np.int32), size - 1)
    share = position - low.astype(np.float32)
    weights = np.zeros((new_size, size), np.float32)
    weights[np.arange(new_size), low] += 1 - share
    weights[np.arange(new_size), np.minimum(low + 1, size - 1)] += share
    return weights


def resize_bilinear(
    video: Float32[Array, "b t h w c"], height: int, width: int
) -> Float32[Array, "b t {height} {width} c"]:
    """Resize every frame bilinearly with aligned corners: the first and last pixels keep their values.

    This is PyTorch's `interpolate(mode="bilinear", align_corners=True)`, which the original uses for upsampling.
    """
    return jnp.einsum(
        "bthwc,Hh,Ww->btHWc",
        video,
        _bilinear_weights(video.shape[2], height),
        _bilinear_weights(video.shape[3], width),
        precision=jax.lax.Precision.HIGHEST,
    )
