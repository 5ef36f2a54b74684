"""The measure of new motions, on rendered truth and on every other path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.data.synthetic.paths import PATHS, PathScene
from show1_jax.data.synthetic.world import DURATION, Scene, Thing, place, render
from show1_jax.evaluation.demo_world.measure import measure
from show1_jax.evaluation.demo_world.motion import judge_motion, path_correlation

TIMES = np.linspace(0, DURATION, 29)
HEIGHT, WIDTH = 80, 144
INTENDED = {name: PathScene("red", "circle", name).path(TIMES, HEIGHT, WIDTH)[:, :2] for name in PATHS}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("color", "shape", "size", "background", "reach"),
    [("blue", "square", "", "black", 1.0), ("white", "triangle", "small", "navy", 0.6)],
)
def test_rendered_truth_follows_its_path(
    name: str, color: str, shape: str, size: str, background: str, reach: float
) -> None:
    scene = PathScene(color, shape, name, size, background, reach)
    verdict = judge_motion(measure(scene.render(TIMES, HEIGHT, WIDTH)), color, shape, INTENDED[name])
    assert verdict.appearance
    assert verdict.follows
    assert verdict.correlation == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("name", PATHS)
def test_other_paths_do_not_follow(name: str) -> None:
    def follows(video: np.ndarray) -> bool:
        verdict = judge_motion(measure(video), "red", "circle", INTENDED[name])
        assert verdict.appearance
        return verdict.follows

    others = [PathScene("red", "circle", other) for other in PATHS if other != name]
    if name != "bounces":  # mirrored, it is itself
        others.append(PathScene("red", "circle", name, mirrored=True))
    assert not any(follows(scene.render(TIMES, HEIGHT, WIDTH)) for scene in others)
    for motion in ("moves right", "moves up", "stays still", "grows"):
        assert not follows(render(place(Scene((Thing("red", "circle", motion),)), 0), TIMES, HEIGHT, WIDTH))
    if name != "bounces":  # played backwards, it is itself
        assert not follows(PathScene("red", "circle", name).render(TIMES[::-1], HEIGHT, WIDTH))
    assert path_correlation(np.roll(INTENDED[name], 7, axis=0), INTENDED[name]) < 0.5  # a quarter of the time later


def test_wrong_things_are_not_right() -> None:
    video = PathScene("red", "circle", "loops").render(TIMES, HEIGHT, WIDTH)
    assert not judge_motion(measure(video), "blue", "circle", INTENDED["loops"]).color
    assert not judge_motion(measure(video), "red", "square", INTENDED["loops"]).shape
    two = np.concatenate([video, video], axis=2)
    empty = np.zeros_like(video)
    for other in (two, empty):
        verdict = judge_motion(measure(other), "red", "circle", INTENDED["loops"])
        assert (verdict.count, verdict.appearance, verdict.correlation) == (False, False, 0.0)


@given(st.sampled_from(list(PATHS)), st.floats(0.1, 10), st.floats(-100, 100), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_position_and_size_do_not_matter(name: str, scale: float, x: float, y: float) -> None:
    moved = scale * INTENDED[name] + (x, y)
    assert path_correlation(moved, INTENDED[name]) == pytest.approx(1, abs=1e-6)
    assert path_correlation(-moved, INTENDED[name]) == pytest.approx(-1, abs=1e-6)


def test_constant_axes_do_not_divide_by_zero() -> None:
    line, still = INTENDED["bounces"], np.zeros((29, 2))
    assert path_correlation(still, line) == 0
    assert path_correlation(np.stack([np.arange(29.0), np.zeros(29)], 1), line) == 0
    assert path_correlation(np.stack([line[:, 1], line[:, 1]], 1), line) == pytest.approx(np.sqrt(0.5))
    with pytest.raises(ValueError, match="does not move"):
        path_correlation(line, still)


def test_a_straight_line_does_not_follow_a_zigzag_of_one_long_axis() -> None:
    zigzag = INTENDED["zigzags"] * (1, 0.1)
    straight = zigzag * (1, 0)
    assert path_correlation(straight, zigzag * (1, 3)) == 0
    assert path_correlation(straight, zigzag) > 0.9  # too flat to count: less than a tenth
