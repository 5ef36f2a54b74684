"""Decoding of videos to training frames: a check that a file is complete, and the frames at given times."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from show1_jax.data.failures import VideoError
from show1_jax.data.names import MAX_VIDEO_BYTES
from show1_jax.files import open_regular
from show1_jax.media.containers import TimedFrame, open_video
from show1_jax.media.timeline import Timeline

_TIME_TOLERANCE = 1e-6
# Where Pillow shrinks by more than this, it averages whole pixels before its filter: less time, no visible difference.
_REDUCING_GAP = 3.0


@dataclass(frozen=True)
class VideoFacts:
    """Properties of a video, known after all of it was decoded.

    Attributes:
        start: time of the first frame, in seconds on the file's clock.
        duration: seconds from `start` to the end of the last frame.
        fps: average frames a second.
        num_bytes: size of the file.
        sha256: hash of the file.
    """

    start: float
    duration: float
    fps: float
    num_bytes: int
    sha256: str


def check_file(path: Path) -> VideoFacts:
    """Decode all of a video and return its properties.

    Raises:
        VideoError: the file cannot be read, opened or decoded, has no pictures, is cut short, too large, or has damaged
            frames, which decoders hide.
    """
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            num_bytes = file.tell()
            if num_bytes > MAX_VIDEO_BYTES:
                raise VideoError(f"the file has more than {MAX_VIDEO_BYTES:,} bytes")
            with open_video(file) as video:
                timeline = Timeline.from_frames(video.frames())
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    return VideoFacts(timeline.start, timeline.duration, timeline.fps, num_bytes, sha256)


def frames_at(data: bytes, times: Sequence[float]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return the frames of an encoded video at given times; see `each_frame_at`."""
    return list(each_frame_at(data, times))


def each_frame_at(data: bytes, times: Sequence[float]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yield the frames of an encoded video at given times, as players show them.

    Decoding starts at the last keyframe before the first time. A time before the first frame yields the first frame; a
    time after the last frame yields the last one.

    Args:
        data: the bytes of the file.
        times: seconds on the file's clock, in rising order.

    Yields:
        A frame for every time, uint8 RGB; equal frames are the same array.

    Raises:
        VideoError: the video cannot be decoded, or a frame on the way is damaged.
    """
    last: TimedFrame | None = None
    for frame in _shown_at(_frames_from(data, times[0]), times):
        if frame is not last:
            last, rgb = frame, frame.to_rgb()
        yield rgb


def crop_and_resize(
    frame: UInt8[np.ndarray, "h w 3"], height: int, width: int, position: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Crop a frame to the aspect of `height x width`, then resize it by one factor, bicubic and anti-aliased.

    Args:
        frame: RGB of any size; a smaller one is enlarged.
        height: height of the result, in pixels.
        width: width of the result, in pixels.
        position: position of the crop along the axis that is cropped: 0 is the top or left end, 0.5 the centre, 1 the
            other end.
    """
    frame_height, frame_width = frame.shape[:2]
    scale = min(frame_height / height, frame_width / width)
    left = max(0.0, frame_width - width * scale) * position
    top = max(0.0, frame_height - height * scale) * position
    box = (left, top, min(left + width * scale, frame_width), min(top + height * scale, frame_height))
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box, _REDUCING_GAP)
    return np.asarray(image)


def _frames_from(data: bytes, time: float) -> Iterator[TimedFrame]:
    """Yield decoded frames, from one that is shown at or before `time`, or else from the first."""
    with open_video(io.BytesIO(data)) as video:
        frames = video.frames() if video.seek(time) else iter(())
        first = next(frames, None)
        if first is not None and first.time <= time + _TIME_TOLERANCE:
            yield first
            yield from frames
            return
    with open_video(io.BytesIO(data)) as video:  # the time is before the first frame, or the index is wrong
        yield from video.frames()


def _shown_at(frames: Iterator[TimedFrame], times: Sequence[float]) -> Iterator[TimedFrame]:
    position = 0
    current: TimedFrame | None = None
    for frame in frames:
        while current and position < len(times) and times[position] < frame.time - _TIME_TOLERANCE:
            yield current
            position += 1
        if position == len(times):
            return
        current = frame
    if current is None:
        raise VideoError("it has no frames")
    for _ in range(position, len(times)):
        yield current
