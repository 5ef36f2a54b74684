"""Motions outside of the grammar: their geometry, and that they are drawn as the world's own are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.data.synthetic.paths import PATHS, PathScene
from show1_jax.data.synthetic.shapes import SHAPES
from show1_jax.data.synthetic.world import BACKGROUNDS, COLORS, DURATION, SIZES, frame_unit

TIMES = np.linspace(0, DURATION, 29)
SCENES = st.builds(
    PathScene,
    st.sampled_from(list(COLORS)),
    st.sampled_from(SHAPES),
    st.sampled_from(list(PATHS)),
    st.sampled_from(list(SIZES)),
    st.sampled_from(list(BACKGROUNDS)),
    st.floats(0.2, 1),
    st.booleans(),
)


@given(SCENES)
@settings(max_examples=30, deadline=None)
def test_things_stay_inside_and_are_drawn_where_the_path_says(scene: PathScene) -> None:
    video = scene.render(TIMES, 40, 64).astype(float)
    contrast = np.abs(video - BACKGROUNDS[scene.background]).sum(-1)
    assert not contrast[:, [0, -1]].any() and not contrast[:, :, [0, -1]].any()  # noqa: PT018
    weights = contrast / contrast.sum((1, 2), keepdims=True)
    x, y = weights.sum(1) @ (np.arange(64) + 0.5), weights.sum(2) @ (np.arange(40) + 0.5)
    path = scene.path(TIMES, 40, 64)
    np.testing.assert_allclose(np.stack([x, y], 1), path[:, :2], atol=0.05)  # 8-bit levels of its edge
    area = contrast.sum((1, 2)) / np.abs(np.subtract(COLORS[scene.color], BACKGROUNDS[scene.background])).sum()
    np.testing.assert_allclose(np.sqrt(area / np.pi), path[:, 2], rtol=0.02)


def test_a_loop_is_round_and_closed() -> None:
    path = PathScene("red", "square", "loops").path(TIMES, 80, 144)[:, :2]
    np.testing.assert_allclose(path[0], path[-1], atol=1e-9)
    distance = np.linalg.norm(path - path[:-1].mean(0), axis=1)
    np.testing.assert_allclose(distance, distance[0], rtol=1e-9)
    assert path[7, 0] > path[0, 0]


def test_a_zigzag_turns_twice_and_a_bounce_reaches_the_floor_twice() -> None:
    x, y = PathScene("red", "circle", "zigzags").path(TIMES, 80, 128)[:, :2].T
    assert (np.diff(x) > 0).all()
    assert np.abs(np.diff(np.sign(np.diff(y)))).sum() / 2 == 2
    x, y = PathScene("red", "circle", "bounces").path(TIMES, 80, 128)[:, :2].T
    assert np.ptp(x) == 0
    np.testing.assert_allclose(y[[7, 21]], y.max())
    np.testing.assert_allclose(y[[0, 14, 28]], y.min())


@pytest.mark.parametrize("path_name", PATHS)
def test_mirrored_paths_exchange_left_and_right(path_name: str) -> None:
    scene = PathScene("blue", "triangle", path_name)
    mirrored = PathScene("blue", "triangle", path_name, mirrored=True)
    np.testing.assert_array_equal(mirrored.render(TIMES, 40, 64), scene.render(TIMES, 40, 64)[:, :, ::-1])


def test_reach_scales_the_path_about_the_middle() -> None:
    whole, half = (PathScene("red", "circle", "zigzags", reach=reach).path(TIMES, 40, 64) for reach in (1.0, 0.5))
    middle = np.array([32.0, 20.0])
    np.testing.assert_allclose(half[:, :2] - middle, 0.5 * (whole[:, :2] - middle), atol=1e-9)


def test_large_frames_averaged_down_are_the_small_ones() -> None:
    scene = PathScene("green", "circle", "bounces", background="navy")
    large = scene.render(TIMES, 80, 128).reshape(29, 10, 8, 16, 8, 3).mean((2, 4))
    np.testing.assert_allclose(large, scene.render(TIMES, 10, 16), atol=1)


def test_captions_have_the_form_of_the_grammar() -> None:
    assert PathScene("red", "circle", "loops", "large").sentence() == "a large red circle loops"
    assert frame_unit(80, 128) == 80
