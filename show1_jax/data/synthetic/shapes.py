"""Circles, squares and triangles, drawn with the exact share of every pixel that each covers.

A shape's centre is its centre of mass, and its radius is that of the circle of the same area. x points to the right,
y down. A pixel covers [i, i + 1] of each axis. A shape is filled plainly or with a pattern, which moves and grows with
it; where the pattern is empty, the background is visible.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float, Int

_Values = Float[np.ndarray, "..."]

SHAPES: Final = ("circle", "square", "triangle")
OUTLINE_WIDTH: Final = 0.35
"""Width of an outline, in radii of the shape, as the next two."""
STRIPE_WIDTH: Final = 0.4
"""Height of a horizontal stripe, and of the gap between two; the middle of a shape is the middle of a stripe."""
CELL_WIDTH: Final = 2 / 3
"""Side of a cell of a checkerboard; the middle of a shape is the middle of a filled cell."""

_HALF_SQUARE: Final = math.sqrt(math.pi) / 2
_HALF_TRIANGLE: Final = math.sqrt(math.pi / math.sqrt(3))
_TRIANGLE_HEIGHT: Final = math.sqrt(3) * _HALF_TRIANGLE
EXTENTS: Final[dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "circle": ((1.0, 1.0), (1.0, 1.0)),
    "square": ((_HALF_SQUARE, _HALF_SQUARE), (_HALF_SQUARE, _HALF_SQUARE)),
    "triangle": ((_HALF_TRIANGLE, _HALF_TRIANGLE), (_TRIANGLE_HEIGHT * 2 / 3, _TRIANGLE_HEIGHT / 3)),
}
"""Distances from the centre of a shape of radius 1 to its edges: (left, right), (up, down)."""


def coverage(
    shape: str, path: Float[np.ndarray, "time 3"], height: int, width: int, fill: str = "plain"
) -> tuple[list[int], list[int], Float[np.ndarray, "time rows columns"]]:
    """Return the share of each pixel that a moving shape covers, in a patch around it.

    With F(x, y) the shape's filled area above and to the left of a point, the area in a pixel is F's difference over
    the pixel's corners.

    Args:
      shape: one of `SHAPES`.
      path: x, y and radius at every time, in pixels; the shape is inside the frame.
      height: height of the frame, in pixels.
      width: width of the frame, in pixels.
      fill: one of `FILLS`.

    Returns:
      The patch's first row and first column at every time, and the shares in it, 0 to 1, in float32.
    """
    x, y, radius = path.T
    (before_x, after_x), (before_y, after_y) = EXTENTS[shape]
    top, rows = _pixels(y - before_y * radius, y + after_y * radius, height)
    left, columns = _pixels(x - before_x * radius, x + after_x * radius, width)
    radius = radius[:, None]
    corner_y = ((top - y)[:, None] + np.arange(rows + 1)) / radius
    corner_x = ((left - x)[:, None] + np.arange(columns + 1)) / radius
    area = _FILL_AREAS[fill](shape, corner_x[:, None, :], corner_y[:, :, None])
    covered = np.diff(np.diff(area, axis=1), axis=2) * radius[..., None] ** 2
    return top.tolist(), left.tolist(), covered.astype(np.float32)


def _pixels(
    low: Float[np.ndarray, " time"], high: Float[np.ndarray, " time"], size: int
) -> tuple[Int[np.ndarray, " time"], int]:
    """Return the first pixel at every time, and a number of pixels that covers `low` to `high` at all times."""
    first = np.floor(low).astype(int)
    count = int(np.max(np.ceil(high) - first, initial=0))
    return np.minimum(first, size - count), count


def _area(
    shape: str, x: Float[np.ndarray, "time 1 columns"], y: Float[np.ndarray, "time rows 1"]
) -> Float[np.ndarray, "time rows columns"]:
    """Return the area, above and to the left of a point, of a shape of radius 1 with its centre at 0.

    Every shape is its own mirror image, so the area of the left half is enough.
    """
    left_area = _LEFT_AREAS[shape]
    mirrored = left_area(-np.abs(x), y)
    return np.where(x < 0, mirrored, 2 * left_area(np.zeros((1, 1, 1)), y) - mirrored)


def _left_area_of_circle(x: _Values, y: _Values) -> _Values:
    half = np.sqrt(np.maximum(1 - x**2, 0))
    below = np.clip(y, -half, half)
    segments = _segment(np.maximum(x, -1)) + np.clip(_segment(np.clip(y, -1, 1)), _segment(-half), _segment(half))
    return segments / 2 + np.maximum(x, -1) * below - np.pi / 4


def _segment(x: _Values) -> _Values:
    """Return the area of the unit circle to the left of x, for x from -1 to 1."""
    return x * np.sqrt(1 - x**2) + np.arcsin(x) + np.pi / 2


def _left_area_of_square(x: _Values, y: _Values) -> _Values:
    return np.maximum(x + _HALF_SQUARE, 0) * np.clip(y + _HALF_SQUARE, 0, 2 * _HALF_SQUARE)


def _left_area_of_triangle(x: _Values, y: _Values) -> _Values:
    above, below = EXTENTS["triangle"][1]
    depth = np.maximum(np.minimum(y, below) + above + math.sqrt(3) * x, 0)
    return depth**2 / (2 * math.sqrt(3))


_LEFT_AREAS: Final[dict[str, Callable[[_Values, _Values], _Values]]] = {
    "circle": _left_area_of_circle,
    "square": _left_area_of_square,
    "triangle": _left_area_of_triangle,
}


def _area_of_outline(
    shape: str, x: Float[np.ndarray, "time 1 columns"], y: Float[np.ndarray, "time rows 1"]
) -> Float[np.ndarray, "time rows columns"]:
    """Return the area of a shape without a smaller copy of it, whose edges are equally far from the shape's edges."""
    inner, outer = _inradius(shape) - OUTLINE_WIDTH, _inradius(shape)
    hole = inner / outer
    return _area(shape, x, y) - hole**2 * _area(shape, x / hole, y / hole)


def _area_of_stripes(
    shape: str, x: Float[np.ndarray, "time 1 columns"], y: Float[np.ndarray, "time rows 1"]
) -> Float[np.ndarray, "time rows columns"]:
    """Return the area of the stripes of a shape, up to a function of x alone."""
    stripes = np.stack([y.clip(*_band(number, STRIPE_WIDTH)) for number in range(-4, 5, 2)], axis=1)
    return _area(shape, x, stripes.reshape(len(y), -1, 1)).reshape(len(y), -1, y.shape[1], x.shape[2]).sum(1)


def _area_of_checkerboard(
    shape: str, x: Float[np.ndarray, "time 1 columns"], y: Float[np.ndarray, "time rows 1"]
) -> Float[np.ndarray, "time rows columns"]:
    """Return the area of the filled cells of a shape, up to the sum of a function of x and a function of y."""
    numbers = range(-2, 3)
    columns, rows = (np.stack([axis.clip(*_band(number, CELL_WIDTH)) for number in numbers], axis=1) for axis in (x, y))
    cells = _area(shape, columns.reshape(len(x), 1, -1), rows.reshape(len(y), -1, 1))
    cells = cells.reshape(len(y), len(numbers), y.shape[1], len(numbers), x.shape[2])
    is_filled = [[float((row + column) % 2 == 0) for column in numbers] for row in numbers]
    return np.einsum("trycx,rc->tyx", cells, np.array(is_filled))


def _band(number: int, width: float) -> tuple[float, float]:
    """Return both ends of a stripe or cell along an axis, in radii."""
    return (number - 0.5) * width, (number + 0.5) * width


def _inradius(shape: str) -> float:
    """Return the distance from the centre of a shape of radius 1 to its nearest edge."""
    return min(min(before, after) for before, after in EXTENTS[shape])


_FILL_AREAS: Final[dict[str, Callable[[str, _Values, _Values], _Values]]] = {
    "plain": _area,
    "outline": _area_of_outline,
    "stripes": _area_of_stripes,
    "checkerboard": _area_of_checkerboard,
}
FILLS: Final = tuple(_FILL_AREAS)
