"""The inception score, compared with its formula in NumPy."""

import numpy as np
import pytest

from show1_jax.data.order import shuffled
from show1_jax.evaluation.metrics.inception_score import InceptionScore
from show1_jax.evaluation.metrics.metric import ClipRange

CLASSES = 12


def logits(count: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).normal(size=(count, 1, CLASSES))).astype(np.float32)


def reference_score(rows: np.ndarray) -> float:
    """exp(E KL) of some clips, by the formula, with plain loops."""
    exact = rows.astype(np.float64)[:, 0]
    shares = np.exp(exact - exact.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    marginal = shares.mean(0)
    divergences = [sum(p * np.log(p / q) for p, q in zip(row, marginal, strict=True) if p > 0) for row in shares]
    return float(np.exp(np.mean(divergences)))


@pytest.mark.parametrize(("count", "splits"), [(40, 1), (40, 4), (43, 10), (12, 12)])
def test_the_score_is_the_mean_over_splits(count: int, splits: int) -> None:
    metric, rows = InceptionScore(splits=splits), logits(count)
    order = [shuffled(index, count, "splits", 5) for index in range(count)]
    parts = [rows[[index for index, place in enumerate(order) if place * splits // count == s]] for s in range(splits)]
    expected = [reference_score(part) for part in parts]
    halves = [
        metric.summarize(list(rows[:7]), ClipRange(0, count, 5)),
        metric.summarize(list(rows[7:]), ClipRange(7, count, 5)),
    ]
    score = metric.score(metric.merge(*halves), None)
    assert score.value == pytest.approx(np.mean(expected), rel=1e-6)
    assert score.parts["standard deviation over the splits"] == pytest.approx(np.std(expected), rel=1e-6, abs=1e-9)
    assert score.parts["without splits"] == pytest.approx(reference_score(rows), rel=1e-6)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_confident_and_varied_clips_have_the_number_of_classes() -> None:
    rows = np.full((5 * CLASSES, 1, CLASSES), -1e4, np.float32)
    rows[np.arange(len(rows)), 0, np.arange(len(rows)) % CLASSES] = 1e4  # p log p of the others is 0 log 0
    metric = InceptionScore(splits=1)
    score = metric.score(metric.summarize(list(rows), ClipRange(0, len(rows), 0)), None)
    assert score.value == pytest.approx(CLASSES, rel=1e-9)
    assert score.warnings == ()


def test_clips_sorted_by_class_are_shuffled_before_they_are_split() -> None:
    rows = np.full((40 * CLASSES, 1, CLASSES), -1e4, np.float32)
    rows[np.arange(len(rows)), 0, np.arange(len(rows)) // 40] = 1e4
    metric = InceptionScore()
    score = metric.score(metric.summarize(list(rows), ClipRange(0, len(rows), 0)), None)
    assert score.value > 0.9 * CLASSES  # splits in order would have one or two classes each


def test_small_splits_are_a_warning() -> None:
    metric, rows = InceptionScore(splits=4), logits(20)
    (warning,) = metric.score(metric.summarize(list(rows), ClipRange(0, 20, 0)), None).warnings
    assert warning.startswith("a split has 5 clips")
