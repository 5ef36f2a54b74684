"""Encoded videos to frames, in memory: is one whole, and which frame is shown when."""

import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from show1_jax.data.failures import VideoError

# Only the container that a dataset holds: a playlist named like a video could make FFmpeg open other files.
_CONTAINER = "mov,mp4,m4a,3gp,3g2,mj2"
_TIME_TOLERANCE = 1e-6
# Pillow averages whole pixels before its filter where it shrinks by more than this: no visible difference, less time.
_REDUCING_GAP = 3.0


@dataclass(frozen=True)
class VideoFacts:
    """What decoding all of a video tells.

    Attributes:
        start: when its first frame is shown, in seconds on the file's clock.
        duration: seconds from then until its last frame ends.
        fps: frames a second, on average.
        num_bytes: of the file.
        sha256: of the file.
    """

    start: float
    duration: float
    fps: float
    num_bytes: int
    sha256: str


def check_file(path: Path) -> VideoFacts:
    """Decode all of a video.

    Raises:
        VideoError: it cannot be read, opened or decoded, has no pictures, is cut short, or has damaged frames, which
            decoders hide.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    if not data:
        raise VideoError("the file is empty")
    times: list[float] = []
    last = 0.0
    with _opened(data) as (container, stream):
        for frame in container.decode(stream):
            time = _time(frame)
            if times and time <= times[-1]:
                raise VideoError(f"the times of its frames do not rise at {time:g} s")
            if frame.is_corrupt:
                raise VideoError(f"the frame at {time:g} s is damaged")
            times.append(time)
            last = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
    if not times:
        raise VideoError("it has no frames")
    duration = times[-1] - times[0] + (last or (times[-1] - times[0]) / max(1, len(times) - 1))
    fps = len(times) / duration if duration else 0.0
    return VideoFacts(times[0], duration, fps, len(data), hashlib.sha256(data).hexdigest())


def frames_at(data: bytes, times: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames of an encoded video that are shown at some times.

    Decoding starts at the last keyframe before the first time. Before the first frame, the first is shown; after the
    last, the last.

    Args:
        data: the file.
        times: in seconds on the file's clock, rising.

    Returns:
        A frame for every time; equal ones are the same array.

    Raises:
        VideoError: the video cannot be decoded, or a frame that is shown is damaged.
    """
    with _opened(data) as (container, stream):
        shown = _shown_at(_frames_from(container, stream, times[0]), times)
        arrays: dict[int, np.ndarray] = {}
        for frame in shown:
            if frame.is_corrupt:
                raise VideoError(f"the frame at {_time(frame):g} s is damaged")
            if id(frame) not in arrays:
                arrays[id(frame)] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        return [arrays[id(frame)] for frame in shown]


def crop_and_resize(
    frame: UInt8[np.ndarray, "h w 3"], height: int, width: int, position: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Fill `height x width` from a frame: crop to that aspect, then resize, bicubic and anti-aliased, by one factor.

    Args:
        frame: of any size; a smaller one is enlarged.
        height: of the result.
        width: of the result.
        position: of the crop along the axis that loses something: 0 is the top or left end, 0.5 the centre, 1 the
            other end.
    """
    frame_height, frame_width = frame.shape[:2]
    scale = min(frame_height / height, frame_width / width)
    left = max(0.0, frame_width - width * scale) * position
    top = max(0.0, frame_height - height * scale) * position
    box = (left, top, min(left + width * scale, frame_width), min(top + height * scale, frame_height))
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box, _REDUCING_GAP)
    return np.asarray(image)


@contextmanager
def _opened(data: bytes) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
    """A video in memory; what FFmpeg finds wrong with it while it is used is a `VideoError`."""
    try:
        with av.open(io.BytesIO(data), "r", options={"format_whitelist": _CONTAINER}) as container:
            if not container.streams.video:
                raise VideoError("it has no pictures")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # videos are decoded side by side, in threads and processes
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(error.strerror or str(error)) from error


def _frames_from(
    container: "av.container.InputContainer", stream: "av.VideoStream", time: float
) -> "Iterator[av.VideoFrame]":
    """Decoded frames from one that is shown no later than `time`, or the first."""
    assert stream.time_base is not None
    container.seek(math.floor(time / stream.time_base), stream=stream)
    frames = container.decode(stream)
    first = next(frames, None)
    if first is not None and _time(first) <= time + _TIME_TOLERANCE:
        yield first
        yield from frames
    else:  # the time is before the first frame, or the file's index points too far ahead
        container.seek(min(0, stream.start_time or 0), stream=stream)
        yield from container.decode(stream)


def _shown_at(frames: "Iterator[av.VideoFrame]", times: Sequence[float]) -> "list[av.VideoFrame]":
    shown: list[av.VideoFrame] = []
    current: av.VideoFrame | None = None
    for frame in frames:
        while current and len(shown) < len(times) and times[len(shown)] < _time(frame) - _TIME_TOLERANCE:
            shown.append(current)
        if len(shown) == len(times):
            return shown
        current = frame
    if current is None:
        raise VideoError("it has no frames")
    return shown + [current] * (len(times) - len(shown))


def _time(frame: "av.VideoFrame") -> float:
    if frame.time is None:
        raise VideoError("its frames have no times")
    return frame.time
