"""Correlation of the path of a video's one thing with an intended path, for motions that the grammar lacks."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from show1_jax.evaluation.demo_world.measure import Measurement

MIN_CORRELATION: Final = 0.9
"""Correlation from which on a path follows another one."""
_STILL: Final = 0.1
"""An axis along which the intended path moves by less than this share of its longer extent is not compared alone."""

_Path = Float[np.ndarray, "time 2"]


def path_correlation(path: _Path, intended: _Path) -> float:
    """Return how well a path follows an intended one, from -1 to 1; neither position nor size of the path matters.

    It is the smallest of these correlations (Pearson): of both axes together, each less its own mean; of x alone; and
    of y alone. An axis alone counts only if the intended path moves along it. So a straight line does not follow a
    zigzag because of the longer axis alone, and a path that leaves a vertical line is worse than one that does not. The
    correlation with a path that does not move is 0.

    Args:
        path: x and y of a thing's centre in every frame.
        intended: x and y of the intended path at the same times; the units may be others.

    Raises:
        ValueError: the intended path does not move.
    """
    extent = np.ptp(intended, axis=0)
    if not extent.max() > 0:
        raise ValueError("the intended path does not move")
    moving = [[axis] for axis in (0, 1) if extent[axis] >= _STILL * extent.max()]
    return min(_correlation(path[:, axes], intended[:, axes]) for axes in ([0, 1], *moving))


@dataclass(frozen=True)
class MotionVerdict:
    """The correct attributes of a video of one thing that should follow a path."""

    count: bool
    """True if there is one thing, and it is present in every frame."""
    color: bool
    shape: bool
    correlation: float
    """See `path_correlation`; 0 without exactly one thing."""

    @property
    def follows(self) -> bool:
        """True if the thing follows the path."""
        return self.correlation >= MIN_CORRELATION

    @property
    def appearance(self) -> bool:
        """True if number, colour and shape are correct."""
        return self.count and self.color and self.shape


def judge_motion(measured: Measurement, color: str, shape: str, intended: _Path) -> MotionVerdict:
    """Compare a measurement with the thing of the prompt and with the intended path.

    Args:
        measured: measurement of the video.
        color: colour in the prompt.
        shape: shape in the prompt.
        intended: x and y of the path at the times of the video's frames.
    """
    if len(measured.things) != 1 or measured.num_fleeting:
        return MotionVerdict(count=False, color=False, shape=False, correlation=0.0)
    (thing,) = measured.things
    correlation = path_correlation(thing.path[:, :2], intended)
    return MotionVerdict(True, thing.color == color, thing.shape == shape, correlation)


def _correlation(some: Float[np.ndarray, "time axes"], other: Float[np.ndarray, "time axes"]) -> float:
    some, other = some - some.mean(0), other - other.mean(0)
    scale = float(np.linalg.norm(some) * np.linalg.norm(other))
    return float((some * other).sum()) / scale if scale > 0 else 0.0
