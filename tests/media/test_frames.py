"""Conversion of frames between numbers and pictures, fitting to a size, and choice of evenly spaced frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.media.frames import fit, from_uint8, resize_uint8, sample_frames, square_uint8, to_uint8


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array[0], 0, -1))


def test_frames_of_the_recorded_run_are_equal(trace: dict[str, np.ndarray]) -> None:
    final = to_uint8(channels_last(trace["stage/sr2"]))
    np.testing.assert_array_equal(final, trace["stage/final_uint8"])


def test_the_resize_before_stage_4_is_equal_to_the_recorded_one(trace: dict[str, np.ndarray]) -> None:
    wanted = trace["stage/sr2_input_uint8"]
    frames = to_uint8(channels_last(trace["stage/sr1"]))
    np.testing.assert_array_equal(resize_uint8(frames, *wanted.shape[1:3]), wanted)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9))
def test_a_square_has_the_centre_alone(height: int, width: int, size: int) -> None:
    frames = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    centre = frames[:, top : top + side, left : left + side]
    others = frames ^ 255
    others[:, top : top + side, left : left + side] = centre
    np.testing.assert_array_equal(square_uint8(others, size), square_uint8(frames, size))
    np.testing.assert_array_equal(square_uint8(frames, side), centre)
    np.testing.assert_array_equal(square_uint8(frames, size), resize_uint8(centre, size, size))


def test_to_uint8_clips_and_truncates() -> None:
    values = np.array([-7, -1, -1 + 1.99 / 127.5, 0, 1 - 1e-3, 1, np.inf], np.float32)
    np.testing.assert_array_equal(to_uint8(values), np.array([0, 0, 1, 127, 254, 255, 255], np.uint8))


def test_to_uint8_refuses_nan() -> None:
    with pytest.raises(UserError, match="NaN"):
        to_uint8(np.array([0, np.nan], np.float32))


def test_from_uint8_spans_minus_one_to_one_in_float32() -> None:
    every = np.arange(256, dtype=np.uint8)
    values = from_uint8(every)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, every.astype(np.float32) / np.float32(127.5) - 1)
    assert np.abs(to_uint8(values).astype(int) - every).max() <= 1  # truncation may lose one level


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30)
def test_fit_gives_the_size_and_stays_in_range(height: int, width: int, new_height: int, new_width: int) -> None:
    clip = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    fitted = fit(clip, new_height, new_width)
    assert fitted.shape == (2, new_height, new_width, 3)
    assert fitted.dtype == np.float32
    assert (clip.min((1, 2, 3)) <= fitted.min((1, 2, 3))).all()
    assert (clip.max((1, 2, 3)) >= fitted.max((1, 2, 3))).all()


def test_fit_keeps_the_aspect_and_crops_the_centre() -> None:
    bars = np.repeat(np.array([-1, 0, 0, 1], np.float32), 8)  # 32 wide: the outer quarters are cropped
    clip = np.broadcast_to(bars[None, None, :, None], (1, 16, 32, 3))
    np.testing.assert_allclose(fit(clip, 8, 8)[:, :, 2:-2], 0, atol=1e-6)


def test_fit_returns_a_video_of_that_size_unchanged() -> None:
    clip = np.full((1, 4, 6, 3), 1.7, np.float32)
    assert fit(clip, 4, 6) is clip


@given(st.integers(1, 60), st.data())
def test_sampled_frames_are_even_and_reach_both_ends(count: int, data: st.DataObject) -> None:
    num = data.draw(st.integers(2, count)) if count > 1 else 1
    chosen = sample_frames(np.arange(count), num)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, num)
    steps = np.diff(chosen)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_sampling_keyframes_of_the_released_length_finds_them() -> None:
    np.testing.assert_array_equal(sample_frames(np.arange(29), 8), np.arange(0, 29, 4))


@pytest.mark.parametrize("num", [0, 6])
def test_sampling_more_frames_than_there_are_is_refused(num: int) -> None:
    with pytest.raises(UserError, match=f"{num} frames are needed and the video has 5"):
        sample_frames(np.arange(5), num)
