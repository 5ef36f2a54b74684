"""Moments that merge, and the Fréchet distance, compared with NumPy and SciPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from show1_jax.evaluation.metrics.gaussian import Gaussian, frechet_distance


def features(count: int, width: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (shift + draw.normal(size=(count, width)) @ draw.normal(size=(width, width))).astype(np.float32)


def reference_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance by the trace of the product's matrix square root, which is the sum of its eigenvalues' roots.

    `linalg.sqrtm`, which the published code calls, is NaN for some products without full rank, by SciPy's version.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    first, second = np.cov(a.T), np.cov(b.T)
    shift = a.mean(0) - b.mean(0)
    roots = np.sqrt(linalg.eigvals(first @ second).real.clip(0))
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * roots.sum())


@pytest.mark.parametrize(("count", "width"), [(200, 8), (60, 40), (41, 40), (12, 40), (3, 2)])
def test_the_distance_is_that_of_the_matrix_square_root(count: int, width: int) -> None:
    """Also with fewer rows than features: then both covariances have a low rank."""
    a, b = features(count, width, 1), features(count + 5, width, 2, shift=0.5)
    ours = frechet_distance(Gaussian.of(a), Gaussian.of(b))
    assert ours == pytest.approx(reference_distance(a, b), rel=1e-6)


def test_a_covariance_of_lower_rank_than_the_other() -> None:
    a, b = features(300, 20, 1), features(300, 20, 2)
    b[:, 5:] = 0
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(reference_distance(a, b), rel=1e-6)
    assert Gaussian.of(b).rank == 5


@pytest.mark.parametrize(("count", "width"), [(500, 30), (20, 30), (2, 5)])
def test_equal_sets_have_distance_0(count: int, width: int) -> None:
    rows = features(count, width, shift=100.0)
    size = float(np.trace(Gaussian.of(rows).covariance))
    assert frechet_distance(Gaussian.of(rows), Gaussian.of(rows)) <= 1e-18 * size
    assert frechet_distance(Gaussian.of(rows), Gaussian.of(rows[::-1])) <= 1e-12 * size


@pytest.mark.parametrize("change", [1e-6, 1e-3, 0.009, 0.011, 0.1])
def test_nearly_equal_covariances_lose_no_digits(change: float) -> None:
    """On both sides of the change between the two ways to compute it; here the distance is sum (sigma change)^2."""
    sigma = np.linspace(1, 5, 20)
    rotation = linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    a, b = (Gaussian(2, np.zeros(20), (rotation * (scale * sigma) ** 2) @ rotation.T) for scale in (1, 1 + change))
    assert frechet_distance(a, b) == pytest.approx(np.square(change * sigma).sum(), rel=1e-8)


def test_the_distance_of_two_known_gaussians() -> None:
    """With diagonal covariances it is |difference of means|^2 + sum (sigma_a - sigma_b)^2."""
    a = Gaussian(11, np.array([0.0, 1.0]), np.diag([10.0 * 4, 10.0 * 9]))
    b = Gaussian(21, np.array([3.0, 1.0]), np.diag([20.0 * 1, 20.0 * 25]))
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 4, rel=1e-12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize("count", [2, 10, 40, 41, 400])
def test_the_rank_is_at_most_one_less_than_the_rows(count: int) -> None:
    assert Gaussian.of(features(count, 40)).rank == min(count - 1, 40)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6),
    width=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_merged_moments_are_those_of_all_rows(sizes: list[int], width: int, offset: float, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), width)) + offset
    parts = [Gaussian.of(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.count == len(rows)
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(rows.T).reshape(width, width), rtol=1e-9, atol=1e-9)
