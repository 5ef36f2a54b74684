"""Resizing against definitions in float64, with values by hand and of OpenCV, and TensorFlow's known asymmetry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.evaluation.features.resize import RESIZE_RULES, ResizeRule, resize_bilinear, resize_cubic


def by_definition(frame: np.ndarray, height: int, width: int, rule: ResizeRule) -> np.ndarray:
    """Return a triangle filter of one pixel's width around each position, as matrices in float64."""

    def matrix(size: int, new: int) -> np.ndarray:
        index = np.arange(new)
        position = {
            "asymmetric": index * size / new,
            "half_pixel": (index + 0.5) * size / new - 0.5,
            "align_corners": index * (size - 1) / max(new - 1, 1),
        }[rule]
        distance = np.clip(position, 0, size - 1)[:, None] - np.arange(size)
        return np.maximum(1 - np.abs(distance), 0)

    return np.einsum("ih,hwc,jw->ijc", matrix(len(frame), height), frame, matrix(frame.shape[1], width))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("asymmetric", [0, 5, 10, 25, 40, 40]),
        ("half_pixel", [0, 2.5, 7.5, 17.5, 32.5, 40]),
        ("align_corners", [0, 4, 8, 16, 28, 40]),
    ],
)
def test_values_by_hand(rule: ResizeRule, expected: list[float]) -> None:
    row = np.array([0, 10, 40], np.uint8).reshape(1, 1, 3, 1)
    np.testing.assert_allclose(resize_bilinear(row, 1, 6, rule).ravel(), expected, rtol=1e-6)
    column = row.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(resize_bilinear(column, 6, 1, rule).ravel(), expected, rtol=1e-6)


def test_shrinking_takes_pixels_and_does_not_average() -> None:
    """TensorFlow 1 takes every second pixel when it halves; by half pixels the result is the mean of two."""
    row = np.arange(8, dtype=np.uint8).reshape(1, 1, 8, 1) ** 2
    assert resize_bilinear(row, 1, 4, "asymmetric").ravel().tolist() == [0, 4, 16, 36]
    assert resize_bilinear(row, 1, 4, "half_pixel").ravel().tolist() == [0.5, 6.5, 20.5, 42.5]


@settings(max_examples=60)
@given(sizes=st.tuples(*[st.integers(1, 40)] * 4), rule=st.sampled_from(RESIZE_RULES), seed=st.integers(0, 99))
def test_every_size_and_rule(sizes: tuple[int, int, int, int], rule: ResizeRule, seed: int) -> None:
    height, width, new_height, new_width = sizes
    clip = np.random.RandomState(seed).randint(0, 256, (2, height, width, 3)).astype(np.uint8)
    resized = resize_bilinear(clip, new_height, new_width, rule)
    expected = [by_definition(frame.astype(np.float64), new_height, new_width, rule) for frame in clip]
    np.testing.assert_allclose(resized, expected, atol=5e-3)  # positions in float32: 1e-6 pixels, of up to 255


@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_the_same_size_and_constant_frames_stay(rule: ResizeRule) -> None:
    clip = np.random.RandomState(0).randint(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize_bilinear(clip, 5, 7, rule), clip)
    white = np.full((1, 5, 7, 3), 255, np.uint8)
    assert (resize_bilinear(white, 224, 224, rule) == 255).all()


CUBIC_SIZES = st.integers(1, 40)


@given(CUBIC_SIZES, CUBIC_SIZES, CUBIC_SIZES, CUBIC_SIZES)
def test_an_even_frame_stays_even_by_the_cubic_rule(height: int, width: int, new_height: int, new_width: int) -> None:
    frames = np.full((2, height, width, 3), 200, np.uint8)
    resized = resize_cubic(frames, new_height, new_width)
    np.testing.assert_allclose(resized, np.full((2, new_height, new_width, 3), 200.0), atol=1e-3)


def test_the_same_size_changes_nothing_by_the_cubic_rule() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 13, 3), np.uint8)
    np.testing.assert_allclose(resize_cubic(frames, 9, 13), frames, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # cv2.resize of the row 0, 10, 0, 20 with INTER_CUBIC, OpenCV 5.0
        (8, [-1.05469, 2.61719, 8.78906, 8.08594, 0.50781, 3.47656, 15.11719, 22.10938]),
        (3, [1.6088, 4.0625, 16.95602]),
    ],
)
def test_values_of_opencv(size: int, expected: list[float]) -> None:
    row = np.array([0, 10, 0, 20], np.float32).reshape(1, 1, 4, 1)
    np.testing.assert_allclose(resize_cubic(row, 1, size)[0, 0, :, 0], expected, atol=1e-4)
