"""Reads of the user's own video from any kind of file or folder: its frames, evenly spaced in time, in [-1, 1]."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice, repeat, takewhile
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from show1_jax.errors import UserError
from show1_jax.files import local_files, open_regular, storage_path
from show1_jax.media.arrays import frame_values, mapped_array
from show1_jax.media.containers import CONTAINER_SUFFIXES, TimedFrame, open_video
from show1_jax.media.errors import VideoError
from show1_jax.media.frames import even_indices, fit_frame
from show1_jax.media.images import IMAGE_SUFFIXES, list_images, read_image
from show1_jax.media.stage_files import load_stage
from show1_jax.media.timeline import Timeline
from show1_jax.progress import track

MAX_READ_BYTES: Final = 1 << 30
"""Limit for all frames that are kept in memory."""
_PROGRESS_DELAY: Final = 2
"""Seconds before a progress bar appears."""

ChooseFrames = Callable[[int], Sequence[int]]
"""Function from a number of frames to the increasing indices of those that are used; indices may repeat."""
FrameSize = tuple[int, int] | None
"""(height, width), or None to keep the size."""


def read_frames(
    path: Path, size: FrameSize = None, num_frames: int | None = None
) -> tuple[Float32[np.ndarray, "t h w 3"], Fraction | None]:
    """Return a video in [-1, 1], and its frame rate if the source states one.

    Args:
        path: a video file (see `CONTAINER_SUFFIXES`), a folder of images in natural order, or a `.npy` of uint8 or of
            floats in [-1, 1] shaped `(t, h, w, 3)`. A video with frames of different durations is resampled at even
            times to the same number of frames.
        size: (height, width) to which each frame is fitted as it is read, see `fit_frame`; None keeps the size.
        num_frames: the number of frames to read, evenly spaced from the first to the last; None reads all.

    Raises:
        UserError: it is missing, cannot be decoded, is empty, too short, too large, or of another shape or range.
    """

    def choose(count: int) -> Sequence[int]:
        return range(count) if num_frames is None else even_indices(count, num_frames)

    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _read_folder(path, size, choose), None
        if suffix == ".npy":
            return _read_array(path, size, choose), None
        if suffix in CONTAINER_SUFFIXES:
            return _read_container(path, size, choose)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}): give an existing file or folder") from error
    raise UserError(f"cannot read {path}: give one of {' '.join(CONTAINER_SUFFIXES)} .npy .safetensors, or a folder")


def _read_folder(folder: Path, size: FrameSize, choose: ChooseFrames) -> np.ndarray:
    try:
        images = list_images(folder)
    except VideoError as error:
        raise UserError(f"cannot read the frames of {folder} ({error}): convert or remove it") from error
    if not images:
        raise UserError(f"{folder} has no frames: give a folder that has some, {' '.join(IMAGE_SUFFIXES)}")
    chosen = [images[index] for index in choose(len(images))]
    return gather_frames((_read_frame(image) for image in chosen), len(chosen), size, folder)


def _read_frame(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except VideoError as error:
        raise UserError(f"cannot read the image {path} ({error}): replace or remove it") from error


def _read_array(path: Path, size: FrameSize, choose: ChooseFrames) -> np.ndarray:
    try:
        with mapped_array(path) as array:
            chosen = choose(len(array))
            return gather_frames((frame_values(array, index) for index in chosen), len(chosen), size, path)
    except VideoError as error:
        raise UserError(f"cannot read {path} ({error}): save it again with numpy.save") from error


def _read_container(path: Path, size: FrameSize, choose: ChooseFrames) -> tuple[np.ndarray, Fraction | None]:
    """Decode the video twice: first for the times of its frames, then to convert the frames that are used."""
    try:
        with open_regular(path) as file:
            with open_video(file) as video:
                timeline = Timeline.from_frames(_with_progress(video.frames(), path, None))
                rate = timeline.rate(video.rate)
            even = timeline.evenly_spaced()
            chosen = [even[index] for index in choose(len(even))]
            with open_video(file) as video:
                frames = _with_progress(video.frames(), path, len(even))
                return gather_frames(_converted(frames, chosen), len(chosen), size, path), rate
    except VideoError as error:
        raise UserError(f"cannot decode {path} ({error}): convert it, or give another video") from error


def _with_progress(frames: Iterable[TimedFrame], path: Path, total: int | None) -> Iterator[TimedFrame]:
    return track(frames, f"decoding {path.name}", total, leave=False, unit=" frames", delay=_PROGRESS_DELAY)


def _converted(frames: Iterable[TimedFrame], chosen: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the chosen frames as RGB; a frame whose index repeats is repeated."""
    position = 0
    for number, frame in enumerate(frames):
        times = sum(1 for _ in takewhile(number.__eq__, islice(chosen, position, None)))
        if times:
            yield from repeat(frame.to_rgb(), times)
            position += times
        if position == len(chosen):
            return
    raise VideoError("it changed while it was read")


def gather_frames(
    frames: Iterable[np.ndarray], count: int, size: FrameSize, path: Path
) -> Float32[np.ndarray, "t h w 3"]:
    """Return frames that arrive one at a time as one array in [-1, 1].

    Args:
        frames: uint8, or floats in [-1, 1]; all of one size unless they are fitted.
        count: the number of frames.
        size: (height, width) to which they are fitted; None keeps their size.
        path: their source, for messages.

    Raises:
        UserError: they are not RGB frames, have different sizes, or need more than `MAX_READ_BYTES`.
    """
    gathered: np.ndarray | None = None
    for index, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[-1] != 3 or not frame.size:
            raise UserError(f"{path} has frames of shape {frame.shape}: give (height, width, 3)")
        height, width = size or frame.shape[:2]
        if gathered is None:
            if count * height * width * 3 * 4 > MAX_READ_BYTES:
                raise UserError(f"{path} is too long or too large to read: cut it or make it smaller")
            gathered = np.empty((count, height, width, 3), np.float32)
        if gathered.shape[1:3] != (height, width):
            raise UserError(f"{path} has frames of different sizes: make them equal")
        gathered[index] = fit_frame(frame, height, width)
    if gathered is None:
        raise UserError(f"{path} has no frames: give a video that has some")
    return gathered


def read_picture(path: str | Path, size: FrameSize = None) -> Float32[np.ndarray, "h w 3"]:
    """Return the user's own picture in [-1, 1], as a viewer shows it: upright and opaque.

    Args:
        path: an image, see `IMAGE_SUFFIXES`; its suffix may be another one. It may be in a bucket.
        size: (height, width) to which it is fitted (see `fit_frame`); None keeps the size.

    Raises:
        UserError: it is missing, damaged, in another format, too large, or has several frames.

    Example:
        >>> from show1_jax import read_picture
        >>> read_picture("docs/customise/loop.png", size=(40, 64)).shape
        (40, 64, 3)
    """
    with local_media(path) as local:
        if not os.path.exists(local):  # Path.exists raises for names that no file can have
            raise UserError(f"there is no {local}: give an image")
        frame = _read_frame(local)
    return fit_frame(frame, *(size or frame.shape[:2]))


def read_video(
    path: str | Path, size: tuple[int, int] | None = None, num_frames: int | None = None
) -> tuple[Float32[np.ndarray, "t h w 3"], Fraction | None]:
    """Return the user's own video in [-1, 1], and its frame rate if the source states one.

    Args:
        path: a source that `show1_jax.media.read.read_frames` supports, or a stage file, whose values are returned
            unchanged. It may be in a bucket.
        size: (height, width) to which each frame is fitted (see `fit`) as it is read; None keeps the size.
        num_frames: the number of frames to read, evenly spaced in time; None reads all, at even times.

    Raises:
        UserError: it is missing, cannot be decoded, is empty, too short, too large, or of another shape or range.

    Example:
        >>> from show1_jax import read_video
        >>> video, fps = read_video("docs/customise/loop.mp4", size=(40, 64), num_frames=8)
        >>> video.shape, fps
        ((8, 40, 64, 3), Fraction(8, 1))
    """
    with local_media(path) as local:
        return _read_local(local, size, num_frames)


@contextmanager
def local_media(path: str | Path) -> Iterator[Path]:
    """Yield a local path with the content of a file or folder of the user: itself, or a temporary copy of a bucket's.

    Errors of the block name the path in the bucket.

    Raises:
        UserError: a URL is not valid.
    """
    stored = storage_path(path) if "://" in str(path) else Path(path)
    with local_files(stored) as local:
        try:
            yield local
        except UserError as error:
            raise UserError(str(error).replace(str(local), str(stored))) from error


def _read_local(
    path: Path, size: FrameSize, num_frames: int | None
) -> tuple[Float32[np.ndarray, "t h w 3"], Fraction | None]:
    if not os.path.exists(path):  # Path.exists raises for names that no file can have
        raise UserError(f"there is no {path}: give a video, a folder of frames, a .npy or a stage file")
    if path.suffix.lower() != ".safetensors" or path.is_dir():
        return read_frames(path, size, num_frames)
    video = load_stage(path)
    chosen = range(len(video)) if num_frames is None else even_indices(len(video), num_frames)
    return gather_frames((video[index] for index in chosen), len(chosen), size, path), None
