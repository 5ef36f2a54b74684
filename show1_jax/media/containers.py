"""Encoded videos: the supported formats, the choice of a file's video stream, and its frames with their times.

FFmpeg reads them within limits: only listed containers, and a maximum of pixels per frame and in all frames.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import UInt8

from show1_jax.media.display import MAX_FRAME_PIXELS, FrameDisplay
from show1_jax.media.errors import VideoError
from show1_jax.media.structure import check_complete

if TYPE_CHECKING:
    import av

CONTAINER_SUFFIXES: Final = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
MAX_FRAMES: Final = 1_000_000
MAX_DECODED_PIXELS: Final = 1 << 38
"""Limit for all frames together: an hour of 1920 x 1080 at 30 frames per second has 2.2e11."""
# Only containers: a playlist named like a video could make FFmpeg open other files.
_CONTAINER_FORMATS: Final = "mov,mp4,matroska,webm,avi,gif"
_CONTAINER_OPTIONS: Final = {
    "format_whitelist": _CONTAINER_FORMATS,
    "fflags": "-genpts",  # for AVI with B-frames it generates wrong times
}
_LIMITS: Final = {"max_pixels": str(MAX_FRAME_PIXELS)}
_CODEC_OPTIONS: Final = {**_LIMITS, "err_detect": "explode"}
_DURATION_TAG: Final = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")
_STILL_FRAMES: Final = 1.5
_ALPHA_BLOCK: Final = (1).to_bytes(8, "big")
"""Value of Matroska's BlockAddID for an alpha channel."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A frame, and the frame whose luma is its alpha channel if that is encoded separately."""

    frame: "av.VideoFrame"
    alpha: "av.VideoFrame | None" = None


@dataclass(frozen=True, slots=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
        time: its presentation time, in seconds on the file's clock.
        duration: in seconds; 0 if the file does not state it.
    """

    time: float
    duration: float
    _decoded: _Decoded
    _display: FrameDisplay
    _pixel_aspect: Fraction

    def to_rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the frame as a player shows it.

        Raises:
            VideoError: the result is too large, or the frame cannot be converted.
        """
        with ffmpeg_errors():
            return self._display.to_rgb(self._decoded.frame, self._pixel_aspect, self._decoded.alpha)


class OpenVideo:
    """The video of an open container.

    Attributes:
        rate: frames per second as the container states them, or None.
    """

    def __init__(self, container: "av.container.InputContainer"):
        self._container = container
        self._stream = _choose_stream(container)
        self._decoder = _Decoder(self._stream)
        # In AVI the fourth byte of raw pixels is unused.
        is_raw_avi = container.format.name == "avi" and self._stream.codec_context.name == "rawvideo"
        self._display = FrameDisplay(is_opaque=is_raw_avi)
        rate = self._stream.average_rate
        self.rate = Fraction(rate.numerator, rate.denominator) if rate else None

    def seek(self, time: float) -> bool:
        """Continue at a keyframe that should be shown no later than `time`, in seconds on the file's clock.

        Returns:
            True if the file supports this. Even then its index may point too far ahead.
        """
        import av

        position = math.floor(time / (self._stream.time_base or 1))
        if not -(1 << 62) < position < 1 << 62:
            return False
        try:
            self._container.seek(position, stream=self._stream)
        except av.FFmpegError:
            return False
        self._decoder.flush()
        return True

    def frames(self) -> Iterator[TimedFrame]:
        """Decode from the current position to the end, in presentation order.

        Frames before the first one with a time are skipped: Matroska cannot state times before 0.

        Raises:
            VideoError: the video is damaged, its times do not rise, or it exceeds the limits above.
        """
        last: TimedFrame | None = None
        num_pixels = 0
        for number, decoded in enumerate(self._decoded()):
            num_pixels += decoded.frame.width * decoded.frame.height
            if number >= MAX_FRAMES or num_pixels > MAX_DECODED_PIXELS:
                raise VideoError("it is too long")
            timed = self._timed(decoded, last)
            if timed is not None:
                last = timed
                yield timed

    def _decoded(self) -> Iterator[_Decoded]:
        with ffmpeg_errors():
            for packet in self._container.demux(self._stream):
                yield from self._decoder.decode(packet)

    def _timed(self, decoded: _Decoded, last: TimedFrame | None) -> TimedFrame | None:
        frame = decoded.frame
        base = frame.time_base or self._stream.time_base
        stamp = frame.dts if frame.pts is None else frame.pts  # AVI has times only in decoding order
        if not base or (stamp is None and last is None):
            return None
        duration = max(0, frame.duration) * base.numerator / base.denominator
        if stamp is not None:
            time = stamp * base.numerator / base.denominator
        else:
            assert last is not None
            time = last.time + last.duration
        if last is not None and time <= last.time:
            raise VideoError(f"the times of its frames do not rise at {time:g} s")
        if frame.is_corrupt:
            raise VideoError(f"the frame at {time:g} s is damaged")
        return TimedFrame(time, duration, decoded, self._display, self._pixel_aspect())

    def _pixel_aspect(self) -> Fraction:
        aspect = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
        return Fraction(aspect.numerator, aspect.denominator) if aspect else Fraction(1)


@contextmanager
def open_video(file: io.BufferedIOBase) -> Iterator[OpenVideo]:
    """Open an encoded video in a seekable file.

    Raises:
        VideoError: it is truncated, in a format that is not listed, without a video, or too large.
    """
    import av

    check_complete(file)
    # Metadata that are not UTF-8 are not damage; PyAV 19 and later replace them by default.
    lenient: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
    with ffmpeg_errors():
        try:
            container = av.open(file, "r", options=_LIMITS, container_options=_CONTAINER_OPTIONS, **lenient)
        except av.ArgumentError:  # raised for formats that are not in the list
            raise VideoError(f"its content is not one of {_CONTAINER_FORMATS}; its name does not matter") from None
    with container:
        yield OpenVideo(container)


@contextmanager
def ffmpeg_errors() -> Iterator[None]:
    """Raise PyAV's errors for a damaged video as a `VideoError`."""
    import av

    try:
        yield
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(" ".join(text.split())) from error


def _choose_stream(container: "av.container.InputContainer") -> "av.VideoStream":
    """Return the stream that players show: the default stream, or else the first one, without cover pictures."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    videos = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not videos:
        raise VideoError("it has a cover picture but no video" if container.streams.video else "it has no pictures")
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise VideoError("its codec is unknown")
    # A cover picture that is not marked as one is a video of one frame.
    stream = min(decodable, key=lambda stream: (_is_still(stream), not stream.disposition & Disposition.default))
    width, height = stream.codec_context.width, stream.codec_context.height
    if not 0 < width * height <= MAX_FRAME_PIXELS:
        size = f"{width} x {height}" if width * height else "an unknown number of"
        raise VideoError(f"its frames have {size} pixels; at most {MAX_FRAME_PIXELS:,} are read")
    return stream


def _is_still(stream: "av.VideoStream") -> bool:
    """Return whether the container states that a stream has one frame; Matroska may do so in a tag."""
    if stream.frames:
        return stream.frames == 1
    duration = _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", ""))
    if duration is None or not stream.average_rate:
        return False
    hours, minutes, seconds = map(float, duration.groups())
    return (3600 * hours + 60 * minutes + seconds) * stream.average_rate < _STILL_FRAMES


class _Decoder:
    """A decoder of a stream's packets, and of the alpha channel that WebM stores with them."""

    def __init__(self, stream: "av.VideoStream"):
        import av

        name = stream.codec_context.name
        self._stream = stream
        self._alpha: av.VideoCodecContext | None = None
        has_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
        if has_alpha and name in ("vp8", "vp9"):
            self._alpha = cast("av.VideoCodecContext", av.CodecContext.create(name, "r"))
        for context in filter(None, (stream.codec_context, self._alpha)):
            context.thread_count = 1  # videos are decoded in parallel, and PyAV loses errors of threads
            context.options = dict(_CODEC_OPTIONS)

    def decode(self, packet: "av.Packet[av.VideoStream]") -> list[_Decoded]:
        frames = self._stream.decode(packet)
        alphas = self._decode_alpha(packet)
        if not alphas:
            return [_Decoded(frame) for frame in frames]
        if len(alphas) != len(frames):
            raise VideoError("its alpha channel is damaged")
        return [_Decoded(frame, alpha) for frame, alpha in zip(frames, alphas, strict=True)]

    def _decode_alpha(self, packet: "av.Packet[av.VideoStream]") -> "list[av.VideoFrame]":
        import av

        if self._alpha is None or not packet.has_sidedata("matroska_block_additional"):
            return []
        block = bytes(packet.get_sidedata("matroska_block_additional"))
        if block[:8] != _ALPHA_BLOCK:
            return []
        return self._alpha.decode(av.Packet(block[8:]))

    def flush(self) -> None:
        """Drop buffered alpha frames; `InputContainer.seek` drops those of the stream itself."""
        if self._alpha is not None:
            self._alpha.flush_buffers()
