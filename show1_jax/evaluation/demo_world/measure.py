"""Measurement of synthetic-world videos by plain image analysis, which uses neither the prompt nor a network.

Thresholds are in the world's units (see `show1_jax.data.synthetic.world`), so they are the same for all frame sizes.
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
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, MOTIONS, SIZES, Motion, Scene, Thing, frame_unit

MONOTONE_TOLERANCE: Final = 0.25 / 80
"""Maximum distance that a monotone path may go back: a quarter of a pixel in a frame of 80 rows."""
TRUE_GROWTH: Final = 2.0
"""Factor by which the radius of a thing that grows or shrinks changes in the world."""

# Distances between colours are Euclidean, in levels of 0 to 255.
CONTRAST: Final = 45
"""Minimum distance of a thing's pixels from the background; the world's minimum is 129, green on gray."""
BACKGROUND_TOLERANCE: Final = 64
"""Half of the distance between the two nearest background colours."""
COLOR_TOLERANCE: Final = 79
"""Half of the distance between the two nearest colours of things."""
_MIN_TRAVEL: Final = 0.35 / 2
"""Half of the minimum travel in the world."""
_MIN_GROWTH: Final = math.log(TRUE_GROWTH) / 2
"""Half of the minimum growth in the world, in the logarithm of the radius."""
_SIZE_TOLERANCE: Final = math.log(SIZES["large"] / SIZES[""]) / 2
"""Tolerance of a size, in the logarithm of the radius."""
MIN_AREA: Final = 0.002
"""Area at and below which a region is not a thing; the smallest thing always has at least 0.01."""
EDGE: Final = 2 / 80
"""Maximum width of a thing's soft edge, inwards or outwards."""
_MISMATCH_TOLERANCE: Final = 0.25
"""Maximum difference between a thing and its best-fitting shape, as a share of the thing's area."""
_MAX_EXTENT: Final = 1.6
"""Slightly more than the largest distance from the centre to the edge of any shape of radius 1."""

_CROSS: Final = ndimage.generate_binary_structure(2, 1)[None]
LINKED: Final = ndimage.generate_binary_structure(3, 1)
"""Neighbours in a frame, and the same pixel in the frames before and after: things move by less than their width."""

_Index = tuple[Int[np.ndarray, "time 1 1"], Int[np.ndarray, "time rows 1"], Int[np.ndarray, "time 1 columns"]]


@dataclass(frozen=True)
class FoundThing:
    """A thing that is present in every frame; an attribute that does not exist in the world is None."""

    color: str | None
    shape: str | None
    motion: str | None
    size: str | None
    path: Float[np.ndarray, "time 3"]
    """x and y of the centre of mass, and the radius of the circle of the same area, in pixels."""
    is_monotone: bool | None
    """True if the path never goes back by more than `MONOTONE_TOLERANCE`; None if the thing does not travel."""

    @property
    def growth(self) -> float:
        """The last radius divided by the first."""
        return float(self.path[-1, 2] / self.path[0, 2])


@dataclass(frozen=True)
class Measurement:
    """The background and the things found in a video."""

    background: str | None
    background_noise: float | None
    """Standard deviation over time, in levels of 0 to 255, averaged over the channels and over pixels that are never
    near a thing; None if there are no such pixels."""
    things: tuple[FoundThing, ...]
    num_fleeting: int
    """Number of further things, which appear, disappear or jump."""


@dataclass(frozen=True)
class Verdict:
    """The correct attributes of a video; an attribute of things is correct if it is correct for all things."""

    count: bool
    color: bool
    shape: bool
    motion: bool
    size: bool
    background: bool
    is_monotone: bool | None
    """True if all things that should travel have monotone paths; None if no thing should travel."""
    growths: tuple[float, ...]
    """Factor by which the radius of each thing that should grow or shrink, and was found, changes in that direction. In
    the world it is `TRUE_GROWTH`."""

    @property
    def core(self) -> bool:
        """True if count, colour, shape and motion are correct."""
        return self.count and self.color and self.shape and self.motion

    @property
    def all(self) -> bool:
        """True if size and background are correct as well."""
        return self.core and self.size and self.background


def measure(video: UInt8[np.ndarray, "time height width 3"]) -> Measurement:
    """Find the background and the things of a video.

    The background's colour is the median over pixels. A thing is a region of other colours, connected within a frame
    and from frame to frame.
    """
    unit = frame_unit(*video.shape[1:3])
    background = median_color(video[::4, ::3, ::3].reshape(-1, 3)).astype(np.float32)
    contrast = video - background
    distance = sum(np.square(contrast[..., channel]) for channel in range(3))  # much faster than over the last axis
    labels, num_labels = ndimage.label(distance > CONTRAST**2, LINKED)
    areas = np.stack([np.bincount(frame.ravel(), minlength=num_labels + 1)[1:] for frame in labels]) / unit**2
    counts, stays = areas.max(0) > MIN_AREA, areas.min(0) > MIN_AREA
    is_thing = np.concatenate([[False], counts])[labels]
    return Measurement(
        nearest_color(background, BACKGROUNDS, BACKGROUND_TOLERANCE),
        background_noise_of(contrast, is_thing.any(0), math.ceil(EDGE * unit) + 1),
        tuple(
            _measure_thing(labels, label, contrast, background, unit) for label in (1 + np.flatnonzero(stays)).tolist()
        ),
        int((counts & ~stays).sum()),
    )


def judge(measured: Measurement, scene: Scene) -> Verdict:
    """Compare a measurement with the scene of the prompt, with the best-fitting assignment of things."""
    found = [*measured.things, *[None] * (len(scene.things) - len(measured.things))]
    scores = np.array([[sum(_correct_attributes(thing, one).values()) for one in found] for thing in scene.things])
    _, chosen = linear_sum_assignment(scores, maximize=True)
    pairs = [(thing, found[number]) for thing, number in zip(scene.things, chosen, strict=True)]
    rights = [_correct_attributes(*pair) for pair in pairs]
    travelling = [one for thing, one in pairs if travels(thing.motion)]
    return Verdict(
        count=len(measured.things) + measured.num_fleeting == len(scene.things),
        **{name: all(right[name] for right in rights) for name in ("color", "shape", "motion", "size")},
        background=measured.background == scene.background,
        is_monotone=all(one is not None and bool(one.is_monotone) for one in travelling) if travelling else None,
        growths=tuple(
            one.growth**direction
            for thing, one in pairs
            if one is not None and (direction := MOTIONS[thing.motion].growth)
        ),
    )


def _correct_attributes(thing: Thing, found: FoundThing | None) -> dict[str, bool]:
    names = ("color", "shape", "motion", "size")
    return {name: found is not None and getattr(found, name) == getattr(thing, name) for name in names}


def travels(motion: str) -> bool:
    """Return whether a motion of the world changes a thing's place."""
    return MOTIONS[motion][:2] != (0, 0)


def nearest_color(
    color: Float[np.ndarray, " 3"], colors: Mapping[str, tuple[int, int, int]], tolerance: float = math.inf
) -> str | None:
    """Return the name of the nearest colour; None if it is further than the tolerance."""
    distances = {name: math.dist(color, known) for name, known in colors.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= tolerance else None


def background_noise_of(
    contrast: Float32[np.ndarray, "time height width 3"], is_thing: Bool[np.ndarray, "height width"], margin: int
) -> float | None:
    """Return the noise of a background, see `Measurement`, in pixels that are further than `margin` from a thing."""
    is_still = ~ndimage.maximum_filter(is_thing, 2 * margin + 1)
    return float(contrast.std(0)[is_still].mean()) if is_still.any() else None


def _measure_thing(
    labels: Int[np.ndarray, "time height width"],
    label: int,
    contrast: Float32[np.ndarray, "time height width 3"],
    background: Float32[np.ndarray, " 3"],
    unit: float,
) -> FoundThing:
    edge = max(1, round(EDGE * unit))
    top, left, window = moving_window(labels == label, edge + 1)
    near, own = contrast[window], labels[window]
    core = _interior(own == label, edge)
    colors = np.stack([median_color(pixels[inside]) for pixels, inside in zip(near, core, strict=True)])
    # The covered share of a pixel is the position of its colour between the background's colour and the thing's.
    directions = colors / np.square(colors).sum(-1, keepdims=True).clip(CONTRAST**2)
    covered = np.einsum("thwc,tc->thw", near, directions).clip(0, 1)
    covered *= ndimage.maximum_filter(own == label, (1, 2 * edge + 1, 2 * edge + 1)) & np.isin(own, (0, label))
    path = _find_path(covered)
    shape = _shape_name(covered, path)
    path += np.stack([left, top, np.zeros_like(top)], axis=1)
    names = {nearest_color(background + color, COLORS) for color in colors}
    motion = motion_name(path / unit)
    return FoundThing(
        color=nearest_color(background + np.median(colors, axis=0), COLORS, COLOR_TOLERANCE)
        if len(names) == 1
        else None,
        shape=shape,
        motion=motion,
        size=size_name(path[:, 2].mean() / unit),
        path=path,
        is_monotone=is_monotone_path(path[:, :2] / unit) if motion and travels(motion) else None,
    )


def moving_window(
    is_own: Bool[np.ndarray, "time height width"], margin: int
) -> tuple[Int[np.ndarray, " time"], Int[np.ndarray, " time"], _Index]:
    """Find a patch that contains the thing in every frame.

    Returns:
        The first row and the first column of the patch in each frame, and the index of all patches' pixels.
    """
    frames, rows, columns = np.nonzero(is_own)
    top, num_rows = _span(frames, rows, is_own.shape[1], margin)
    left, num_columns = _span(frames, columns, is_own.shape[2], margin)
    row = top[:, None, None] + np.arange(num_rows)[:, None]
    column = left[:, None, None] + np.arange(num_columns)
    return top, left, (np.arange(len(is_own))[:, None, None], row, column)


def _span(
    frames: Int[np.ndarray, " pixels"], positions: Int[np.ndarray, " pixels"], size: int, margin: int
) -> tuple[Int[np.ndarray, " time"], int]:
    """Find, in each frame, the span of rows (or columns) that contains all pixels of a thing.

    Args:
        frames: frame number of each pixel, sorted.
        positions: row (or column) of each pixel.
        size: number of rows (or columns) of a frame.
        margin: rows (or columns) to add on both sides.

    Returns:
        The first row (or column) in each frame, and their number, which is the same in all frames.
    """
    starts = np.searchsorted(frames, np.arange(frames[-1] + 1))
    low, high = np.minimum.reduceat(positions, starts), np.maximum.reduceat(positions, starts)
    count = min(int((high - low).max()) + 1 + 2 * margin, size)
    return (low - margin).clip(0, size - count), count


def _interior(is_own: Bool[np.ndarray, "time rows columns"], edge: int) -> Bool[np.ndarray, "time rows columns"]:
    """Return the pixels of a thing without its soft edge, which is kept in frames where the thing is too thin."""
    core = is_own
    for _ in range(edge):
        inner = ndimage.binary_erosion(core, _CROSS)
        core = np.where(inner.any((1, 2), keepdims=True), inner, core)
    return core


def median_color(pixels: Shaped[np.ndarray, "pixels 3"]) -> Shaped[np.ndarray, " 3"]:
    """Return each channel's median, the larger of two middle values; NumPy's is ten times slower on few pixels."""
    half = len(pixels) // 2
    return np.partition(pixels, half, axis=0)[half]


def _find_path(covered: Float32[np.ndarray, "time rows columns"]) -> Float[np.ndarray, "time 3"]:
    area = covered.sum((1, 2), dtype=float).clip(1e-3)  # must be above 0 even if opposite colours cancel out
    x = covered.sum(1) @ (np.arange(covered.shape[2]) + 0.5) / area
    y = covered.sum(2) @ (np.arange(covered.shape[1]) + 0.5) / area
    return np.stack([x, y, np.sqrt(area / np.pi)], axis=1)


def _shape_name(covered: Float32[np.ndarray, "time rows columns"], path: Float[np.ndarray, "time 3"]) -> str | None:
    """Return the shape that fits best over all frames, drawn with the thing's position and size; None if none fits."""
    margin = math.ceil(_MAX_EXTENT * path[:, 2].max())
    canvas = np.pad(covered, ((0, 0), (margin, margin), (margin, margin)))
    drawn = {shape: _draw_shape(shape, path + np.array([margin, margin, 0]), *canvas.shape[1:]) for shape in SHAPES}
    mismatches = {name: np.abs(_sharpen(canvas) - _sharpen(shares)).sum() for name, shares in drawn.items()}
    shape = min(mismatches, key=mismatches.__getitem__)
    return shape if mismatches[shape] <= _MISMATCH_TOLERANCE * covered.sum() else None


def _draw_shape(
    shape: str, path: Float[np.ndarray, "time 3"], height: int, width: int
) -> Float32[np.ndarray, "time {height} {width}"]:
    canvas = np.zeros((len(path), height, width), np.float32)
    tops, lefts, covered = coverage(shape, path, height, width)
    rows, columns = covered.shape[1:]
    for frame, top, left, shares in zip(canvas, tops, lefts, covered, strict=True):
        frame[top : top + rows, left : left + columns] = shares
    return canvas


def _sharpen(covered: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Make edges twice as steep, because blur makes all shapes similar there; this also reduces noise elsewhere."""
    return (2 * covered - 0.5).clip(0, 1)


def size_name(radius: float) -> str | None:
    """Return the name of a thing's size by its mean radius; a growing or shrinking thing is nominal halfway."""
    distances = {name: abs(math.log(radius / nominal)) for name, nominal in SIZES.items()}
    size = min(distances, key=distances.__getitem__)
    return size if distances[size] <= _SIZE_TOLERANCE else None


def motion_name(path: Float[np.ndarray, "time 3"]) -> str | None:
    """Return the motion from the first frame to the last; None if there are several motions, or one is undone."""
    state = np.column_stack([path[:, :2], np.log(path[:, 2])])
    changes = (state - state[0]) / (_MIN_TRAVEL, _MIN_TRAVEL, _MIN_GROWTH)
    happens = np.abs(changes).max(0) >= 1
    lasts = np.where(np.abs(changes[-1]) >= 1, np.sign(changes[-1]), 0).astype(int)
    if (happens & (lasts == 0)).any():
        return None
    return next((name for name, motion in MOTIONS.items() if motion == Motion(*lasts.tolist())), None)


def is_monotone_path(path: Float[np.ndarray, "time 2"]) -> bool:
    """Return whether a path never goes back by more than `MONOTONE_TOLERANCE`; it is in the world's units."""
    direction = path[-1] - path[0]
    along = path @ (direction / np.linalg.norm(direction))
    return bool((np.maximum.accumulate(along) - along).max() <= MONOTONE_TOLERANCE)
