"""The synthetic world: its grammar, the positions of its things, and measurements of its rendered frames."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.data.synthetic.shapes import CELL_WIDTH, EXTENTS, FILLS, OUTLINE_WIDTH, SHAPES, STRIPE_WIDTH, coverage
from show1_jax.data.synthetic.world import (
    BACKGROUNDS,
    COLORS,
    DURATION,
    MOTIONS,
    SIZES,
    Body,
    PlacedScene,
    Scene,
    SyntheticWorld,
    Thing,
    is_held_out,
    parse_sentence,
    place,
    render,
    scene_from_index,
)
from show1_jax.errors import UserError

RECORDED = {
    0: ("a blue square stays still", [128.513, 78.654, 12.5, 128.513, 78.654, 12.5]),
    1: ("a yellow circle moves up", [134.52, 78.042, 12.5, 134.52, 21.345, 12.5]),
    2: ("a small white circle moves down", [95.794, 17.274, 8.5, 95.794, 85.784, 8.5]),
    123456: (
        "a large purple square moves right and a green circle moves left",
        [36.523, 78.038, 18.0, 138.247, 78.038, 18.0],
    ),
}
"""Caption of each index with seed 7, and x, y and radius of its first thing at the start and the end, at 160x100."""

DIRECTIONS = {
    "moves left": (-1, 0, 0),
    "moves right": (1, 0, 0),
    "moves up": (0, -1, 0),
    "moves down": (0, 1, 0),
    "stays still": (0, 0, 0),
    "grows": (0, 0, 1),
    "shrinks": (0, 0, -1),
}
"""Signs of the changes of x, y (which points down) and the radius."""

KEYFRAME_TIMES = np.arange(8) / 2

things = st.builds(
    Thing,
    st.sampled_from(list(COLORS)),
    st.sampled_from(SHAPES),
    st.sampled_from(list(MOTIONS)),
    st.sampled_from(list(SIZES)),
)
scenes = st.builds(Scene, st.lists(things, min_size=1, max_size=2).map(tuple), st.sampled_from(list(BACKGROUNDS)))
seeds = st.integers(0, 2**64 - 1)


def triple(thing: Thing) -> tuple[str, str, str]:
    return thing.color, thing.shape, thing.motion


def boxes(body: Body, times: np.ndarray) -> np.ndarray:
    """Return the left, top, right and bottom edges of a body at every time."""
    x, y, radius = body.path(times).T
    (left, right), (above, below) = EXTENTS[body.thing.shape]
    return np.stack([x - left * radius, y - above * radius, x + right * radius, y + below * radius])


def measured_coverage(placed: PlacedScene, video: np.ndarray) -> np.ndarray:
    """Return the share of each pixel that each thing covers, (things, time, height, width), from the colours alone.

    A pixel counts for the thing that covers more of it, so that rounded colours of one do not look like the other.
    """
    background = np.array(BACKGROUNDS[placed.scene.background], float)
    contrasts = np.array([COLORS[thing.color] for thing in placed.scene.things]) - background
    covered = np.moveaxis((video - background) @ np.linalg.pinv(contrasts), -1, 0)
    return np.where(covered == covered.max(axis=0), covered, 0.0)


def measured_path(covered: np.ndarray) -> np.ndarray:
    """Return the centre and the radius of the circle of the same area, (time, 3), from (time, height, width)."""
    area = covered.sum((1, 2))
    x = covered.sum(1) @ (np.arange(covered.shape[2]) + 0.5) / area
    y = covered.sum(2) @ (np.arange(covered.shape[1]) + 0.5) / area
    return np.stack([x, y, np.sqrt(area / np.pi)], axis=1)


# The grammar


def test_sentences_of_the_grammar() -> None:
    circle = Thing("red", "circle", "moves right")
    square = Thing("blue", "square", "stays still", "large")
    assert Scene((circle,)).sentence() == "a red circle moves right"
    assert (
        Scene((square, circle), "navy").sentence()
        == "a large blue square stays still and a red circle moves right on a navy background"
    )


@given(scenes)
def test_sentence_and_scene_are_one(scene: Scene) -> None:
    assert parse_sentence(scene.sentence()) == scene


@given(scenes)
def test_parsing_forgives_case_space_a_full_stop_and_a_said_black(scene: Scene) -> None:
    sentence = scene.sentence()
    if scene.background == "black":
        sentence += " on a black background"
    assert parse_sentence("  " + sentence.capitalize().replace(" ", " \n ") + ". ") == scene


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early; expected 'a'"),
        ("the red circle grows", "word 1, 'the', does not fit; expected 'a'"),
        ("a huge circle grows", "word 2, 'huge', does not fit; expected 'small', 'large', 'red', 'green'"),
        ("a small large circle grows", "word 3, 'large', does not fit; expected 'red'"),
        ("a red star grows", "word 3, 'star', does not fit; expected 'circle', 'square', 'triangle'"),
        ("a red circle", "ends too early; expected 'moves', 'stays', 'grows', 'shrinks'"),
        ("a red circle moves", "ends too early; expected 'left', 'right', 'up', 'down'"),
        ("a red circle stays here", "word 5, 'here', does not fit; expected 'still'"),
        ("a red circle grows fast", "word 5, 'fast', does not fit; expected 'and', 'on', the end"),
        ("a red circle grows on a pink background", "word 7, 'pink', does not fit; expected 'black', 'gray'"),
        ("a red circle grows on a navy background too", "word 9, 'too', does not fit; expected the end"),
        (
            "a red circle grows and a blue circle grows and a white circle grows",
            "word 10, 'and', does not fit; expected 'on', the end",
        ),
    ],
)
def test_misfits_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_sentence(text)
    assert message in str(error.value)


@given(st.one_of(st.just(""), scenes.map(Scene.sentence)), st.integers(0, 100), st.text())
def test_any_text_is_a_scene_or_refused_in_one_line(text: str, position: int, insertion: str) -> None:
    changed = text[:position] + insertion + text[position:]
    try:
        scene = parse_sentence(changed)
    except UserError:
        with pytest.raises(UserError, match=r"\A.*\Z"):
            parse_sentence(changed)
    else:
        assert parse_sentence(scene.sentence()) == scene


# Positions of the things


def hardest_scenes() -> list[Scene]:
    """Return scenes of the largest things of every shape and motion, alone and in pairs."""
    large = [Thing("red", shape, motion, "large") for shape, motion in product(SHAPES, MOTIONS)]
    return [Scene((thing,)) for thing in large] + [Scene(pair) for pair in product(large, large)]


@pytest.mark.parametrize(("height", "width"), [(40, 64), (320, 576), (64, 64), (64, 40), (30, 120)])
def test_things_stay_inside_the_frame_and_apart(height: int, width: int) -> None:
    placed = [place(scene, seed) for seed, scene in enumerate(hardest_scenes())]
    placed += [place(scene, seed, 0.3) for seed, scene in enumerate(hardest_scenes())]
    placed += [scene_from_index(index, held_out=None) for index in range(500)]
    gap = 0.05 * min(height, width / 1.6) - 1e-6
    for one in placed:
        outlines = [boxes(body, KEYFRAME_TIMES) for body in one.bodies(height, width)]
        for left, top, right, bottom in outlines:
            assert min(left.min(), top.min(), width - right.max(), height - bottom.max()) >= gap / 2
        for (left, top, right, bottom), (left2, top2, right2, bottom2) in combinations(outlines, 2):
            apart = np.max([left2 - right, left - right2, top2 - bottom, top - bottom2], axis=0)
            assert apart.min() >= gap, one.scene.sentence()


@given(scenes, seeds, st.floats(0, 1))
def test_things_do_what_is_said_of_them(scene: Scene, seed: int, spread: float) -> None:
    for thing, body in zip(scene.things, place(scene, seed, spread).bodies(100, 160), strict=True):
        directions = DIRECTIONS[thing.motion]
        first, halfway, last = body.path([0.0, DURATION / 2, DURATION])
        moved = last - first
        np.testing.assert_array_equal(np.sign(moved), directions)
        assert (abs(moved[:2]) >= 34.999 * np.abs(directions[:2])).all()
        assert halfway[2] == pytest.approx(100 * SIZES[thing.size])
        assert last[2] / first[2] == pytest.approx(2.0 ** directions[2])


def test_a_scene_has_the_same_places_in_every_size_of_a_frame() -> None:
    for index in range(50):
        placed = scene_from_index(index)
        for small, large in zip(placed.bodies(40, 64), placed.bodies(160, 256), strict=True):
            np.testing.assert_allclose(4 * small.path(KEYFRAME_TIMES), large.path(KEYFRAME_TIMES), rtol=1e-12)


def test_same_seed_same_place_other_seed_other_place() -> None:
    scene = parse_sentence("a red circle grows and a blue square moves up")
    assert place(scene, 5) == place(scene, 5)
    assert place(scene, 5).spots != place(scene, 6).spots


@pytest.mark.parametrize(("pairs", "expected"), [(0.0, 0.0), (0.35, 0.35), (0.7, 0.7), (1.0, 1.0)])
def test_so_many_scenes_have_two_things(pairs: float, expected: float) -> None:
    twos = [len(scene_from_index(index, pairs=pairs).scene.things) == 2 for index in range(1000)]
    assert np.mean(twos) == pytest.approx(expected, abs=0.05)
    usual = [len(scene_from_index(index).scene.things) == 2 for index in range(1000)]
    assert pairs < 0.35 or all(two or not before for two, before in zip(twos, usual, strict=True))


def test_things_of_one_colour_have_different_shapes_and_other_scenes_do_not_change() -> None:
    shares = {
        share: [scene_from_index(index, pairs=1.0, same_color=share) for index in range(600)] for share in (0, 0.4)
    }
    alike = [placed for placed in shares[0.4] if len({thing.color for thing in placed.scene.things}) == 1]
    assert len(alike) / 600 == pytest.approx(0.4, abs=0.05)
    assert all(len({thing.shape for thing in placed.scene.things}) == 2 for placed in alike)
    assert not any(is_held_out(thing) for placed in alike for thing in placed.scene.things)
    assert {placed.scene.things[1].motion for placed in alike} == set(MOTIONS)
    for usual, placed in zip(shares[0], shares[0.4], strict=True):
        assert placed in alike or placed == usual


@given(scenes, seeds, st.floats(0, 1))
def test_a_smaller_spread_draws_the_same_places_nearer_to_the_middle(scene: Scene, seed: int, spread: float) -> None:
    wide, near = place(scene, seed), place(scene, seed, spread)
    middle = place(scene, 0, 0.0)
    assert set(middle.spots) == {(0.5, 0.5, 0.5)}
    assert (middle.share, middle.swapped) == (0.5, False)
    expected = 0.5 + spread * (np.array([wide.share, *np.ravel(wide.spots)]) - 0.5)
    np.testing.assert_allclose([near.share, *np.ravel(near.spots)], expected, atol=1e-12)


# Rendered frames


def test_the_centre_of_every_thing_has_its_colour_and_the_corner_the_background() -> None:
    for index in range(60):
        placed = scene_from_index(index, held_out=None)
        video = render(placed, KEYFRAME_TIMES, 40, 64)
        assert video.dtype == np.uint8
        assert video.shape == (8, 40, 64, 3)
        assert (video[:, 0, 0] == BACKGROUNDS[placed.scene.background]).all()
        for body in placed.bodies(40, 64):
            for frame, (x, y, _) in zip(video, body.path(KEYFRAME_TIMES), strict=True):
                np.testing.assert_array_equal(frame[int(y), int(x)], COLORS[body.thing.color])


@pytest.mark.parametrize(("height", "width", "tolerance"), [(10, 16, 0.15), (40, 64, 0.05), (160, 256, 0.03)])
def test_measured_paths_are_those_of_the_bodies(height: int, width: int, tolerance: float) -> None:
    """Tolerances in pixels: colours are rounded to 8 bits."""
    for index in range(40):
        placed = scene_from_index(index, held_out=None)
        covered = measured_coverage(placed, render(placed, KEYFRAME_TIMES, height, width))
        for body, share in zip(placed.bodies(height, width), covered, strict=True):
            np.testing.assert_allclose(measured_path(share), body.path(KEYFRAME_TIMES), atol=tolerance)


def test_moving_things_are_seen_to_move_steadily() -> None:
    """In every step of 1/8 s at 64x40: at least 0.4 of the 0.5 pixels of the slowest thing, in one direction."""
    times = np.arange(29) / 8
    for index in range(80):
        placed = scene_from_index(index, held_out=None)
        covered = measured_coverage(placed, render(placed, times, 40, 64))
        for thing, share in zip(placed.scene.things, covered, strict=True):
            steps = np.diff(measured_path(share), axis=0)
            for values, direction, least in zip(steps.T, DIRECTIONS[thing.motion], (0.4, 0.4, 0.05), strict=True):
                assert (direction * values > least).all() if direction else (abs(values) < 0.05).all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_large_frame_averaged_down_is_the_small_one(fill: str) -> None:
    """All pixels are rounded to 8 bits, so they differ by one level at most."""
    for index in range(100 if fill == "plain" else 20):
        placed = scene_from_index(index, held_out=None)
        small = render(placed, [0.3, 1.7, 3.1], 40, 64, fill)
        large = render(placed, [0.3, 1.7, 3.1], 160, 256, fill)
        averaged = large.reshape(3, 40, 4, 64, 4, 3).mean(axis=(2, 4))
        assert abs(averaged - small).max() <= 1


def inside(shape: str, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return which points are inside a shape of radius 1, by its inequalities."""
    (half, _), (above, below) = EXTENTS[shape]
    answers = {
        "circle": across**2 + down**2 <= 1,
        "square": np.maximum(abs(across), abs(down)) <= half,
        "triangle": (down <= below) & (abs(across) <= half * (down + above) / (above + below)),
    }
    return answers[shape]


def filled(fill: str, shape: str, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return which points of a shape of radius 1 a fill covers."""
    nearest_edge = {"circle": 1.0, "square": np.pi**0.5 / 2, "triangle": EXTENTS["triangle"][1][1]}[shape]
    hole = 1 - OUTLINE_WIDTH / nearest_edge
    column, row = np.rint(across / CELL_WIDTH), np.rint(down / CELL_WIDTH)
    patterns = {
        "plain": True,
        "outline": ~inside(shape, across / hole, down / hole),
        "stripes": np.rint(down / STRIPE_WIDTH) % 2 == 0,
        "checkerboard": (column + row) % 2 == 0,
    }
    return inside(shape, across, down) & patterns[fill]


@pytest.mark.parametrize(("fill", "shape"), list(product(FILLS, SHAPES)))
def test_every_pixel_is_covered_as_much_as_the_points_in_it(fill: str, shape: str) -> None:
    """Compared with the number of 64 x 64 points of every pixel that are filled."""
    placed = place(parse_sentence(f"a large white {shape} stays still"), 1)
    x, y, radius = placed.bodies(20, 32)[0].path([0.0])[0]
    points = (np.arange(64 * 32) + 0.5) / 64
    across, down = (points - x) / radius, (points[: 64 * 20, None] - y) / radius
    counted = filled(fill, shape, across, down).reshape(20, 64, 32, 64).mean(axis=(1, 3))
    frame = render(placed, [0.0], 20, 32, fill)[0, ..., 0]
    np.testing.assert_allclose(frame, 255 * counted, atol=0.5 + 255 * 3 / 64)  # up to three edges cross a pixel
    if fill == "plain":
        np.testing.assert_allclose(frame, 255 * counted, atol=0.5 + 255 / 64)
        assert frame.sum() / 255 == pytest.approx(np.pi * radius**2, abs=0.03)


@pytest.mark.parametrize("fill", FILLS[1:])
def test_a_pattern_moves_and_grows_with_its_shape(fill: str) -> None:
    """The shape looks the same after a move by whole pixels, and at twice the size, averaged down."""
    path = np.array([[30.2, 20.7, 9.5], [39.2, 24.7, 9.5], [60.4, 41.4, 19.0]])
    first, moved, grown = (painted("circle", one, fill) for one in path)
    np.testing.assert_allclose(first[:60, :90], moved[4:64, 9:99], atol=1e-6)
    np.testing.assert_allclose(grown.reshape(50, 2, 75, 2).mean(axis=(1, 3)), first[:50, :75], atol=1e-6)


def painted(shape: str, body: np.ndarray, fill: str) -> np.ndarray:
    """Return the share of every pixel of a frame of 150x100 that a shape covers."""
    canvas = np.zeros((100, 150), np.float32)
    (top,), (left,), (covered,) = coverage(shape, body[None], 100, 150, fill)
    canvas[top : top + covered.shape[0], left : left + covered.shape[1]] = covered
    return canvas


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_round_square_and_equilateral_and_have_one_area(shape: str) -> None:
    (left, right), (above, below) = EXTENTS[shape]
    aspect, filled = {"circle": (1, np.pi / 4), "square": (1, 1), "triangle": (3**0.5 / 2, 1 / 2)}[shape]
    assert (above + below) / (left + right) == pytest.approx(aspect)
    assert filled * (above + below) * (left + right) == pytest.approx(np.pi)


def test_keyframes_are_every_fourth_frame() -> None:
    world = SyntheticWorld(20, seed=3)
    for index in range(20):
        frames = world.clip(index, 29, 8, 20, 32, 0.0)
        np.testing.assert_array_equal(frames[::4], world.clip(index, 8, 2, 20, 32, 0.0))
        np.testing.assert_array_equal(frames[12:17], world.clip(index, 5, 8, 20, 32, 1.5))


def test_nothing_happens_before_and_after_the_scene() -> None:
    placed = scene_from_index(1)
    early, first, last, late = render(placed, [-1.0, 0.0, DURATION, 5.0], 20, 32)
    np.testing.assert_array_equal(early, first)
    np.testing.assert_array_equal(last, late)


@pytest.mark.parametrize(("num_frames", "height", "width"), [(0, 20, 32), (1, 1, 1), (2, 1, 9), (2, 9, 1)])
def test_any_number_and_size_of_frames(num_frames: int, height: int, width: int) -> None:
    assert SyntheticWorld(1, 0).clip(0, num_frames, 8, height, width, 0.0).shape == (num_frames, height, width, 3)


def test_all_colours_are_far_apart() -> None:
    """Distances of each colour to the others and to the backgrounds, in levels of 8 bits."""
    for one, other in combinations([*COLORS.values(), *BACKGROUNDS.values()], 2):
        assert np.linalg.norm(np.subtract(one, other)) > 100


# The scenes of the world
@given(seeds, seeds)
def test_any_index_of_any_world_has_a_scene(index: int, seed: int) -> None:
    scene = scene_from_index(index, seed).scene
    assert parse_sentence(scene.sentence()) == scene


def test_the_world_stays_as_it_is() -> None:
    """Weights and recorded numbers depend on it: an index gives the same scene on every machine, in every version."""
    for index, (sentence, path) in RECORDED.items():
        placed = scene_from_index(index, seed=7)
        assert placed.scene.sentence() == sentence
        np.testing.assert_allclose(placed.bodies(100, 160)[0].path([0.0, DURATION]).ravel(), path, atol=1e-3)


def test_scenes_are_mixed_as_stated() -> None:
    """Shares of 4000 scenes, within four standard deviations."""
    drawn = [scene_from_index(index).scene for index in range(4000)]
    sizes = [thing.size for scene in drawn for thing in scene.things]
    assert np.mean([len(scene.things) == 2 for scene in drawn]) == pytest.approx(0.35, abs=0.03)
    assert np.mean([scene.background == "black" for scene in drawn]) == pytest.approx(0.5, abs=0.032)
    assert np.mean([size == "" for size in sizes]) == pytest.approx(0.5, abs=0.028)
    assert all(len({thing.color for thing in scene.things}) == len(scene.things) for scene in drawn)


def test_worlds_of_other_seeds_have_other_scenes() -> None:
    assert sum(scene_from_index(i, seed=1) == scene_from_index(i, seed=2) for i in range(100)) == 0


def test_training_sees_every_thing_but_the_held_out_ones() -> None:
    seen = {triple(thing) for index in range(4000) for thing in scene_from_index(index).scene.things}
    assert seen == {one for one in product(COLORS, SHAPES, MOTIONS) if not is_held_out(Thing(*one))}


def test_at_least_15_percent_are_held_out_and_every_pair_is_trained() -> None:
    triples = set(product(COLORS, SHAPES, MOTIONS))
    trained = {one for one in triples if not is_held_out(Thing(*one))}
    assert len(trained) <= 0.85 * len(triples)
    for a, b in combinations(range(3), 2):
        assert {(one[a], one[b]) for one in trained} == {(one[a], one[b]) for one in triples}


def test_held_out_scenes_begin_with_a_held_out_thing() -> None:
    firsts = [scene_from_index(index, held_out=True).scene.things[0] for index in range(500)]
    assert all(map(is_held_out, firsts))
    assert len(set(map(triple, firsts))) == 21


def test_scenes_of_anything_have_held_out_things_by_their_share() -> None:
    """A sixth, within four standard deviations of 1000 draws."""
    held = [is_held_out(scene_from_index(index, held_out=None).scene.things[0]) for index in range(1000)]
    assert np.mean(held) == pytest.approx(1 / 6, abs=0.048)


@pytest.mark.parametrize("num_things", [1, 2])
def test_the_number_of_things_can_be_asked_for(num_things: int) -> None:
    assert all(len(scene_from_index(i, num_things=num_things).scene.things) == num_things for i in range(50))


def test_a_world_is_a_window_of_indices() -> None:
    world = SyntheticWorld(5, seed=2, first=100)
    assert len(world) == 5
    assert [world.caption(i) for i in range(5)] == [scene_from_index(100 + i, 2).scene.sentence() for i in range(5)]
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"scene {index} of 5"):
            world.caption(index)
