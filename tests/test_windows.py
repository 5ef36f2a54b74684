"""Which frames the windows cover, and what the upsampling between stages computes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.resize import resize_bilinear
from show1_jax.sampling_config import CascadeConfig, InterpolationConfig, KeyframesConfig
from show1_jax.windows import superres_starts


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


def aligned(size: int, new_size: int) -> np.ndarray:
    """Where each new pixel lies among the old ones: the ends on the ends."""
    return np.linspace(0, size - 1, new_size) if new_size > 1 else np.zeros(1)


@settings(max_examples=8, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), new_height=st.integers(1, 25), new_width=st.integers(1, 25))
def test_bilinear_upsampling_aligns_corners(height: int, width: int, new_height: int, new_width: int) -> None:
    video = np.random.default_rng(0).standard_normal((1, 2, height, width, 3)).astype(np.float32)
    ours = np.asarray(resize_bilinear(jnp.asarray(video), new_height, new_width))
    rows, columns = aligned(height, new_height), aligned(width, new_width)
    expected = np.apply_along_axis(lambda line: np.interp(rows, np.arange(height), line), 2, video)
    expected = np.apply_along_axis(lambda line: np.interp(columns, np.arange(width), line), 3, expected)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
