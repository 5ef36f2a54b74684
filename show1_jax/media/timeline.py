"""The times of a video's frames, and the frames to use for evenly spaced times."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from show1_jax.media.containers import TimedFrame
from show1_jax.media.errors import VideoError

_EDGE_MARGIN: Final = 0.2
"""Fraction of a step by which the first and the last moment lie inside the video, since times are rounded."""


@dataclass(frozen=True)
class Timeline:
    """The times of all frames of a video.

    Attributes:
        times: the increasing presentation times of the frames, in seconds on the file's clock.
        duration: seconds from the first time to the end of the last frame.
    """

    times: list[float]
    duration: float

    @classmethod
    def from_frames(cls, frames: Iterable[TimedFrame]) -> "Timeline":
        """Collect the times of a video's frames, without keeping the frames.

        If the last frame has no duration, the mean of the others is used.

        Raises:
            VideoError: there are no frames, or they cannot be decoded.
        """
        times: list[float] = []
        last = 0.0
        for frame in frames:
            times.append(frame.time)
            last = frame.duration
        if not times:
            raise VideoError("it has no frames, or none with a time")
        spanned = times[-1] - times[0]
        return cls(times, spanned + (last or spanned / max(1, len(times) - 1)))

    @property
    def start(self) -> float:
        """Presentation time of the first frame in seconds."""
        return self.times[0]

    @property
    def fps(self) -> float:
        """Mean number of frames per second; 0 if the only frame has no duration."""
        return len(self.times) / self.duration if self.duration else 0.0

    def evenly_spaced(self) -> list[int]:
        """Return the indices of the frames that are shown at evenly spaced moments, one moment for each frame.

        If all frames have the same duration, these are all frames, independently of the rounding of their times.
        """
        count = len(self.times)
        moments = self.start + np.linspace(_EDGE_MARGIN, count - _EDGE_MARGIN, count) * (self.duration / count)
        return [max(0, bisect_right(self.times, moment) - 1) for moment in moments.tolist()]

    def rate(self, stated: Fraction | None) -> Fraction | None:
        """Return the frame rate of evenly spaced frames: the stated one, unless it gives another number of frames."""
        if stated is not None and abs(stated * Fraction(self.duration) - len(self.times)) < 0.5:
            return stated
        return Fraction(self.fps).limit_denominator(1001) or None
