"""The progress bar of all commands, in a log; the bar of a training run is tested with its metrics."""

import re

import pytest

from show1_jax import progress
from show1_jax.progress import Bar, say, track
from show1_jax.sampling.progress import StageBars


@pytest.fixture(autouse=True)
def every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print lines at once, not every half minute."""
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0.0)


def test_items_are_counted_as_they_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    items = track("abc", "reading", 3, unit=" videos")
    assert next(items) == "a"
    assert capsys.readouterr().err.splitlines()[0].startswith("reading:   0%|")
    assert list(items) == ["b", "c"]
    assert re.fullmatch(r"reading: 100%\|#+\| 3/3 \[.*videos?/s\]", capsys.readouterr().err.splitlines()[-1])


def test_a_stage_shows_that_it_waits_and_then_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    bars = StageBars(["first_frame", "interpolation"])
    for done in (2, 3, 4):
        bars.step("first_frame", done, 4)
    bars.finish("first_frame")
    bars.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "first frame: loading and compiling"
    assert re.fullmatch(r"first frame:  50%\|#+ +\| 2/4 \[00:00, \? left\]", lines[1])
    assert re.fullmatch(r"first frame: 100%\|#+\| 4/4 \[00:00, 00:00 left\]", lines[-2])
    assert lines[-1] == "interpolation: loading and compiling"
    assert set(bars.times[0]) == {"first_frame"}
    assert 0 <= bars.times[0]["first_frame"]["first_step"] <= bars.times[0]["first_frame"]["seconds"]


def test_a_stage_without_steps_has_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    bars = StageBars(["keyframes"], shown=False)
    bars.finish("keyframes")
    bars.close()
    assert bars.times[0]["keyframes"]["first_step"] == bars.times[0]["keyframes"]["seconds"]
    assert capsys.readouterr().err == ""


def test_batches_share_the_bar_of_a_stage_and_have_their_own_times(capsys: pytest.CaptureFixture[str]) -> None:
    bars = StageBars(["keyframes"], num_batches=2)
    for batch in (0, 1):
        for done in (1, 2):
            bars.step("keyframes", done, 2, batch)
        bars.finish("keyframes", batch)
    bars.close()
    assert re.search(r"keyframes: 100%\|#+\| 4/4", capsys.readouterr().err)
    assert all(0 <= times["keyframes"]["first_step"] <= times["keyframes"]["seconds"] for times in bars.times)


def test_speeds_are_of_the_steps_after_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("work", 4, waiting="compiling", rates={"frames/s": 10}) as bar:
        bar.update(2)
        bar.note("loss 1")
        assert "frames/s" not in capsys.readouterr().err
        bar.update()
        bar.note("loss 2")
    assert bar.done == 3
    assert re.search(r"3/4 \[00:00, 00:00 left, [\d.e+]+ frames/s, loss 2\]", capsys.readouterr().err.splitlines()[-1])


def test_a_short_bar_that_is_not_left_is_not_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 30)
    assert list(track("ab", "hash", 2, unit="B", leave=False)) == ["a", "b"]
    say("written")
    assert capsys.readouterr().err == "written\n"


def test_a_stage_whose_networks_do_not_run_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bars = StageBars(["keyframes", "first_frame"], sampled=["keyframes"])
    bars.finish("keyframes")
    assert "keyframes" in capsys.readouterr().err
    bars.finish("first_frame")
    assert capsys.readouterr().err == ""
    assert set(bars.times[0]) == {"keyframes", "first_frame"}
