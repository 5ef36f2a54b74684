"""Types of training clips: their size, the random draw that selects one from its video, and the sources of clips."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class ClipSpec:
    """The size of a stage's clips: `num_frames` frames at `fps` frames a second, `height` x `width` pixels."""

    num_frames: int
    fps: float
    height: int
    width: int

    @property
    def seconds(self) -> float:
        """Seconds from the first frame to the last; a video must last at least as long."""
        return (self.num_frames - 1) / self.fps


class ClipDraw(NamedTuple):
    """The start and the crop position of a clip, each as a share from 0 to 1 of the possible values."""

    start: float
    crop: float


@runtime_checkable
class ClipSource(Protocol):
    """Videos that are numbered from 0. Worker processes get a pickled copy."""

    def __len__(self) -> int: ...

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
        """Return a clip, uint8 RGB, and its caption.

        Raises:
            VideoError: the video cannot be read.
        """
        ...

    def name(self, position: int) -> str:
        """Return the name of a video for messages."""
        ...
