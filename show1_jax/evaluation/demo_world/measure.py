"""What a video of the synthetic world shows, found by plain image analysis that knows neither prompt nor network.

Thresholds are in the world's units (see `show1_jax.data.synthetic.world`), so that frames of all sizes are measured
alike.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from show1_jax.data.synthetic.shapes import SHAPES, coverage
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, MOTIONS, SIZES, Motion, Scene, Thing

MONOTONE_TOLERANCE: Final = 0.25 / 80
"""How far a monotone path may go back: a quarter of a pixel in a frame of 80 rows."""

# Distances between colours are Euclidean, in levels of 0 to 255.
_CONTRAST: Final = 45
"""Least distance of a thing's pixels from the background; the world's least contrast is 129, of green on gray."""
_BACKGROUND_TOLERANCE: Final = 64
"""Half of the distance between the nearest two backgrounds."""
_COLOR_TOLERANCE: Final = 79
"""Half of the distance between the nearest two colours."""
_LEAST_TRAVEL: Final = 0.35 / 2
"""Half of what the world guarantees."""
_LEAST_GROWTH: Final = math.log(2) / 2
"""Of the radius' logarithm: half of what the world guarantees."""
_SIZE_TOLERANCE: Final = math.log(SIZES["large"] / SIZES[""]) / 2
"""Of the radius' logarithm."""
_SPECK: Final = 0.002
"""Area of what is too small to count; the smallest thing is never below 0.01."""
_EDGE: Final = 2 / 80
"""How far a thing's soft edge may reach inwards or outwards."""
_MISMATCH_TOLERANCE: Final = 0.25
"""Of the area: how much of a thing may differ from the shape that fits it best."""
_REACH: Final = 1.6
"""A little more than any shape of radius 1 reaches from its centre."""

_CROSS: Final = ndimage.generate_binary_structure(2, 1)[None]
_LINKED: Final = ndimage.generate_binary_structure(3, 1)
"""Neighbours in a frame, and the same pixel one frame before and after: things move by less than their width."""

_Index = tuple[Int[np.ndarray, "time 1 1"], Int[np.ndarray, "time rows 1"], Int[np.ndarray, "time 1 columns"]]


@dataclass(frozen=True)
class FoundThing:
    """A thing that is there in every frame; an attribute that is none of the world's is None."""

    color: str | None
    shape: str | None
    motion: str | None
    size: str | None
    path: Float[np.ndarray, "time 3"]
    """x and y of the centre of mass, and the radius of the circle of the same area, in pixels."""
    is_monotone: bool | None
    """Whether the path never goes back by more than `MONOTONE_TOLERANCE`; None if the thing does not travel."""


@dataclass(frozen=True)
class Measured:
    """What a video shows."""

    background: str | None
    background_noise: float | None
    """Standard deviation over time, 0 to 255, averaged over the channels and pixels that no thing ever comes near;
    None if there are no such pixels."""
    things: tuple[FoundThing, ...]
    num_fleeting: int
    """How many more things there are that come, vanish or jump."""


@dataclass(frozen=True)
class Verdict:
    """What a video shows as asked: every attribute, of all things together."""

    count: bool
    color: bool
    shape: bool
    motion: bool
    size: bool
    background: bool
    is_monotone: bool | None
    """Whether all things that should travel have monotone paths; None if none should."""

    @property
    def core(self) -> bool:
        """Count, colour, shape and motion are right."""
        return self.count and self.color and self.shape and self.motion

    @property
    def all(self) -> bool:
        """Size and background are right, too."""
        return self.core and self.size and self.background


def measure(video: UInt8[np.ndarray, "time height width 3"]) -> Measured:
    """Find the background and the things of a video.

    The background's colour is the median pixel's. A thing is what differs from it and hangs together, within a frame
    and from frame to frame.
    """
    unit = min(video.shape[1], video.shape[2] * 5 / 8)
    behind = _median(video[::4, ::3, ::3].reshape(-1, 3)).astype(np.float32)
    contrast = video - behind
    distance = sum(np.square(contrast[..., channel]) for channel in range(3))  # much faster than over the last axis
    labels, num_labels = ndimage.label(distance > _CONTRAST**2, _LINKED)
    areas = np.stack([np.bincount(frame.ravel(), minlength=num_labels + 1)[1:] for frame in labels]) / unit**2
    counts, stays = areas.max(0) > _SPECK, areas.min(0) > _SPECK
    is_thing = np.concatenate([[False], counts])[labels]
    return Measured(
        _nearest(behind, BACKGROUNDS, _BACKGROUND_TOLERANCE),
        _noise(contrast, is_thing.any(0), math.ceil(_EDGE * unit) + 1),
        tuple(_measure_thing(labels, label, contrast, behind, unit) for label in (1 + np.flatnonzero(stays)).tolist()),
        int((counts & ~stays).sum()),
    )


def judge(measured: Measured, scene: Scene) -> Verdict:
    """Compare what a video shows with what it should show, in the assignment of its things that fits best."""
    found = [*measured.things, *[None] * (len(scene.things) - len(measured.things))]
    scores = np.array([[sum(_right(thing, one).values()) for one in found] for thing in scene.things])
    _, chosen = linear_sum_assignment(scores, maximize=True)
    pairs = [(thing, found[number]) for thing, number in zip(scene.things, chosen, strict=True)]
    rights = [_right(*pair) for pair in pairs]
    travelling = [one for thing, one in pairs if _travels(thing.motion)]
    return Verdict(
        count=len(measured.things) + measured.num_fleeting == len(scene.things),
        **{name: all(right[name] for right in rights) for name in ("color", "shape", "motion", "size")},
        background=measured.background == scene.background,
        is_monotone=all(one is not None and bool(one.is_monotone) for one in travelling) if travelling else None,
    )


def _right(thing: Thing, found: FoundThing | None) -> dict[str, bool]:
    names = ("color", "shape", "motion", "size")
    return {name: found is not None and getattr(found, name) == getattr(thing, name) for name in names}


def _travels(motion: str) -> bool:
    return MOTIONS[motion][:2] != (0, 0)


def _nearest(
    color: Float[np.ndarray, " 3"], colors: Mapping[str, tuple[int, int, int]], tolerance: float = math.inf
) -> str | None:
    distances = {name: math.dist(color, known) for name, known in colors.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= tolerance else None


def _noise(
    contrast: Float32[np.ndarray, "time height width 3"], is_thing: Bool[np.ndarray, "height width"], margin: int
) -> float | None:
    is_still = ~ndimage.maximum_filter(is_thing, 2 * margin + 1)
    return float(contrast.std(0)[is_still].mean()) if is_still.any() else None


def _measure_thing(
    labels: Int[np.ndarray, "time height width"],
    label: int,
    contrast: Float32[np.ndarray, "time height width 3"],
    behind: Float32[np.ndarray, " 3"],
    unit: float,
) -> FoundThing:
    edge = max(1, round(_EDGE * unit))
    top, left, window = _window(labels == label, edge + 1)
    near, own = contrast[window], labels[window]
    core = _core(own == label, edge)
    colors = np.stack([_median(pixels[inside]) for pixels, inside in zip(near, core, strict=True)])
    # The share of a pixel that a thing covers is how far its colour is on the way from the background's to the thing's.
    directions = colors / np.square(colors).sum(-1, keepdims=True).clip(_CONTRAST**2)
    covered = np.einsum("thwc,tc->thw", near, directions).clip(0, 1)
    covered *= ndimage.maximum_filter(own == label, (1, 2 * edge + 1, 2 * edge + 1)) & np.isin(own, (0, label))
    path = _path(covered)
    shape = _shape(covered, path)
    path += np.stack([left, top, np.zeros_like(top)], axis=1)
    names = {_nearest(behind + color, COLORS) for color in colors}
    motion = _motion(path / unit)
    return FoundThing(
        color=_nearest(behind + np.median(colors, axis=0), COLORS, _COLOR_TOLERANCE) if len(names) == 1 else None,
        shape=shape,
        motion=motion,
        size=_size(path[:, 2].mean() / unit),
        path=path,
        is_monotone=_is_monotone(path[:, :2] / unit) if motion and _travels(motion) else None,
    )


def _window(
    is_own: Bool[np.ndarray, "time height width"], margin: int
) -> tuple[Int[np.ndarray, " time"], Int[np.ndarray, " time"], _Index]:
    """First row and column of a patch in every frame that holds the thing, and the index of all patches' pixels."""
    frames, rows, columns = np.nonzero(is_own)
    top, num_rows = _span(frames, rows, is_own.shape[1], margin)
    left, num_columns = _span(frames, columns, is_own.shape[2], margin)
    row = top[:, None, None] + np.arange(num_rows)[:, None]
    column = left[:, None, None] + np.arange(num_columns)
    return top, left, (np.arange(len(is_own))[:, None, None], row, column)


def _span(
    frames: Int[np.ndarray, " pixels"], positions: Int[np.ndarray, " pixels"], size: int, margin: int
) -> tuple[Int[np.ndarray, " time"], int]:
    """Where so many rows (or columns) start that hold all of a thing's pixels in each frame; frames are in order."""
    starts = np.searchsorted(frames, np.arange(frames[-1] + 1))
    low, high = np.minimum.reduceat(positions, starts), np.maximum.reduceat(positions, starts)
    count = min(int((high - low).max()) + 1 + 2 * margin, size)
    return (low - margin).clip(0, size - count), count


def _core(is_own: Bool[np.ndarray, "time rows columns"], edge: int) -> Bool[np.ndarray, "time rows columns"]:
    """A thing without its mixed edge, as far as it is thick enough in a frame."""
    core = is_own
    for _ in range(edge):
        inner = ndimage.binary_erosion(core, _CROSS)
        core = np.where(inner.any((1, 2), keepdims=True), inner, core)
    return core


def _median(pixels: Shaped[np.ndarray, "pixels 3"]) -> Shaped[np.ndarray, " 3"]:
    """Of every channel; of two in the middle the larger one. NumPy's takes ten times as long for few pixels."""
    half = len(pixels) // 2
    return np.partition(pixels, half, axis=0)[half]


def _path(covered: Float32[np.ndarray, "time rows columns"]) -> Float[np.ndarray, "time 3"]:
    area = covered.sum((1, 2), dtype=float).clip(1e-3)  # above 0, should opposite colours cancel out
    x = covered.sum(1) @ (np.arange(covered.shape[2]) + 0.5) / area
    y = covered.sum(2) @ (np.arange(covered.shape[1]) + 0.5) / area
    return np.stack([x, y, np.sqrt(area / np.pi)], axis=1)


def _shape(covered: Float32[np.ndarray, "time rows columns"], path: Float[np.ndarray, "time 3"]) -> str | None:
    """The shape that fits best over all frames, drawn where the thing is and as large as it is."""
    margin = math.ceil(_REACH * path[:, 2].max())
    canvas = np.pad(covered, ((0, 0), (margin, margin), (margin, margin)))
    drawn = {shape: _drawn(shape, path + np.array([margin, margin, 0]), *canvas.shape[1:]) for shape in SHAPES}
    mismatches = {name: np.abs(_sharp(canvas) - _sharp(shares)).sum() for name, shares in drawn.items()}
    shape = min(mismatches, key=mismatches.__getitem__)
    return shape if mismatches[shape] <= _MISMATCH_TOLERANCE * covered.sum() else None


def _drawn(
    shape: str, path: Float[np.ndarray, "time 3"], height: int, width: int
) -> Float32[np.ndarray, "time {height} {width}"]:
    canvas = np.zeros((len(path), height, width), np.float32)
    tops, lefts, covered = coverage(shape, path, height, width)
    rows, columns = covered.shape[1:]
    for frame, top, left, shares in zip(canvas, tops, lefts, covered, strict=True):
        frame[top : top + rows, left : left + columns] = shares
    return canvas


def _sharp(covered: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Twice as steep at the edge, where blur makes things of all shapes alike; and noise fades elsewhere."""
    return (2 * covered - 0.5).clip(0, 1)


def _size(radius: float) -> str | None:
    """The size of a thing by its mean radius: one that grows or shrinks has its nominal radius halfway."""
    distances = {name: abs(math.log(radius / nominal)) for name, nominal in SIZES.items()}
    size = min(distances, key=distances.__getitem__)
    return size if distances[size] <= _SIZE_TOLERANCE else None


def _motion(path: Float[np.ndarray, "time 3"]) -> str | None:
    """What happens from the first frame to the last; None if it is more than one thing, or undone before the end."""
    state = np.column_stack([path[:, :2], np.log(path[:, 2])])
    changes = (state - state[0]) / (_LEAST_TRAVEL, _LEAST_TRAVEL, _LEAST_GROWTH)
    happens = np.abs(changes).max(0) >= 1
    lasts = np.where(np.abs(changes[-1]) >= 1, np.sign(changes[-1]), 0).astype(int)
    if (happens & (lasts == 0)).any():
        return None
    return next((name for name, motion in MOTIONS.items() if motion == Motion(*lasts.tolist())), None)


def _is_monotone(path: Float[np.ndarray, "time 2"]) -> bool:
    way = path[-1] - path[0]
    along = path @ (way / np.linalg.norm(way))
    return bool((np.maximum.accumulate(along) - along).max() <= MONOTONE_TOLERANCE)
