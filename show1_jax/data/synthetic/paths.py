"""Motions that the world's grammar lacks: one thing that loops, zigzags or bounces, drawn by the world's renderer.

No network of the demo was trained on them: they are data for customisation of motion and for its tests.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from show1_jax.data.synthetic.shapes import EXTENTS
from show1_jax.data.synthetic.world import DURATION, FRAME_MARGIN, SIZES, Thing, Times, frame_unit, render_bodies

_Progress = Float[np.ndarray, " time"]
_Path = Float[np.ndarray, "time 2"]


def _loop(progress: _Progress) -> _Path:
    angle = 2 * np.pi * progress
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _zigzag(progress: _Progress) -> _Path:
    legs = 3 * progress
    return np.stack([2 * progress - 1, 2 * np.abs(1 - legs % 2) - 1], axis=1)


def _bounce(progress: _Progress) -> _Path:
    phase = (0.5 + 2 * progress) % 1
    return np.stack([np.zeros_like(progress), 2 * (2 * phase - 1) ** 2 - 1], axis=1)


PATHS: Final[dict[str, Callable[[_Progress], _Path]]] = {"loops": _loop, "zigzags": _zigzag, "bounces": _bounce}
"""Paths by verb, as functions of the share of the scene that has passed; x (to the right) and y (down) from -1 to 1.

A loop is one turn, clockwise from the top; a zigzag moves right, up, down and up again; a bounce falls to the floor
twice, and rises to its height again.
"""


@dataclass(frozen=True)
class PathScene:
    """A thing that moves along a path, in the middle of the frame.

    Attributes:
        color: colour of the thing.
        shape: shape of the thing.
        path_name: a verb of `PATHS`.
        size: size of the thing; "" is the middle size.
        background: colour of the background.
        reach: extent of the path, as a share of the largest that fits into the frame, above 0 and at most 1.
        mirrored: left and right are exchanged.
    """

    color: str
    shape: str
    path_name: str
    size: str = ""
    background: str = "black"
    reach: float = 1.0
    mirrored: bool = False

    def sentence(self) -> str:
        """Return a caption in the form of the grammar's sentences: `a red circle loops`."""
        return " ".join(word for word in ("a", self.size, self.color, self.shape, self.path_name) if word)

    def path(self, times: Times, height: int, width: int) -> Float[np.ndarray, "time 3"]:
        """Return x, y and radius of the thing in pixels of a frame, at the given seconds; see `world.Body`."""
        unit, radius = frame_unit(height, width), SIZES[self.size]
        edges = [
            (FRAME_MARGIN + radius * before, length / unit - FRAME_MARGIN - radius * after)
            for (before, after), length in zip(EXTENTS[self.shape], (width, height), strict=True)
        ]
        low, high = np.transpose(edges)
        extent = (high - low) / 2
        if self.path_name == "loops":  # they are round, and the other paths fill the frame
            extent = np.full(2, extent.min())
        direction = np.array([-1 if self.mirrored else 1, 1])
        progress = np.clip(np.asarray(times, float) / DURATION, 0, 1)
        centers = (low + high) / 2 + self.reach * extent * direction * PATHS[self.path_name](progress)
        return unit * np.column_stack([centers, np.full(len(centers), radius)])

    def render(self, times: Times, height: int, width: int, fill: str = "plain") -> UInt8[np.ndarray, "time h w 3"]:
        """Render the scene at the given times, in seconds, as uint8 RGB; see `world.render`."""
        thing = Thing(self.color, self.shape, "stays still", self.size)
        body = _PathBody(thing, functools.partial(self.path, height=height, width=width))
        return render_bodies((body,), self.background, times, height, width, fill)


@dataclass(frozen=True)
class _PathBody:
    """A thing that moves along any path."""

    thing: Thing
    path: Callable[[Times], Float[np.ndarray, "time 3"]]
