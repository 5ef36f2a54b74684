"""Conversion of frames between [-1, 1] and uint8, fitting to a size, and choice of evenly spaced frames."""

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from show1_jax.errors import UserError


def to_uint8(video: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Return values in [-1, 1] as uint8 frames: `clip(x / 2 + 0.5, 0, 1) * 255`, truncated, in float32.

    These are the original's operations.

    Raises:
        UserError: a value is NaN.

    Example:
        >>> import numpy as np
        >>> from show1_jax import to_uint8
        >>> to_uint8(np.array([-1.0, 0.0, 1.0, 1.2])).tolist()
        [0, 127, 255, 255]
    """
    unit: np.ndarray = np.clip(np.asarray(video, np.float32) * 0.5 + 0.5, 0, 1)
    if np.isnan(unit).any():
        raise UserError("the video has NaN values: check the checkpoint's weights, or compute in float32")
    return (unit * 255).astype(np.uint8)


def from_uint8(frames: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return frames as values in [-1, 1]: `u / 127.5 - 1`, as the original's stage 4 reads them."""
    return frames.astype(np.float32) / np.float32(127.5) - np.float32(1)


def check_frames(frames: np.ndarray) -> None:
    """Refuse an array that is not uint8 frames `(t, h, w, 3)`.

    Raises:
        UserError: the dtype or the shape is another, or a size is 0.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise UserError(f"frames must be uint8 (t, h, w, 3), none of them 0, not {frames.dtype} {frames.shape}")


def resize_uint8(frames: UInt8[np.ndarray, "t h w 3"], height: int, width: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Resize frames one by one with Pillow's bicubic filter, as the original does before stage 4.

    The filter's parameter a is -0.5; it rounds and clips to uint8 between the horizontal and the vertical pass.
    """
    from PIL import Image

    check_frames(frames)
    resized = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames)
    return np.stack([np.asarray(image) for image in resized])


def enlarge_uint8(frames: UInt8[np.ndarray, "t h w 3"], factor: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Enlarge frames by a whole factor with Pillow's Lanczos filter, for viewing."""
    from PIL import Image

    check_frames(frames)
    size = (factor * frames.shape[2], factor * frames.shape[1])
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])


def square_uint8(frames: UInt8[np.ndarray, "t h w 3"], size: int) -> UInt8[np.ndarray, "t size size 3"]:
    """Crop the centre of frames to a square, and resize it to `size x size` as `resize_uint8` does."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize_uint8(frames[:, top : top + side, left : left + side], size, size)


def fit(video: Float32[np.ndarray, "t h w c"], height: int, width: int) -> Float32[np.ndarray, "t h2 w2 c"]:
    """Scale a video by one factor until it covers `height x width`, and crop its centre.

    The filter is bicubic in float32, anti-aliased when it reduces the size; its overshoot is clipped to the range of
    each frame. A video that already has the size is returned unchanged.
    """
    if video.shape[1:3] == (height, width):
        return video
    return np.stack([fit_frame(frame, height, width) for frame in video])


def fit_frame(frame: Shaped[np.ndarray, "h w c"], height: int, width: int) -> Float32[np.ndarray, "h2 w2 c"]:
    """Fit one frame as `fit` does, with extra memory for one channel; uint8 is converted to [-1, 1]."""
    from PIL import Image, ImageOps

    if frame.shape[:2] == (height, width):
        return _float_values(frame)
    fitted = np.empty((height, width, frame.shape[-1]), np.float32)
    for channel in range(frame.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(_float_values(frame[..., channel])))
        fitted[..., channel] = np.asarray(ImageOps.fit(plane, (width, height), Image.Resampling.BICUBIC))
    low, high = frame.min(keepdims=True), frame.max(keepdims=True)
    return np.clip(fitted, _float_values(low), _float_values(high), out=fitted)


def _float_values(array: np.ndarray) -> np.ndarray:
    """Return `from_uint8` of uint8 without intermediate arrays, and any other dtype as float32."""
    if array.dtype != np.uint8:
        return np.asarray(array, np.float32)
    values: np.ndarray = from_uint8(np.arange(256, dtype=np.uint8))[array]
    return values


def even_indices(count: int, num: int) -> list[int]:
    """Return the indices of `num` of `count` frames, evenly spaced from the first to the last.

    Raises:
        UserError: `num` is not from 1 to `count`.
    """
    if not 1 <= num <= count:
        raise UserError(f"{num} frames are needed and the video has {count}: give a longer video")
    indices: list[int] = np.linspace(0, count - 1, num).round().astype(int).tolist()
    return indices


def sample_frames(video: Shaped[np.ndarray, "t ..."], num: int) -> Shaped[np.ndarray, "num ..."]:
    """Return `num` frames, evenly spaced from the first to the last.

    Raises:
        UserError: the video has fewer.
    """
    return np.take(video, even_indices(len(video), num), axis=0)
