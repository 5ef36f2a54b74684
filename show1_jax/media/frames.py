"""Frames as numbers in [-1, 1] and as uint8; fitting them to a size; choosing some of them."""

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from show1_jax.errors import UserError


def to_uint8(video: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Frames to look at from values in [-1, 1]: `clip(x / 2 + 0.5, 0, 1) * 255`, truncated, in float32.

    These are the original's operations. Raises `UserError` if a value is NaN, which no frame can show.
    """
    unit: np.ndarray = np.clip(np.asarray(video, np.float32) * 0.5 + 0.5, 0, 1)
    if np.isnan(unit).any():
        raise UserError("the video has NaN values: check the checkpoint's weights, or compute in float32")
    return (unit * 255).astype(np.uint8)


def from_uint8(frames: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Values in [-1, 1] from frames: `u / 127.5 - 1`, as the original's stage 4 reads them."""
    return frames.astype(np.float32) / np.float32(127.5) - np.float32(1)


def check_frames(frames: np.ndarray) -> None:
    """Raise `UserError` unless an array is frames to look at."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise UserError(f"frames must be uint8 (t, h, w, 3), none of them 0, not {frames.dtype} {frames.shape}")


def resize_uint8(frames: UInt8[np.ndarray, "t h w 3"], height: int, width: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Frames resized one by one by Pillow's bicubic, as the original does before stage 4.

    Its a is -0.5, and it rounds and clips to uint8 between the horizontal and the vertical pass.
    """
    from PIL import Image

    check_frames(frames)
    resized = (Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames)
    return np.stack([np.asarray(image) for image in resized])


def fit(video: Float32[np.ndarray, "t h w c"], height: int, width: int) -> Float32[np.ndarray, "t h2 w2 c"]:
    """Fill `height x width`: scale by one factor, centre, crop what sticks out.

    Bicubic in float32, anti-aliased when shrinking; its overshoot is clipped to each frame's own range.
    A video of that size already is returned as it is.
    """
    if video.shape[1:3] == (height, width):
        return video
    return np.stack([fit_frame(frame, height, width) for frame in video])


def fit_frame(frame: Shaped[np.ndarray, "h w c"], height: int, width: int) -> Float32[np.ndarray, "h2 w2 c"]:
    """Do for one frame what `fit` does for a video, with the memory of one channel; uint8 is brought to [-1, 1]."""
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
    """Return `from_uint8` of uint8, with no intermediate arrays, and anything else in float32."""
    if array.dtype != np.uint8:
        return np.asarray(array, np.float32)
    values: np.ndarray = from_uint8(np.arange(256, dtype=np.uint8))[array]
    return values


def even_indices(count: int, num: int) -> list[int]:
    """The indices of `num` of `count` frames, evenly spaced from the first to the last.

    Raises:
        UserError: there are fewer.
    """
    if not 1 <= num <= count:
        raise UserError(f"{num} frames are needed and the video has {count}: give a longer video")
    indices: list[int] = np.linspace(0, count - 1, num).round().astype(int).tolist()
    return indices


def sample_frames(video: Shaped[np.ndarray, "t ..."], num: int) -> Shaped[np.ndarray, "num ..."]:
    """`num` frames, evenly spaced from the first to the last. Raises `UserError` if the video has fewer."""
    return np.take(video, even_indices(len(video), num), axis=0)
