"""When the frames of a video are shown, and which of them an even clock shows."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

from show1_jax.media.containers import TimedFrame
from show1_jax.media.errors import VideoError

_EDGE_MARGIN: Final = 0.2
"""The share of a step by which the first and the last moment lie inside the video: times are rounded."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a whole video.

    Attributes:
        times: when each is shown, rising, in seconds on the file's clock.
        duration: seconds from then until the last one ends.
    """

    times: list[float]
    duration: float

    @classmethod
    def of(cls, frames: Iterable[TimedFrame]) -> "Timeline":
        """Go through all frames of a video, keeping none. One without a stated end lasts as long as the mean.

        Raises:
            VideoError: there are none, or they cannot be decoded.
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
        """When the first frame is shown."""
        return self.times[0]

    @property
    def fps(self) -> float:
        """Frames a second, on average; 0 where the only one has no duration."""
        return len(self.times) / self.duration if self.duration else 0.0

    def evenly_spaced(self) -> list[int]:
        """Return the indices of the frames that are on at evenly spaced moments, as many as there are frames.

        Where frames last equally long these are all frames, whatever the rounding of their times.
        """
        count = len(self.times)
        moments = self.start + np.linspace(_EDGE_MARGIN, count - _EDGE_MARGIN, count) * (self.duration / count)
        return [max(0, bisect_right(self.times, moment) - 1) for moment in moments.tolist()]

    def rate(self, stated: Fraction | None) -> Fraction | None:
        """Return the rate of the even clock: the stated one, unless it comes to another number of frames."""
        if stated is not None and abs(stated * Fraction(self.duration) - len(self.times)) < 0.5:
            return stated
        return Fraction(self.fps).limit_denominator(1001) or None
