"""Cubic resizing: pixels that stay, sums of weights, and values of OpenCV."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.evaluation.features.resize import resize_cubic

SIZES = st.integers(1, 40)


@given(SIZES, SIZES, SIZES, SIZES)
def test_an_even_frame_stays_even(height: int, width: int, new_height: int, new_width: int) -> None:
    frames = np.full((2, height, width, 3), 200, np.uint8)
    resized = resize_cubic(frames, new_height, new_width)
    np.testing.assert_allclose(resized, np.full((2, new_height, new_width, 3), 200.0), atol=1e-3)


def test_the_same_size_changes_nothing() -> None:
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
