"""The rule that chooses the frames of clips from a video, equal for every video of a set."""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.order import uniform
from show1_jax.errors import UserError
from show1_jax.evaluation.videos.sources import FrameSource
from show1_jax.media.errors import VideoError
from show1_jax.media.frames import square_uint8
from show1_jax.media.timeline import Timeline

Position = Literal["first", "center", "random"]
POSITIONS: Final[tuple[Position, ...]] = ("first", "center", "random")
MAX_CLIP_BYTES: Final = 1 << 30
_MARGIN: Final = 0.002
"""Seconds after a moment at which a frame is looked up: the times of Matroska are rounded to milliseconds."""


@dataclass(frozen=True)
class ClipRule:
    """A choice of frames.

    Attributes:
        num_frames: frames of a clip; None: the whole video is one clip.
        stride: a clip has every `stride`-th frame; not together with `fps`.
        fps: frames a second to which a video is resampled by the times of its frames; None keeps its frames.
        position: clips begin with the first frame, or lie in the centre, or at random times.
        per_video: number of clips of a video; they may overlap.
        seed: seed of random positions.
        square: height and width to which frames are resized after a crop of their centre; None keeps them.
        least: fewest frames of a whole video.
    """

    num_frames: int | None
    stride: int = 1
    fps: float | None = None
    position: Position = "first"
    per_video: int = 1
    seed: int = 0
    square: int | None = None
    least: int = 1

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride != 1:
            raise UserError("--fps and --stride exclude each other: one is in seconds, the other in frames; give one")
        if self.per_video > 1 and (self.num_frames is None or self.position == "first"):
            raise UserError("--clips_per_video above 1 needs --clip center or random, and no --whole")

    @property
    def span(self) -> int:
        """Number of consecutive frames that a clip extends over; 1 for whole videos."""
        return 1 if self.num_frames is None else (self.num_frames - 1) * self.stride + 1

    def settings(self) -> dict[str, Any]:
        """Return the settings that have an effect, for reports and for the names of saved features."""
        values = asdict(self)
        del values["least"]
        if self.position != "random":
            del values["seed"]
        if self.num_frames is None:
            values = {"num_frames": "whole videos", "stride": self.stride, "fps": self.fps, "square": self.square}
        return values

    def describe(self) -> str:
        """Return the rule in a few words."""
        length = "whole videos" if self.num_frames is None else f"{self.num_frames} frames"
        step = f"stride {self.stride}" if self.fps is None else f"{self.fps:g} frames a second"
        if self.square is not None:
            step = f"{step}, centre cropped to a square of {self.square} x {self.square}"
        if self.num_frames is None:
            return f"{length}, {step}"
        several = "" if self.per_video == 1 else f"{self.per_video} "
        return f"{length}, {step}, {several}{self.position} clip{'s' if several else ''}"

    def choose(self, count: int, name: str) -> list[range]:
        """Return the numbers of the frames of each clip.

        Args:
            count: number of frames of the video, after it was resampled.
            name: name of the video, which random positions depend on.

        Raises:
            VideoError: the video is shorter than a clip.
        """
        room = count - self.span
        if room < 0:
            raise VideoError(f"it has {count} frames{self._resampled()}, and a clip needs {self.span}")
        if self.num_frames is None:
            whole = range(0, count, self.stride)
            if len(whole) < self.least:
                raise VideoError(f"it has {len(whole)} frames{self._resampled()}, and {self.least} are needed")
            return [whole]
        numbers = range(self.per_video)
        if self.position == "first":
            starts = [0]
        elif self.position == "center":
            starts = [room * (2 * number + 1) // (2 * self.per_video) for number in numbers]
        else:
            key = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:7])
            draws = (uniform("clip", self.seed, key, number) for number in numbers)
            starts = sorted(int(draw * (room + 1)) for draw in draws)
        return [range(start, start + self.span, self.stride) for start in starts]

    def _resampled(self) -> str:
        return "" if self.fps is None else f" at {self.fps:g} frames a second"


def resample(timeline: Timeline, fps: float) -> list[int]:
    """Return the numbers of the frames that are shown at times 0, 1 / fps, 2 / fps ... after the first frame."""
    count = max(1, math.ceil(timeline.duration * fps - fps * _MARGIN))
    moments = timeline.start + _MARGIN + np.arange(count) / fps
    return [max(0, bisect_right(timeline.times, moment) - 1) for moment in moments.tolist()]


def read_clips(source: FrameSource, rule: ClipRule, name: str) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """Return the clips of a video.

    Args:
        source: its frames.
        rule: choice of the clips.
        name: its name, for random positions.

    Raises:
        VideoError: the video cannot be read, is too short or too large, or its frames have different sizes.
        OSError: a file cannot be read.
    """
    if rule.position == "first" and rule.num_frames is not None and rule.fps is None:
        clips: list[Sequence[int]] = [*rule.choose(rule.span, name)]  # later frames need not be decoded
    else:
        timeline = source.timeline()
        if rule.fps is not None and not source.has_times():
            raise VideoError("its frames have no times, so --fps cannot resample it; use --stride")
        shown = range(len(timeline.times)) if rule.fps is None else resample(timeline, rule.fps)
        clips = [[shown[index] for index in chosen] for chosen in rule.choose(len(shown), name)]
    needed = sorted({index for chosen in clips for index in chosen})
    frames: dict[int, np.ndarray] = {}
    for index, frame in zip(needed, source.frames(needed), strict=True):
        first = next(iter(frames.values()), frame)
        if frame.shape != first.shape:
            raise VideoError(f"its frames have different sizes, {_size(first)} and {_size(frame)}")
        if frame.nbytes * max(len(needed), *map(len, clips)) > MAX_CLIP_BYTES:
            raise VideoError(f"{len(needed)} frames of {_size(frame)} are too large to read; use a --stride")
        frames[index] = frame
    if rule.square is not None:
        frames = {index: square_uint8(frame[None], rule.square)[0] for index, frame in frames.items()}
    return [np.stack([frames[index] for index in chosen]) for chosen in clips]


def _size(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"
