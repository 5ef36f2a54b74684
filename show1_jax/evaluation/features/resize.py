"""Resizing of frames by the rules of reference implementations, as products with weights of rows and columns.

All rules interpolate between neighbours alone, without a filter when they make frames smaller. They differ in the place
of an output pixel in the input: `corners` aligns the first and the last pixels' centres, `half_pixel` aligns the edges
of the frames, and `legacy` is TensorFlow 1's rule, which aligns the first pixels and shifts all others.
"""

from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, Num

Rule = Literal["corners", "half_pixel", "legacy"]

_CUBIC: Final = -0.75
"""Coefficient of OpenCV's and PyTorch's cubic convolution (Keys 1981); Pillow's and TensorFlow's is -0.5."""


def positions(size: int, new_size: int, rule: Rule) -> Float32[np.ndarray, " {new_size}"]:
    """Return the place of each output pixel in the input, in input pixels from the centre of the first."""
    index = np.arange(new_size, dtype=np.float32)
    if rule == "corners":
        return index * np.float32((size - 1) / max(new_size - 1, 1))
    scale = np.float32(size / new_size)
    return (index + np.float32(0.5)) * scale - np.float32(0.5) if rule == "half_pixel" else index * scale


def linear_weights(size: int, new_size: int, rule: Rule) -> Float32[np.ndarray, "{new_size} {size}"]:
    """Return the weight of each input pixel in each output pixel, for linear interpolation.

    `half_pixel` is PyTorch's `interpolate(align_corners=False)`, `corners` its `align_corners=True`.
    """
    place = np.maximum(positions(size, new_size, rule), np.float32(0))
    first = np.minimum(place.astype(np.int32), size - 1)
    share = place - first.astype(np.float32)
    return _weights(size, first[:, None] + np.arange(2), np.stack([1 - share, share], axis=1))


def cubic_weights(size: int, new_size: int) -> Float32[np.ndarray, "{new_size} {size}"]:
    """Return the weight of each input pixel in each output pixel, for OpenCV's `INTER_CUBIC`."""
    place = positions(size, new_size, "half_pixel")
    first = np.floor(place).astype(np.int32)
    distance = np.abs((place - first)[:, None] - np.arange(-1, 3, dtype=np.float32))
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return _weights(size, first[:, None] + np.arange(-1, 3), np.where(distance <= 1, near, far))


def resize(
    frames: Num[np.ndarray, "t h w c"],
    rows: Float32[np.ndarray, "new_h h"],
    columns: Float32[np.ndarray, "new_w w"],
) -> Float32[np.ndarray, "t new_h new_w c"]:
    """Return resized frames.

    Args:
        frames: of any numeric type; their values keep their range.
        rows: weights of the input's rows in each new row.
        columns: weights of the input's columns in each new column.
    """
    tall = np.einsum("Hh,thwc->tHwc", rows, frames.astype(np.float32), optimize=True)
    return np.einsum("Ww,tHwc->tHWc", columns, tall, optimize=True)


def _weights(size: int, index: np.ndarray, share: np.ndarray) -> Float32[np.ndarray, "new {size}"]:
    """Return a table of weights; pixels beyond the edges are those at the edges."""
    weights = np.zeros((len(index), size), np.float32)
    row = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    np.add.at(weights, (row, np.clip(index, 0, size - 1)), share.astype(np.float32))
    return weights
