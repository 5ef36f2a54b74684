"""The share of a job that is done, and the time that is left."""

from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.spec import CascadeSpec
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.web.estimate import Meter, Pace, StageWork, stage_work
from tests.helpers.web_pages import manifest_of, settings

WORKS: dict[Stage, StageWork] = {"keyframes": StageWork(10, 1.0), "interpolation": StageWork(5, 6.0)}


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(meter: Meter, clock: Clock, video: str, stage: Stage, step_seconds: float) -> None:
    for step in range(1, WORKS[stage].steps + 1):
        clock.now += step_seconds
        meter.step([video], stage, step, WORKS[stage].steps)
    meter.finish([video], stage)


def test_the_share_is_that_of_the_work() -> None:
    clock = Clock()
    meter = Meter(WORKS, 2, Pace(), clock)
    assert meter.share() == 0
    assert meter.seconds_left() is None
    run(meter, clock, "a", "keyframes", 1.0)
    assert meter.share() == pytest.approx(10 / 80)
    run(meter, clock, "a", "interpolation", 1.0)
    assert meter.share() == pytest.approx(0.5)


def test_the_time_that_is_left_comes_from_this_job_and_from_earlier_ones() -> None:
    pace, clock = Pace(), Clock()
    first = Meter(WORKS, 1, pace, clock)
    clock.now = 100  # compiling before the first step is not measured
    run(first, clock, "a", "keyframes", 2.0)
    assert first.seconds_left() == pytest.approx(20 * 3)  # three times the work of the measured stage
    run(first, clock, "a", "interpolation", 3.0)
    assert first.seconds_left() == 0
    second = Meter(WORKS, 3, pace, clock)
    assert second.seconds_left() == pytest.approx(3 * (20 + 15))
    run(second, clock, "a", "keyframes", 4.0)  # slower now: the mean of both, and this job's own speed while it runs
    assert pace.seconds("keyframes", WORKS["keyframes"]) == pytest.approx(30)
    second.step(["a"], "interpolation", 1, 5)
    clock.now += 10
    second.step(["a"], "interpolation", 2, 5)
    assert second.seconds_left() == pytest.approx(2 * 30 + (3 - 0.4) * 50)


def test_videos_of_a_batch_share_its_time() -> None:
    pace, clock = Pace(), Clock()
    meter = Meter(WORKS, 2, pace, clock)
    for step in range(1, 11):
        clock.now += 1
        meter.step(["a", "b"], "keyframes", step, 10)
    meter.finish(["a", "b"], "keyframes")
    assert pace.seconds("keyframes", WORKS["keyframes"]) == pytest.approx(5)
    assert meter.share() == pytest.approx(20 / 80)


def test_finished_videos_and_stages_without_networks_count() -> None:
    meter = Meter(WORKS, 2, Pace(), Clock())
    for stage in ("keyframes", "interpolation", "first_frame"):
        meter.finish(["a"], stage)
    assert meter.share() == pytest.approx(0.5)


@given(st.lists(st.tuples(st.sampled_from(["step", "finish"]), st.sampled_from("ab"), st.floats(0, 5)), max_size=30))
def test_the_share_never_falls_and_the_time_is_never_negative(calls: list[tuple[str, str, float]]) -> None:
    pace, clock = Pace(), Clock()
    pace.add("keyframes", WORKS["keyframes"], 3.0)
    meter, before, steps = Meter(WORKS, 2, pace, clock), 0.0, {"a": 0, "b": 0}
    for kind, video, seconds in calls:
        clock.now += seconds
        if kind == "step" and steps[video] < 10:
            steps[video] += 1
            meter.step([video], "keyframes", steps[video], 10)
        elif kind == "finish":
            steps[video] = 10
            meter.finish([video], "keyframes")
        assert before <= meter.share() <= 1
        before = meter.share()
        assert (meter.seconds_left() or 0) >= 0


def test_work_grows_with_steps_guidance_and_windows(tmp_path: Path) -> None:
    def work(*overrides: str) -> dict[Stage, StageWork]:
        config = settings(tmp_path, *overrides)
        return stage_work(CascadeSpec.of(config, manifest_of(config), jax.devices()[:1]), STAGES)

    plain = work()
    assert set(plain) == set(STAGES)
    assert all(one.steps == 2 and one.operations > 0 for one in plain.values())
    assert work("--config.keyframes.num_steps=6")["keyframes"].steps == 6
    guided = work("--config.superres_pixel.guidance_scale=2.0")["superres_pixel"]
    assert guided.operations == 2 * plain["superres_pixel"].operations
    windows = work("--config.superres_pixel.window=3", "--config.superres_pixel.stride=2")["superres_pixel"]
    assert windows.operations > plain["superres_pixel"].operations
