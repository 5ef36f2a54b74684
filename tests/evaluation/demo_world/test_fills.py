"""Tests of the measurement of fills: true pictures with every fill pass, sharp and blurred, and no fill is mistaken."""

from itertools import cycle, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from show1_jax.data.synthetic.shapes import FILLS, SHAPES
from show1_jax.data.synthetic.world import COLORS, SIZES, PlacedScene, Scene, Thing, place, render, scene_from_index
from show1_jax.evaluation.demo_world.fills import FilledThing, measure_fills
from show1_jax.evaluation.demo_world.measure import judge

HEIGHT, WIDTH = 80, 144
TIMES = np.arange(29) / 8


def things(video: np.ndarray) -> list[FilledThing]:
    return [thing for thing in measure_fills(video).things if isinstance(thing, FilledThing)]


def scenes(count: int) -> list[PlacedScene]:
    """Return scenes of one and of two things, of all colours, sizes, motions and backgrounds."""
    return [scene_from_index(index, 11, held_out=None, num_things=1 + index % 2) for index in range(count)]


def is_right(video: np.ndarray, placed: PlacedScene, fill: str) -> bool:
    found = measure_fills(video)
    fills = {thing.fill for thing in found.things if isinstance(thing, FilledThing)}
    return judge(found, placed.scene).all and fills == {fill}


def disturbed(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a 3x3 blur, a colour shift of up to 25 levels per channel, and noise of 5 levels."""
    blurred = ndimage.uniform_filter(video.astype(np.float32), (0, 3, 3, 0), mode="nearest")
    return (blurred + rng.uniform(-25, 25, 3) + rng.normal(0, 5, video.shape)).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("fill", FILLS)
def test_true_pictures_pass(fill: str) -> None:
    assert all(is_right(render(placed, TIMES, HEIGHT, WIDTH, fill), placed, fill) for placed in scenes(8))


@pytest.mark.parametrize("fill", FILLS)
def test_small_and_disturbed_pictures_pass(fill: str) -> None:
    rng = np.random.default_rng(0)
    placed = scenes(8)
    assert all(is_right(render(one, TIMES, 40, 64, fill), one, fill) for one in placed)
    blurred = [disturbed(render(one, TIMES, HEIGHT, WIDTH, fill), rng) for one in placed]
    assert sum(is_right(video, one, fill) for video, one in zip(blurred, placed, strict=True)) >= 7


def test_every_shape_of_every_size_has_every_fill() -> None:
    """Still things in the middle of a frame; one frame is enough."""
    for (shape, size, fill), color in zip(product(SHAPES, SIZES, FILLS), cycle(COLORS), strict=False):
        placed = place(Scene((Thing(color, shape, "stays still", size),)), 0, 0.0)
        (thing,) = things(render(placed, [0.0], HEIGHT, WIDTH, fill))
        assert (thing.color, thing.shape, thing.size, thing.fill) == (color, shape, size, fill)


@pytest.mark.parametrize("fill", FILLS)
def test_paths_are_the_true_ones(fill: str) -> None:
    """To a fifth of a pixel: centre and radius of a pattern come from its moments."""
    for placed in scenes(8)[::2]:
        (body,) = placed.bodies(HEIGHT, WIDTH)
        (thing,) = things(render(placed, TIMES, HEIGHT, WIDTH, fill))
        np.testing.assert_allclose(thing.path, body.path(TIMES), atol=0.2)


def square(size: int = 24) -> np.ndarray:
    video = np.zeros((5, HEIGHT, WIDTH, 3), np.uint8)
    video[:, 28 : 28 + size, 60 : 60 + size] = COLORS["red"]
    return video


def test_other_patterns_are_no_fill() -> None:
    """A quarter is missing; there is one gap that is not a stripe's; a bar is no shape."""
    quarter, gap = square(), square()
    quarter[:, 28:40, 60:72] = 0
    gap[:, 28:52, 70:74] = 0
    bar = np.zeros_like(quarter)
    bar[:, 36:42, 40:100] = COLORS["red"]
    for video in (gap, quarter, bar):
        (thing,) = things(video)
        assert thing.fill in (None, "plain")
    assert things(bar)[0].shape is None
    assert (things(square())[0].shape, things(square())[0].fill) == ("square", "plain")


def test_a_faint_pattern_is_plain() -> None:
    """Gaps with nine tenths of the colour do not count; gaps with a tenth do."""
    placed = place(Scene((Thing("white", "square", "stays still", "large"),)), 0, 0.0)
    plain, striped = (render(placed, [0.0] * 4, HEIGHT, WIDTH, fill).astype(float) for fill in ("plain", "stripes"))
    for share, fill in ((0.9, "plain"), (0.1, "stripes")):
        (thing,) = things((share * plain + (1 - share) * striped).astype(np.uint8))
        assert (thing.shape, thing.fill) == ("square", fill)


def test_a_shade_of_a_colour_has_its_name_and_is_plain() -> None:
    (thing,) = things(square() // 5 * 3)
    assert (thing.color, thing.shape, thing.fill) == ("red", "square", "plain")


def test_a_colour_that_is_no_mixture_with_the_background_has_no_name() -> None:
    video = square()
    video[video[..., 0] > 0] = (0, 255, 200)
    assert things(video)[0].color is None


def test_things_that_vanish_are_counted() -> None:
    video = square()
    video[3] = 0
    measured = measure_fills(video)
    assert measured.things == ()
    assert measured.num_fleeting > 0


@pytest.mark.parametrize("background", COLORS.values())
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (255, 0, 255)])
def test_a_background_may_have_a_colour_of_the_things(background: Any, color: Any) -> None:
    video = square()
    is_background = (video == 0).all(-1)
    video[is_background] = background
    video[~is_background] = color
    measure_fills(video)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 16), st.just(3))))
def test_any_video_is_measured(video: np.ndarray) -> None:
    assert all(np.isfinite(thing.path).all() for thing in measure_fills(video).things)
