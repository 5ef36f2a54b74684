"""The frames that the cascade's windows cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.stages import superres_starts
from show1_jax.config.sampling import CascadeConfig, InterpolationConfig, KeyframesConfig


@pytest.mark.parametrize(("keyframes", "frames"), [(1, 1), (4, 13), (8, 29), (16, 61)])
def test_three_frames_come_between_two_keyframes(keyframes: int, frames: int) -> None:
    config = CascadeConfig(KeyframesConfig(num_frames=keyframes), InterpolationConfig(num_between=3))
    assert config.num_frames == frames


def test_released_windows_share_one_frame() -> None:
    assert superres_starts(29, window=8, stride=7) == [0, 7, 14, 21]


def test_the_last_window_of_61_frames_moves_back_to_end_on_the_last() -> None:
    assert superres_starts(61, window=8, stride=7) == [0, 7, 14, 21, 28, 35, 42, 49, 53]


@given(frames=st.integers(1, 200), window=st.integers(2, 20), data=st.data())
def test_windows_cover_every_frame_and_each_begins_on_a_finished_one(
    frames: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 1))
    starts = superres_starts(frames, window, stride)
    covered: set[int] = set()
    for start in starts:
        assert start == 0 or start in covered
        inside = set(range(start, min(start + window, frames)))
        assert inside - covered
        covered |= inside
    assert covered == set(range(frames))
    assert starts[:-1] == list(range(0, frames, stride))[: len(starts) - 1]
    assert frames <= window or starts[-1] + window == frames
