"""Clips of the user's own files, videos and pictures, read as they are: a few of them, to customise a network."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from show1_jax.cli import decode_argument
from show1_jax.data.building.captions import read_caption
from show1_jax.data.names import MAX_CAPTION, one_line
from show1_jax.data.spec import ClipDraw, ClipSpec
from show1_jax.errors import UserError, shown_name
from show1_jax.media.containers import CONTAINER_SUFFIXES
from show1_jax.media.frames import fit_frame
from show1_jax.media.images import IMAGE_SUFFIXES, natural_order
from show1_jax.media.read import local_media, read_frames, read_picture

MAX_BYTES: Final = 1 << 30
"""Limit for the frames of all files, which are kept in memory."""
_VIDEO_SUFFIXES: Final = (*CONTAINER_SUFFIXES, ".npy")
_SUFFIXES: Final = (*_VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
_CAPTION_SUFFIX: Final = ".txt"
_MAX_OVERSAMPLING: Final = 4
"""Maximum pixels of a moving picture for each pixel of the clip, along an axis."""

_Frames = UInt8[np.ndarray, "t h w 3"]
_Picture = UInt8[np.ndarray, "_ _ 3"]


class PictureMoves(NamedTuple):
    """Random moves of a picture, as if a camera filmed it; see `DataConfig`.

    Attributes:
        pan: largest distance that a picture moves during a clip, as a share of the frame's height.
        zoom: largest share by which it grows or shrinks during a clip.
        jitter: largest distance of a whole clip from the picture's own place, as a share of the frame's height, along
            each axis; and largest share by which the whole clip is larger or smaller.
    """

    pan: float = 0.0
    zoom: float = 0.0
    jitter: float = 0.0


_STILL: Final = PictureMoves()


@dataclass(frozen=True)
class ClipFiles:
    """Frames of the user's files at the size and the rate of a stage, all in memory.

    A video is stretched or compressed to the length of the videos that the cascade makes: its frames are evenly spaced
    from its first to its last frame, as `sample.py --video` reads them. A picture is a video of equal frames. Files are
    in natural order.

    Attributes:
        names: names of the files.
        captions: one caption for each file.
        videos: frames of each file.
        sha256: hash of all captions and frames that were read.
        moves: random moves of the pictures.
        pictures: pictures that move, uncropped; None for a video, and for all files without moves.
    """

    names: tuple[str, ...]
    captions: tuple[str, ...]
    videos: tuple[_Frames, ...]
    sha256: str
    moves: PictureMoves = _STILL
    pictures: tuple[_Picture | None, ...] = ()

    @classmethod
    def open(
        cls, path: Path, caption: str, spec: ClipSpec, seconds: float, moves: PictureMoves = _STILL
    ) -> "ClipFiles":
        """Read all files.

        Args:
            path: a video, a picture, or a folder of them; its subfolders and hidden files are ignored. It may be in a
                bucket; then one file at a time is copied here.
            caption: caption of all files; empty: the caption of `name.mp4` is in `name.txt` beside it.
            spec: frames, rate and size of the clips that are taken.
            seconds: seconds from the first frame to the last of the videos that the cascade makes.
            moves: random moves of the pictures.

        Raises:
            UserError: a file is missing, cannot be read, is too short or of another kind; a caption is missing, empty,
                too long or not text; or all files together are too large.
        """
        files = list(_list_files(path))
        count = max(round(seconds * spec.fps) + 1, spec.num_frames)
        kept = count + (_MAX_OVERSAMPLING**2 if any(moves) else 0)
        if len(files) * kept * spec.height * spec.width * 3 > MAX_BYTES:
            raise UserError(
                f"{path} has {len(files)} files, too many to keep in memory at {spec.width}x{spec.height}; give fewer, "
                "or build a dataset with `python -m show1_jax.data build`"
            )
        captions = tuple(_check_caption(caption) if caption else _caption_beside(file) for file in files)
        videos = tuple(_read(file, spec, count) for file in files)
        pictures = tuple(_read_whole(file, spec) if any(moves) and _is_picture(file.name) else None for file in files)
        digest = hashlib.sha256("\n".join(captions).encode())
        for video in videos:
            digest.update(video.tobytes())
        return cls(tuple(file.name for file in files), captions, videos, digest.hexdigest(), moves, pictures)

    def part(self, positions: slice) -> "ClipFiles":
        """Return the source of some of these files."""
        return replace(
            self,
            names=self.names[positions],
            captions=self.captions[positions],
            videos=self.videos[positions],
            pictures=self.pictures[positions],
        )

    def __len__(self) -> int:
        return len(self.videos)

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[_Frames, str]:
        """Return successive frames of a file, uint8 RGB, and its caption; the crop is the centre.

        If pictures move, the start that is drawn is the share of the largest distance that a picture moves, the crop is
        the direction, and both together draw all other moves.
        """
        video = self.videos[position]
        if any(self.moves) and (picture := self.pictures[position]) is not None:
            return _filmed(picture, spec, self.moves, draw), self.captions[position]
        start = int(draw.start * (len(video) - spec.num_frames + 1))
        return video[start : start + spec.num_frames], self.captions[position]

    def name(self, position: int) -> str:
        """Return the name of a file."""
        return self.names[position]


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _list_files(path: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder in natural order.

    Raises:
        UserError: there is no such file or folder, it has no videos and pictures, or has files of other kinds.
    """
    remedy = f"give videos ({' '.join(_VIDEO_SUFFIXES)}) or pictures ({' '.join(IMAGE_SUFFIXES)})"
    shown_path = shown_name(str(path))
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"there is no {shown_path}; give a video, a picture or a folder of them as train.data.path")
        if path.suffix.lower() not in _SUFFIXES:
            raise UserError(f"{shown_path} is neither a video nor a picture that can be read; {remedy}")
        yield path
        return
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".") and not entry.is_dir()]
    except OSError as error:
        raise UserError(f"cannot read {shown_path} ({error.strerror}); {remedy}") from None
    files = [entry for entry in entries if entry.suffix.lower() in _SUFFIXES]
    stems = {file.stem for file in files}
    for entry in entries:
        if entry.suffix.lower() == _CAPTION_SUFFIX:
            if entry.stem not in stems:
                raise UserError(
                    f"{shown_path} has {shown_name(entry.name)} without a clip of its name; rename or remove it"
                )
        elif entry.suffix.lower() not in _SUFFIXES:
            raise UserError(f"{shown_path} has {shown_name(entry.name)}, which cannot be read; remove it, or {remedy}")
    if not files:
        raise UserError(f"{shown_path} has no files to train on; {remedy}")
    yield from sorted(files, key=lambda file: natural_order(file.name))


def _caption_beside(file: Path) -> str:
    text = file.with_suffix(_CAPTION_SUFFIX)
    if not text.exists():
        raise UserError(f"{file} has no caption; give one for all files as train.data.caption, or write {text.name}")
    caption, problem = read_caption(text)
    if problem:
        raise UserError(f"{text}: {problem}; write the caption as one line of UTF-8")
    return caption


def _check_caption(text: str) -> str:
    caption = one_line(decode_argument(text))
    if not caption:
        raise UserError("train.data.caption is white space; describe the clips")
    if len(caption) > MAX_CAPTION:
        raise UserError(f"train.data.caption has {len(caption):,} characters, more than {MAX_CAPTION:,}; shorten it")
    if any("\ud800" <= character <= "\udfff" for character in caption):
        raise UserError("train.data.caption is not valid Unicode; write it in UTF-8")
    return caption


def _read(file: Path, spec: ClipSpec, count: int) -> _Frames:
    size = spec.height, spec.width
    if file.suffix.lower() in _VIDEO_SUFFIXES:
        with local_media(file) as local:
            video, _ = read_frames(local, size, count)
        return _levels(video)
    picture = _levels(read_picture(file, size))
    return np.broadcast_to(picture, (count, *picture.shape))


def _read_whole(file: Path, spec: ClipSpec) -> _Picture:
    """Return a picture uncropped, with 1 to `_MAX_OVERSAMPLING` of its pixels for each pixel of the clip."""
    picture = read_picture(file)
    height, width, _ = picture.shape
    oversampling = min(height / spec.height, width / spec.width)
    factor = min(max(oversampling, 1.0), _MAX_OVERSAMPLING) / oversampling
    return _levels(fit_frame(picture, round(height * factor), round(width * factor)))


def _filmed(picture: _Picture, spec: ClipSpec, moves: PictureMoves, draw: ClipDraw) -> _Frames:
    """Return a clip of a picture that moves; halfway it has moved by the jitter alone, and so has a single frame.

    Args:
        picture: the picture, uncropped.
        spec: the clip.
        moves: largest moves.
        draw: the draw of the clip.
    """
    seeds = np.array(draw).view(np.uint64)
    growth, *offset, enlargement = np.random.default_rng(seeds).uniform(-1, 1, 4)
    progress = np.linspace(-0.5, 0.5, spec.num_frames) if spec.num_frames > 1 else np.zeros(1)
    angle = 2 * math.pi * draw.crop
    pan = draw.start * moves.pan * np.array([math.sin(angle), math.cos(angle)])
    shifts = spec.height * (progress[:, None] * pan + moves.jitter * np.array(offset))
    sizes = (1 + moves.jitter) ** enlargement * (1 + moves.zoom) ** (growth * progress)
    height, width, _ = picture.shape
    oversampling = min(height / spec.height, width / spec.width)
    frames = np.empty((spec.num_frames, spec.height, spec.width, 3), np.uint8)
    for frame, (down, right), size in zip(frames, shifts, sizes, strict=True):
        rows = _pixel_shares(height, spec.height, down, oversampling / size)
        columns = _pixel_shares(width, spec.width, right, oversampling / size)
        frame[:] = np.rint(np.einsum("ih,hwc,jw->ijc", rows, picture, columns, optimize=True))
    return frames


def _pixel_shares(length: int, count: int, shift: float, pitch: float) -> Float[np.ndarray, "{count} {length}"]:
    """Return the share that each pixel of a picture has in each pixel of a frame, along one axis.

    Args:
        length: number of the picture's pixels; those at its ends are repeated without end.
        count: number of the frame's pixels.
        shift: distance of the picture's middle from the frame's, in pixels of the frame.
        pitch: pixels of the picture for each pixel of the frame.
    """
    edges = length / 2 + (np.arange(count + 1) - count / 2 - shift) * pitch
    starts, ends = np.arange(length, dtype=float), np.arange(1.0, length + 1)
    starts[0], ends[-1] = -np.inf, np.inf
    overlap = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return overlap.clip(0) / pitch


def _levels(values: np.ndarray) -> np.ndarray:
    """Return values in [-1, 1] as the nearest of 256 levels, so that those of uint8 frames come back unchanged."""
    levels: np.ndarray = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    return levels
