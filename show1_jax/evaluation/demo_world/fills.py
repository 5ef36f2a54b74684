"""Measurement of videos whose things have a pattern instead of a plain fill: outlines, stripes or a checkerboard.

A thing is the sum of its pieces: regions of one colour that are near each other in every frame. Shape and fill are
those of the drawing that is most similar to it, of all shapes with all fills, each drawn where the thing is and as
large. So a shape is recognised despite its fill, and a fill despite blur. The rest is measured as in `measure`.
"""

import functools
import math
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from show1_jax.data.synthetic.shapes import FILLS, SHAPES, coverage
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, frame_unit
from show1_jax.evaluation.demo_world.measure import (
    BACKGROUND_TOLERANCE,
    COLOR_TOLERANCE,
    CONTRAST,
    EDGE,
    LINKED,
    MIN_AREA,
    FoundThing,
    Measurement,
    background_noise_of,
    is_monotone_path,
    median_color,
    motion_name,
    moving_window,
    nearest_color,
    size_name,
    travels,
)

_REACH: Final = 4 / 80
"""Maximum half of the gap between two pieces of a thing, in the world's units. The largest gap in the world, between
stripes of a large thing that grows, is just below twice this; things of the same colour are that far apart too."""
_MIN_PIECE_AREA: Final = 0.0003
"""Area at and below which a region is not a piece of a thing; it may be an artefact of another colour."""
_MISMATCH_TOLERANCE: Final = 0.5
"""Maximum difference between a thing and its best-fitting drawing, as a share of the thing's area."""
_BLURS: Final = (0.0, 0.01, 0.02)
"""Standard deviations of the blur of the drawings, in the world's units: a pattern that is blurred is still shown."""
_MIN_STRENGTH: Final = 0.5
"""Minimum contrast of a drawing, as a share of its colour's contrast with the background."""
_EVERY: Final = 4
"""Every frame of this number is compared with the drawings."""
_DRAWN_RADIUS: Final = 60.0
"""Radius in pixels of the drawing from which a fill's moments are taken."""


@dataclass(frozen=True)
class FilledThing(FoundThing):
    """A thing with its fill, one of `FILLS`; None if no fill of any shape fits, and then there is no shape either."""

    fill: str | None


class _Moments(NamedTuple):
    """Moments of a filled shape of radius 1, relative to its centre."""

    y: float
    spread: float
    """Root mean square distance of its filled points from their own centre."""


def measure_fills(video: UInt8[np.ndarray, "time height width 3"]) -> Measurement:
    """Find the background and the things of a video, which are `FilledThing`s.

    Two things of one colour must be further apart than the pieces of a thing; see `_REACH`.
    """
    unit = frame_unit(*video.shape[1:3])
    background = median_color(video[::4, ::3, ::3].reshape(-1, 3)).astype(np.float32)
    contrast = video - background
    near_things: list[Bool[np.ndarray, "height width"]] = [np.zeros(video.shape[1:3], bool)]
    things, num_fleeting = [], 0
    for name, pieces in _pieces_by_color(contrast, background, unit).items():
        labels, num_labels = ndimage.label(_grown(pieces, round(_REACH * unit)), LINKED)
        labels *= pieces
        for label in range(1, num_labels + 1):
            own = labels == label
            areas = own.sum((1, 2)) / unit**2
            if areas.max() <= MIN_AREA:
                continue
            near_things.append(own.any(0))
            if areas.min() > MIN_AREA:
                things.append(_measure_thing(own, name, contrast, background, unit))
            else:
                num_fleeting += 1
    return Measurement(
        nearest_color(background, BACKGROUNDS, BACKGROUND_TOLERANCE),
        background_noise_of(contrast, np.any(near_things, axis=0), math.ceil(EDGE * unit) + 1),
        tuple(things),
        num_fleeting,
    )


def _pieces_by_color(
    contrast: Float32[np.ndarray, "time height width 3"], background: Float32[np.ndarray, " 3"], unit: float
) -> dict[str, Bool[np.ndarray, "time height width"]]:
    """Return the pixels of the pieces of every colour; a piece is connected in its frame and from frame to frame."""
    distance = sum(np.square(contrast[..., channel]) for channel in range(3))
    labels, _ = ndimage.label(distance > CONTRAST**2, LINKED)
    directions = {name: color - background for name, color in COLORS.items() if np.any(color != background)}
    colors: dict[str, list[int]] = {}
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        own = labels[place] == label
        if own.sum((1, 2)).max() / unit**2 > _MIN_PIECE_AREA:
            strong = own & (distance[place] >= np.quantile(distance[place][own], 0.75))
            color = contrast[place][strong].mean(0)
            name = min(directions, key=lambda name: _distance_from_line(color, directions[name]))
            colors.setdefault(name, []).append(label)
    return {name: np.isin(labels, numbers) for name, numbers in colors.items()}


def _distance_from_line(color: Float[np.ndarray, " 3"], direction: Float[np.ndarray, " 3"]) -> float:
    """Return the distance of a contrast from the nearest mixture of the background and a colour."""
    share = np.clip(color @ direction / (direction @ direction), 0, 1.2)
    return float(np.linalg.norm(color - share * direction))


def _grown(own: Bool[np.ndarray, "time height width"], reach: int) -> Bool[np.ndarray, "time height width"]:
    """Return the pixels within a distance of a mask, in each frame."""
    distances = np.stack([ndimage.distance_transform_edt(~frame) for frame in own])
    return distances <= reach + 0.5


def _measure_thing(
    own: Bool[np.ndarray, "time height width"],
    name: str,
    contrast: Float32[np.ndarray, "time height width 3"],
    background: Float32[np.ndarray, " 3"],
    unit: float,
) -> FilledThing:
    edge = max(1, round(EDGE * unit))
    top, left, window = moving_window(own, edge + 1)
    near, inside = contrast[window], own[window]
    direction = (np.array(COLORS[name]) - background).astype(np.float32)
    covered = (near @ (direction / (direction @ direction))).clip(0, 1)
    covered *= ndimage.maximum_filter(inside, (1, 2 * edge + 1, 2 * edge + 1))
    is_pure = _distance_from_line(near[inside].mean(0), direction) <= COLOR_TOLERANCE
    drawing = _best_drawing(covered, unit)
    path = drawing.path + np.stack([left, top, np.zeros_like(top)], axis=1)
    motion = motion_name(path / unit)
    return FilledThing(
        color=name if is_pure else None,
        shape=drawing.shape,
        motion=motion,
        size=size_name(path[:, 2].mean() / unit),
        path=path,
        is_monotone=is_monotone_path(path[:, :2] / unit) if motion and travels(motion) else None,
        fill=drawing.fill,
    )


class _Drawing(NamedTuple):
    """The best-fitting drawing of a thing; without shape and fill if it does not fit."""

    shape: str | None
    fill: str | None
    path: Float[np.ndarray, "time 3"]


def _best_drawing(covered: Float32[np.ndarray, "time rows columns"], unit: float) -> _Drawing:
    best, least = None, math.inf
    for shape, fill, blur in product(SHAPES, FILLS, _BLURS):
        path = _path(covered, _moments(shape, fill), blur * unit)
        mismatch = _mismatch(covered[::_EVERY], shape, fill, path[::_EVERY], blur * unit)
        if mismatch < least:
            best, least = _Drawing(shape, fill, path), mismatch
    assert best is not None
    fits = least <= _MISMATCH_TOLERANCE * covered[::_EVERY].sum()
    return best if fits else best._replace(shape=None, fill=None)


def _path(
    covered: Float32[np.ndarray, "time rows columns"], moments: _Moments, blur: float
) -> Float[np.ndarray, "time 3"]:
    """Return the centre and the radius of a filled and blurred shape with a thing's centre of mass and spread."""
    area = covered.sum((1, 2), dtype=float).clip(1e-3)
    rows, columns = (np.arange(size) + 0.5 for size in covered.shape[1:])
    across, down = covered.sum(1, dtype=float), covered.sum(2, dtype=float)
    x, y = across @ columns / area, down @ rows / area
    square = across @ columns**2 / area - x**2 + down @ rows**2 / area - y**2 - 2 * blur**2
    radius = np.sqrt(square.clip(0.25)) / moments.spread
    return np.stack([x, y - moments.y * radius, radius], axis=1)


def _mismatch(
    covered: Float32[np.ndarray, "time rows columns"],
    shape: str,
    fill: str,
    path: Float[np.ndarray, "time 3"],
    blur: float,
) -> float:
    """Return the difference between a thing and a drawing of the most similar strength, in pixels of all frames."""
    margin = math.ceil(2 * path[:, 2].max())
    canvas = np.pad(covered, ((0, 0), (margin, margin), (margin, margin)))
    _, height, width = canvas.shape
    tops, lefts, drawn = coverage(shape, path + np.array([margin, margin, 0]), height, width, fill)
    rows, columns = drawn.shape[1:]
    drawing = np.zeros_like(canvas)
    for frame, top, left, shares in zip(drawing, tops, lefts, drawn, strict=True):
        frame[top : top + rows, left : left + columns] = shares
    if blur:
        drawing = ndimage.gaussian_filter(drawing, (0, blur, blur))
    strength = np.clip(np.vdot(canvas, drawing) / max(np.vdot(drawing, drawing), 1e-3), _MIN_STRENGTH, 1)
    return float(np.abs(canvas - strength * drawing).sum())


@functools.cache
def _moments(shape: str, fill: str) -> _Moments:
    """Return the moments of a filled shape, from a large drawing of it."""
    side = math.ceil(4 * _DRAWN_RADIUS)
    middle = np.array([[side / 2, side / 2, _DRAWN_RADIUS]])
    (top,), (left,), (covered,) = coverage(shape, middle, side, side, fill)
    rows, columns = (
        (np.arange(size) + 0.5 + first - side / 2) / _DRAWN_RADIUS
        for size, first in zip(covered.shape, (top, left), strict=True)
    )
    area = covered.sum(dtype=float)
    across, down = covered.sum(0, dtype=float), covered.sum(1, dtype=float)
    y = float(down @ rows / area)
    return _Moments(y, math.sqrt(across @ columns**2 / area + down @ rows**2 / area - y**2))
