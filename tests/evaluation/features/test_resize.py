"""Bilinear resizing against the definition in float64, with values by hand, and TensorFlow's known asymmetry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.evaluation.features.resize import RESIZE_RULES, ResizeRule, resize_bilinear


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


@settings(max_examples=60, deadline=None)
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
