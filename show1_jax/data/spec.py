"""The clips that a stage is trained on, how each is taken from its video, and the sources that have them by number."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class ClipSpec:
    """The clips of a stage: so many frames at `fps`, `height` x `width` pixels."""

    num_frames: int
    fps: float
    height: int
    width: int

    @property
    def seconds(self) -> float:
        """Seconds from the first frame to the last: a video must last as long."""
        return (self.num_frames - 1) / self.fps


class ClipDraw(NamedTuple):
    """How a clip is taken from a video, as shares from 0 to 1: of the possible starts, and of the crop's positions."""

    start: float
    crop: float


@runtime_checkable
class ClipSource(Protocol):
    """Videos by number. Workers get a pickled copy."""

    def __len__(self) -> int: ...

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
        """Return a clip and its caption.

        Raises:
            VideoError: the video cannot be read.
        """
        ...

    def name(self, position: int) -> str:
        """Return the name of a video, for messages."""
        ...
