"""The frames of one video, by number, in any of the forms in which it may be stored."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.files import open_regular
from show1_jax.media.arrays import frame_values, mapped_array
from show1_jax.media.containers import OpenVideo, open_video
from show1_jax.media.errors import VideoError
from show1_jax.media.frames import to_uint8
from show1_jax.media.images import list_images, read_image
from show1_jax.media.stage_files import load_stage
from show1_jax.media.timeline import Timeline

Frame = UInt8[np.ndarray, "h w 3"]


@runtime_checkable
class FrameSource(Protocol):
    """A stored video. Its methods raise `VideoError` or `OSError` if it cannot be read."""

    def rate(self) -> Fraction | None:
        """Return the frames a second that the file states, or None; little is read."""

    def timeline(self) -> Timeline:
        """Return the times of all frames; without times, a frame lasts a second."""

    def has_times(self) -> bool:
        """Return whether the times of the frames are known."""

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames of these increasing numbers, which may repeat.

        Raises:
            VideoError: the video has fewer frames.
        """


@dataclass(frozen=True)
class EncodedFrames:
    """A video that FFmpeg decodes.

    Attributes:
        open: opens its bytes.
    """

    open: Callable[[], AbstractContextManager[io.BufferedIOBase]]

    @contextlib.contextmanager
    def _video(self) -> Iterator[OpenVideo]:
        with self.open() as file, open_video(file) as video:
            yield video

    def rate(self) -> Fraction | None:
        """See `FrameSource`."""
        with self._video() as video:
            return video.rate

    def timeline(self) -> Timeline:
        """See `FrameSource`."""
        with self._video() as video:
            return Timeline.from_frames(video.frames())

    def has_times(self) -> bool:
        """See `FrameSource`."""
        return True

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """See `FrameSource`; frames after the last chosen one are not decoded."""
        with self._video() as video:
            yield from _pick(video.frames(), chosen, lambda frame: frame.to_rgb())


@dataclass(frozen=True)
class ImageFrames:
    """A folder of images, in natural order."""

    folder: Path

    def rate(self) -> Fraction | None:
        """See `FrameSource`."""
        return None

    def timeline(self) -> Timeline:
        """See `FrameSource`."""
        return _even_times(len(list_images(self.folder)))

    def has_times(self) -> bool:
        """See `FrameSource`."""
        return False

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """See `FrameSource`."""
        images = list_images(self.folder)
        _check_last(chosen, len(images))
        for index in chosen:
            try:
                yield read_image(images[index])
            except VideoError as error:
                raise VideoError(f"{images[index].name}: {error}") from None


@dataclass(frozen=True)
class ArrayFrames:
    """A `.npy` of uint8, or of floats in [-1, 1]."""

    path: Path

    def rate(self) -> Fraction | None:
        """See `FrameSource`."""
        return None

    def timeline(self) -> Timeline:
        """See `FrameSource`."""
        with mapped_array(self.path) as array:
            return _even_times(len(array))

    def has_times(self) -> bool:
        """See `FrameSource`."""
        return False

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """See `FrameSource`."""
        with mapped_array(self.path) as array:
            _check_last(chosen, len(array))
            for index in chosen:
                values = frame_values(array, index)
                yield values if values.dtype == np.uint8 else to_uint8(values.astype(np.float32))


@dataclass(frozen=True)
class StageFrames:
    """The exact result of a stage of the cascade, as uint8.

    Attributes:
        path: its stage file.
        viewable: the same as mp4 or GIF, which states the frame rate; None if there is none.
    """

    path: Path
    viewable: Path | None = None

    def rate(self) -> Fraction | None:
        """See `FrameSource`."""
        viewable = self.viewable
        return None if viewable is None else EncodedFrames(lambda: open_regular(viewable)).rate()

    def timeline(self) -> Timeline:
        """See `FrameSource`."""
        return _even_times(len(self._values()), self.rate())

    def has_times(self) -> bool:
        """See `FrameSource`."""
        return self.viewable is not None

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """See `FrameSource`."""
        values = self._values()
        _check_last(chosen, len(values))
        for index in chosen:
            yield to_uint8(values[index])

    def _values(self) -> np.ndarray:
        try:
            values = load_stage(self.path)
        except UserError as error:
            raise VideoError(str(error)) from None
        if values.shape[-1] != 3 or np.isnan(values).any():
            raise VideoError("it is no stage of RGB frames without NaN values")
        return values


@dataclass(frozen=True)
class RecordFrames:
    """A video of a dataset of `python -m show1_jax.data build`."""

    dataset: VideoSource
    position: int

    def _encoded(self) -> EncodedFrames:
        data = self.dataset.encoded(self.position).video
        return EncodedFrames(lambda: contextlib.nullcontext(io.BytesIO(data)))

    def caption(self) -> str:
        """Return the caption of the record.

        Raises:
            VideoError: the record is damaged.
        """
        return self.dataset.encoded(self.position).caption

    def rate(self) -> Fraction | None:
        """See `FrameSource`."""
        return Fraction(self.dataset.encoded(self.position).fps).limit_denominator(1001) or None

    def timeline(self) -> Timeline:
        """See `FrameSource`."""
        return self._encoded().timeline()

    def has_times(self) -> bool:
        """See `FrameSource`."""
        return True

    def frames(self, chosen: Sequence[int]) -> Iterator[Frame]:
        """See `FrameSource`."""
        return self._encoded().frames(chosen)


def _pick(items: Iterable[object], chosen: Sequence[int], convert: Callable[..., Frame]) -> Iterator[Frame]:
    position, number = 0, -1
    for number, item in enumerate(items):
        if number == chosen[position]:
            frame = convert(item)
            while position < len(chosen) and chosen[position] == number:
                yield frame
                position += 1
        if position == len(chosen):
            return
    _check_last(chosen, number + 1)


def _check_last(chosen: Sequence[int], count: int) -> None:
    if chosen[-1] >= count:
        raise VideoError(f"it has {count} frames, and {chosen[-1] + 1} are needed")


def _even_times(count: int, rate: Fraction | None = None) -> Timeline:
    if not count:
        raise VideoError("it has no frames")
    step = float(1 / rate) if rate else 1.0
    return Timeline([index * step for index in range(count)], count * step)
