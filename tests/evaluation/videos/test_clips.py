"""The rule of clips: which frames of which videos, by number and by time."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.evaluation.videos.clips import ClipRule, Position, read_clips, resample
from show1_jax.evaluation.videos.sources import EncodedFrames
from show1_jax.files import open_regular
from show1_jax.media.errors import VideoError
from show1_jax.media.timeline import Timeline
from tests.helpers.media_files import encode, number_of, numbered, remux


class Numbers:
    """A video whose frames have their number as their value; `decoded` notes the last frame that was needed."""

    def __init__(self, count: int, timed: bool = True, fps: float = 10):
        self.count, self.timed, self.fps, self.decoded = count, timed, fps, -1

    def rate(self) -> Fraction | None:
        return Fraction(self.fps)

    def timeline(self) -> Timeline:
        self.decoded = self.count - 1
        return Timeline([index / self.fps for index in range(self.count)], self.count / self.fps)

    def has_times(self) -> bool:
        return self.timed

    def frames(self, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        for index in chosen:
            if index >= self.count:
                raise VideoError(f"it has {self.count} frames, and {chosen[-1] + 1} are needed")
            self.decoded = max(self.decoded, index)
            yield np.full((2, 2, 3), index, np.uint8)


def numbers(video: Numbers, rule: ClipRule, name: str = "a") -> list[list[int]]:
    return [[int(frame[0, 0, 0]) for frame in clip] for clip in read_clips(video, rule, name)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ClipRule(4), [[0, 1, 2, 3]]),
        (ClipRule(4, stride=3), [[0, 3, 6, 9]]),
        (ClipRule(4, position="center"), [[8, 9, 10, 11]]),
        (ClipRule(3, stride=2, position="center"), [[7, 9, 11]]),
        (ClipRule(4, position="center", per_video=2), [[4, 5, 6, 7], [12, 13, 14, 15]]),
        (ClipRule(None, stride=5), [[0, 5, 10, 15]]),
        (ClipRule(None), [list(range(20))]),
        (ClipRule(20), [list(range(20))]),
        (ClipRule(4, fps=5), [[0, 2, 4, 6]]),
        (ClipRule(4, fps=10), [[0, 1, 2, 3]]),
        (ClipRule(4, fps=20), [[0, 0, 1, 1]]),
        (ClipRule(None, fps=4), [[0, 2, 5, 7, 10, 12, 15, 17]]),
        (ClipRule(4, fps=4, position="center"), [[5, 7, 10, 12]]),
    ],
)
def test_frames_of_clips(rule: ClipRule, expected: list[list[int]]) -> None:
    assert numbers(Numbers(20), rule) == expected


def test_the_first_clip_needs_no_frame_after_its_last() -> None:
    video = Numbers(200)
    numbers(video, ClipRule(4, stride=2))
    assert video.decoded == 6


@settings(max_examples=80)
@given(
    count=st.integers(1, 60),
    num_frames=st.integers(1, 8),
    stride=st.integers(1, 4),
    position=st.sampled_from(["first", "center", "random"]),
    seed=st.integers(0, 9),
    name=st.text(max_size=80),
)
def test_a_clip_has_consecutive_frames_of_the_video_or_it_is_too_short(
    count: int, num_frames: int, stride: int, position: Position, seed: int, name: str
) -> None:
    several = 1 if position == "first" else 3
    rule = ClipRule(num_frames, stride, position=position, per_video=several, seed=seed)
    if count < rule.span:
        with pytest.raises(VideoError, match="frames"):
            numbers(Numbers(count), rule, name)
        return
    clips = numbers(Numbers(count), rule, name)
    assert clips == numbers(Numbers(count), rule, name)
    assert len(clips) == several
    for clip in clips:
        assert clip == list(range(clip[0], clip[0] + rule.span, stride))
        assert clip[-1] < count


def test_random_clips_differ_by_seed_and_by_video_and_reach_both_ends() -> None:
    starts = {
        (seed, name): numbers(Numbers(7), ClipRule(4, position="random", seed=seed), name)[0][0]
        for seed in range(12)
        for name in "ab"
    }
    assert set(starts.values()) == {0, 1, 2, 3}
    assert any(starts[seed, "a"] != starts[seed, "b"] for seed in range(12))


@pytest.mark.parametrize(
    ("video", "rule", "reason"),
    [
        (Numbers(10), ClipRule(16), "it has 10 frames, and 16 are needed"),
        (Numbers(10), ClipRule(4, stride=4), "it has 10 frames, and 13 are needed"),
        (Numbers(10), ClipRule(16, position="center"), "it has 10 frames, and a clip needs 16"),
        (Numbers(10), ClipRule(8, fps=5), "it has 5 frames at 5 frames a second, and a clip needs 8"),
        (Numbers(10), ClipRule(None, stride=9, least=3), "it has 2 frames, and 3 are needed"),
        (Numbers(10, timed=False), ClipRule(4, fps=5), "its frames have no times, so --fps cannot resample it"),
    ],
)
def test_videos_that_are_too_short_say_so(video: Numbers, rule: ClipRule, reason: str) -> None:
    with pytest.raises(VideoError) as error:
        numbers(video, rule)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    "settings",
    [{"fps": 8.0, "stride": 2}, {"per_video": 2}, {"num_frames": None, "per_video": 2, "position": "random"}],
)
def test_rules_that_contradict_themselves_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError):
        ClipRule(**{"num_frames": 4, **settings})  # type: ignore[arg-type]


def test_only_settings_with_an_effect_are_recorded() -> None:
    assert "seed" not in ClipRule(4).settings()
    assert ClipRule(4, position="random", seed=3).settings()["seed"] == 3
    assert ClipRule(None, position="center", seed=3).settings() == ClipRule(None).settings()


@pytest.mark.parametrize("fps", [24, 23.976, 30])
def test_the_own_rate_of_a_video_gives_all_of_its_frames(fps: float, tmp_path: Path) -> None:
    """Also in Matroska, whose times are rounded to milliseconds."""
    rate = Fraction(fps).limit_denominator(1001)
    mp4 = encode(tmp_path / "a.mp4", numbered(20), times=[float(index / rate) for index in range(20)])
    for path in (mp4, remux(mp4, tmp_path / "a.mkv")):
        source = EncodedFrames(lambda path=path: open_regular(path))  # type: ignore[misc]
        assert resample(source.timeline(), fps)[:20] == list(range(20)), path


def test_frames_of_a_real_video_are_the_chosen_ones(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(24), fps=8)
    source = EncodedFrames(lambda: open_regular(path))
    for rule, expected in (
        (ClipRule(5, stride=3), [0, 3, 6, 9, 12]),
        (ClipRule(4, fps=4), [0, 2, 4, 6]),
        (ClipRule(4, position="center"), [10, 11, 12, 13]),
    ):
        (clip,) = read_clips(source, rule, "a")
        assert [number_of(frame) for frame in clip] == expected
