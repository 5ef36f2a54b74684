"""Resizing as the reference implementations of metrics do it, on the host.

Three rules say where the pixels of the result lie between those of the frame. They give different features, and all are
called "bilinear": the names here are those of ONNX's operator `Resize`. None of them smooths before it shrinks.
"""

from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

ResizeRule = Literal["asymmetric", "half_pixel", "align_corners"]
RESIZE_RULES: Final[tuple[ResizeRule, ...]] = ("asymmetric", "half_pixel", "align_corners")
"""Position of pixel i of the result in the frame: i s, of TensorFlow 1's `resize_bilinear`; (i + 1/2) s - 1/2, of
PyTorch and TensorFlow 2; and i (size - 1) / (new size - 1). Here s = size / new size."""

_CUBIC: Final = -0.75


def resize_bilinear(
    frames: Shaped[np.ndarray, "t h w c"], height: int, width: int, rule: ResizeRule
) -> Float32[np.ndarray, "t {height} {width} c"]:
    """Resize frames as TensorFlow does: in float32, along rows first, then along columns.

    Args:
        frames: numbers of any type and range; the range stays as it is.
        height: rows of the result.
        width: columns of the result.
        rule: the rule of pixel positions.
    """
    if frames.shape[1:3] == (height, width):
        return frames.astype(np.float32)
    rows, columns = (_neighbours(*sizes, rule) for sizes in zip(frames.shape[1:3], (height, width), strict=True))
    resized = np.empty((len(frames), height, width, frames.shape[3]), np.float32)
    for frame, out in zip(frames, resized, strict=True):  # one by one: little memory, whatever the clip's length
        out[...] = _interpolate(_interpolate(frame, *columns, axis=1), *rows, axis=0)
    return resized


def resize_cubic(
    frames: Shaped[np.ndarray, "t h w c"], height: int, width: int
) -> Float32[np.ndarray, "t {height} {width} c"]:
    """Resize frames by cubic convolution (Keys 1981) as OpenCV's `INTER_CUBIC` does, with its coefficient -0.75.

    Pillow's and TensorFlow's coefficient is -0.5. Pixels lie by the rule `half_pixel`; those beyond an edge are those
    at the edge.

    Args:
        frames: numbers of any type and range; results may be a little outside of the range.
        height: rows of the result.
        width: columns of the result.
    """
    resized = np.empty((len(frames), height, width, frames.shape[3]), np.float32)
    for frame, out in zip(frames, resized, strict=True):
        out[...] = _convolve_cubic(_convolve_cubic(frame, width, axis=1), height, axis=0)
    return resized


def _convolve_cubic(frame: Shaped[np.ndarray, "h w c"], new_size: int, axis: int) -> Float32[np.ndarray, "a b c"]:
    size = frame.shape[axis]
    index, scale = np.arange(new_size, dtype=np.float32), np.float32(size / new_size)
    position = (index + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(position)
    terms = []
    for step in range(-1, 3):
        distance = np.abs(position - first - step)
        near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
        far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
        weight = np.where(distance <= 1, near, far).astype(np.float32)
        pixels = np.clip(first.astype(np.int64) + step, 0, size - 1)
        taken = np.take(frame, pixels, axis).astype(np.float32)
        terms.append(taken * np.expand_dims(weight, [other for other in range(3) if other != axis]))
    return terms[0] + terms[1] + terms[2] + terms[3]


def _neighbours(
    size: int, new_size: int, rule: ResizeRule
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return for each new pixel the pixels before and after it, and the weight of the latter.

    Positions are computed in float32, as TensorFlow does.
    """
    index, scale = np.arange(new_size, dtype=np.float32), np.float32(size / new_size)
    if rule == "half_pixel":
        position = (index + np.float32(0.5)) * scale - np.float32(0.5)
    elif rule == "align_corners" and new_size > 1:
        position = index * np.float32((size - 1) / (new_size - 1))
    else:
        position = index * scale
    position = np.clip(position, 0, size - 1)
    before = np.floor(position).astype(np.int64)
    return before, np.minimum(before + 1, size - 1), position - before.astype(np.float32)


def _interpolate(
    frame: Shaped[np.ndarray, "h w c"],
    before: Int[np.ndarray, " n"],
    after: Int[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
    axis: int,
) -> Float32[np.ndarray, "a b c"]:
    first, second = (np.take(frame, pixels, axis).astype(np.float32) for pixels in (before, after))
    second -= first
    second *= np.expand_dims(weight, [other for other in range(3) if other != axis])
    second += first
    return second
