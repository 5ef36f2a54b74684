"""Tests of the measurement: the world's true videos pass, and a single wrong attribute never does."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from show1_jax.data.synthetic.world import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    SIZES,
    PlacedScene,
    Scene,
    Thing,
    parse_sentence,
    place,
    render,
    scene_from_index,
)
from show1_jax.evaluation.demo_world.measure import (
    MONOTONE_TOLERANCE,
    TRUE_GROWTH,
    FoundThing,
    Verdict,
    judge,
    measure,
)

HEIGHT, WIDTH = 80, 144
TIMES = np.arange(29) / 8
WORLD = 11
ATTRIBUTES = ("count", "color", "shape", "motion", "size", "background")
OTHERS: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": ("circle", "square", "triangle"),
    "motion": tuple(MOTIONS),
    "size": tuple(SIZES),
}


def drawn(placed: PlacedScene, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return render(placed, TIMES, height, width)


def scenes(count: int, num_things: int | None = None) -> list[PlacedScene]:
    """Return scenes that repeat: one thing, one held-out thing, two things."""
    kinds = ((None, 1), (True, 1), (None, 2))
    chosen = (kinds[index % 3] for index in range(count))
    return [
        scene_from_index(index, WORLD, held_out=held_out, num_things=num_things or own)
        for index, (held_out, own) in enumerate(chosen)
    ]


def wrong(verdict: Verdict) -> set[str]:
    return {name for name in ATTRIBUTES if not getattr(verdict, name)}


def show(sentence: str, seed: int = 0) -> tuple[np.ndarray, Scene]:
    scene = parse_sentence(sentence)
    return drawn(place(scene, seed)), scene


def only_thing(video: np.ndarray) -> FoundThing:
    measured = measure(video)
    assert (len(measured.things), measured.num_fleeting) == (1, 0)
    return measured.things[0]


def disturbed(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a 3x3 blur, a colour shift of up to 25 levels per channel, and noise of 5 levels."""
    blurred = ndimage.uniform_filter(video.astype(np.float32), (0, 3, 3, 0), mode="nearest")
    return (blurred + rng.uniform(-25, 25, 3) + rng.normal(0, 5, video.shape)).round().clip(0, 255).astype(np.uint8)


# The world's own pictures


def test_true_pictures_pass() -> None:
    verdicts = [judge(measure(drawn(placed)), placed.scene) for placed in scenes(300)]
    assert sum(verdict.core for verdict in verdicts) >= 297
    assert sum(verdict.all for verdict in verdicts) >= 297
    assert sum(verdict.is_monotone is False for verdict in verdicts) <= 3


def test_disturbed_pictures_pass() -> None:
    rng = np.random.default_rng(0)
    verdicts = [judge(measure(disturbed(drawn(placed), rng)), placed.scene) for placed in scenes(100)]
    assert sum(verdict.all for verdict in verdicts) >= 99
    assert sum(verdict.is_monotone is False for verdict in verdicts) <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 64), (160, 256)])
def test_pictures_of_other_sizes_pass(height: int, width: int) -> None:
    assert all(judge(measure(drawn(placed, height, width)), placed.scene).all for placed in scenes(12))


def test_paths_are_the_true_ones() -> None:
    for placed in scenes(30, num_things=1):
        (body,) = placed.bodies(HEIGHT, WIDTH)
        np.testing.assert_allclose(only_thing(drawn(placed)).path, body.path(TIMES), atol=0.05)


# One attribute wrong


def altered(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """Return the scene with one attribute of one thing, or the background, changed; two colours stay different."""
    if attribute == "background":
        return replace(scene, background=str(rng.choice([name for name in BACKGROUNDS if name != scene.background])))
    number = int(rng.integers(len(scene.things)))
    taken = {getattr(scene.things[number], attribute)}
    if attribute == "color":
        taken |= {thing.color for thing in scene.things}
    choice = str(rng.choice([name for name in OTHERS[attribute] if name not in taken]))
    things = list(scene.things)
    things[number] = replace(things[number], **{attribute: choice})
    return replace(scene, things=tuple(things))


@pytest.mark.parametrize("attribute", ["color", "shape", "size", "motion", "background"])
def test_one_wrong_attribute_is_noticed_and_no_other_is_blamed(attribute: str) -> None:
    rng = np.random.default_rng(0)
    asked = [placed.scene for placed in scenes(100)]
    shown = [place(altered(scene, attribute, rng), seed) for seed, scene in enumerate(asked)]
    verdicts = [judge(measure(drawn(placed)), scene) for placed, scene in zip(shown, asked, strict=True)]
    assert sum(verdict.all for verdict in verdicts) <= 1
    assert sum(wrong(verdict) == {attribute} for verdict in verdicts) >= 99
    assert all(verdict.core for verdict in verdicts) == (attribute in ("size", "background"))


def test_a_thing_too_few_or_too_many_is_noticed() -> None:
    for placed in scenes(100, num_things=2):
        both = placed.scene
        first = replace(both, things=both.things[:1])
        assert not judge(measure(drawn(place(first, 1))), both).core
        assert wrong(judge(measure(drawn(placed)), first)) == {"count"}


def test_swapped_attributes_are_noticed() -> None:
    video, _ = show("a red circle moves left and a blue square stays still")
    measured = measure(video)
    assert wrong(judge(measured, parse_sentence("a blue circle moves left and a red square stays still"))) == {"color"}
    assert wrong(judge(measured, parse_sentence("a red square moves left and a blue circle stays still"))) == {"shape"}
    assert judge(measured, parse_sentence("a blue square stays still and a red circle moves left")).all


# Videos that no sentence describes


def painted(*boxes: tuple[slice, slice], color: tuple[int, int, int] = COLORS["red"]) -> np.ndarray:
    """Return a frame with boxes of rows and columns."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for rows, columns in boxes:
        frame[rows, columns] = color
    return frame


def still(*boxes: tuple[slice, slice], color: tuple[int, int, int] = COLORS["red"]) -> np.ndarray:
    return np.stack([painted(*boxes, color=color)] * 29)


BOX = (slice(30, 48), slice(60, 78))


def test_a_bar_and_a_frame_have_no_shape() -> None:
    assert only_thing(still((slice(40, 48), slice(40, 80)))).shape is None
    hollow = still(BOX)
    hollow[:, 34:44, 64:74] = 0
    assert only_thing(hollow).shape is None
    assert only_thing(still(BOX)).shape == "square"


def test_a_color_between_two_has_no_name() -> None:
    assert only_thing(still(BOX, color=(140, 125, 30))).color is None
    assert only_thing(still(BOX, color=(205, 50, 50))).color == "red"


def test_a_color_that_changes_has_no_name() -> None:
    video = still(BOX)
    video[20:] = painted(BOX, color=COLORS["blue"])
    thing = only_thing(video)
    assert (thing.color, thing.shape, thing.motion) == (None, "square", "stays still")


def test_a_thing_of_two_colors_has_no_shape() -> None:
    video = still(BOX)
    video[:, 30:38, 60:78] = COLORS["blue"]
    assert only_thing(video).shape is None


def test_a_background_of_another_color_has_no_name() -> None:
    assert measure(np.full((29, HEIGHT, WIDTH, 3), (60, 140, 60), np.uint8)).background is None


@pytest.mark.parametrize("radius", [0.055, 0.28])
def test_a_thing_of_another_size_has_no_name(radius: float) -> None:
    half = round(radius * HEIGHT * np.sqrt(np.pi) / 2)
    thing = only_thing(still((slice(40 - half, 40 + half), slice(60 - half, 60 + half))))
    assert (thing.shape, thing.size) == ("square", None)


def moving(left: np.ndarray, top: np.ndarray, side: np.ndarray) -> np.ndarray:
    return np.stack([painted((slice(y, y + n), slice(x, x + n))) for x, y, n in zip(left, top, side, strict=True)])


def test_several_motions_at_once_have_no_name() -> None:
    ramp, same = np.arange(29), np.full(29, 18)
    assert only_thing(moving(20 + 2 * ramp, 20 + ramp, same)).motion is None
    assert only_thing(moving(20 + 2 * ramp, same, 12 + ramp // 2)).motion is None
    assert only_thing(moving(20 + 2 * ramp, same, same)).motion == "moves right"


def test_a_motion_that_is_undone_has_no_name() -> None:
    there_and_back = np.minimum(np.arange(29), 28 - np.arange(29))
    assert only_thing(moving(20 + 2 * there_and_back, np.full(29, 30), np.full(29, 18))).motion is None
    assert only_thing(moving(np.full(29, 30), np.full(29, 30), 12 + there_and_back)).motion is None


def test_things_that_flash_or_vanish_are_counted() -> None:
    video, scene = show("a small red circle moves right")
    flash = video.copy()
    flash[7, 2:8, 2:8] = 255
    assert wrong(judge(measure(flash), scene)) == {"count"}
    gone = video.copy()
    gone[14] = 0
    assert not judge(measure(gone), scene).core


def test_specks_are_ignored() -> None:
    video, scene = show("a small red circle moves right")
    video[:, 2:5, 2:5] = 255
    video[9, 70:73, 130:133] = 200
    assert judge(measure(video), scene).all


# Paths and noise


def test_paths_that_go_back_or_jump_are_not_monotone() -> None:
    order = np.arange(29)
    order[[14, 15]] = 15, 14
    shuffled = np.random.default_rng(0).permutation(29)
    for seed, motion in enumerate(name for name, motion in MOTIONS.items() if (motion.x, motion.y) != (0, 0)):
        video, scene = show(f"a large red triangle {motion}", seed)
        assert judge(measure(video), scene).is_monotone is True
        back = judge(measure(video[order]), scene)
        assert back.all
        assert back.is_monotone is False
        assert judge(measure(video[shuffled]), scene).is_monotone is False


def test_a_path_may_wait_and_go_back_by_less_than_the_tolerance() -> None:
    placed = place(Scene((Thing("red", "circle", "moves right"),)), 0)
    (body,) = placed.bodies(HEIGHT, WIDTH)
    speed = (body.end[0] - body.start[0]) / 3.5
    for share, is_monotone in ((0.0, True), (0.7, True), (1.4, False)):
        times = TIMES.copy()
        times[15] = times[14] - share * MONOTONE_TOLERANCE * HEIGHT / speed
        assert only_thing(render(placed, times, HEIGHT, WIDTH)).is_monotone is is_monotone


def test_only_travelling_things_have_monotone_paths() -> None:
    video, scene = show("a red circle grows and a blue square shrinks")
    assert judge(measure(video), scene).is_monotone is None
    assert judge(measure(video), parse_sentence("a red circle moves up and a blue square shrinks")).is_monotone is False


@pytest.mark.parametrize("motion", ["grows", "shrinks"])
def test_the_measured_amount_of_growth_is_the_true_one(motion: str) -> None:
    placed = place(parse_sentence(f"a large blue circle {motion} and a red square moves left"), 3)
    for share in (1.0, 0.5):
        (growth,) = judge(measure(render(placed, TIMES * share, HEIGHT, WIDTH)), placed.scene).growths
        (body, _) = placed.bodies(HEIGHT, WIDTH)
        first, last = body.path([0, 3.5 * share])[:, 2]
        true = last / first if motion == "grows" else first / last
        assert growth == pytest.approx(true, rel=0.02)
        assert share < 1 or true == pytest.approx(TRUE_GROWTH)


def test_growth_in_the_wrong_direction_is_below_one_and_a_missing_thing_has_none() -> None:
    video, _ = show("a large red circle shrinks")
    assert judge(measure(video), parse_sentence("a large red circle grows")).growths == pytest.approx((0.5,), rel=0.02)
    assert judge(measure(np.zeros_like(video)), parse_sentence("a red circle grows")).growths == ()


@pytest.mark.parametrize("std", [2.0, 4.0, 8.0])
def test_measured_noise_is_the_noise_added(std: float) -> None:
    video, _ = show("a red circle moves right and a white square moves left on a gray background")
    noise = np.random.default_rng(0).normal(0, std, video.shape)
    measured = measure((video + noise).round().clip(0, 255).astype(np.uint8)).background_noise
    assert measured == pytest.approx(std, rel=0.05)  # 29 frames underestimate it by 2.6 %
    assert measure(video).background_noise == 0


def test_noise_of_a_video_without_background_is_unknown() -> None:
    video = np.zeros((3, 8, 12, 3), np.uint8)
    video[:, 2:6, 2:10] = 255
    assert measure(video).background_noise is None


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 16), st.just(3))),
    st.integers(0, 100),
)
def test_any_video_is_measured_and_judged(video: np.ndarray, index: int) -> None:
    measured = measure(video)
    assert all(np.isfinite(thing.path).all() for thing in measured.things)
    verdict = judge(measured, scene_from_index(index).scene)
    assert set(asdict(verdict)) == {*ATTRIBUTES, "is_monotone", "growths"}
