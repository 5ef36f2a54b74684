"""CLIPSIM and CLIPScore, compared with their formulas in NumPy."""

import math

import numpy as np
import pytest

from show1_jax.evaluation.metrics.clipsim import ClipSimilarity
from show1_jax.evaluation.metrics.metric import ClipRange
from show1_jax.evaluation.metrics.sums import Sums

PLACE = ClipRange(0, 1, 0)
METRIC = ClipSimilarity()


def clips(lengths: list[int]) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    return [draw.uniform(-0.2, 0.6, size=(length, 1)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize("lengths", [[16] * 8, [1, 2, 30, 7]])
def test_videos_weigh_equally_in_clipsim_and_frames_in_clipscore(lengths: list[int]) -> None:
    rows = clips(lengths)
    summary = METRIC.merge(METRIC.summarize(rows[:2], PLACE), METRIC.summarize(rows[2:], PLACE))
    score = METRIC.score(summary, None)
    means = [clip.astype(np.float64).mean() for clip in rows]
    assert score.value == pytest.approx(np.mean(means), rel=1e-6)
    frames = np.concatenate(rows).astype(np.float64)
    assert score.parts["CLIPScore"] == pytest.approx(100 * max(frames.mean(), 0), rel=1e-6)
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    assert score.parts["standard error over the clips"] == pytest.approx(error, rel=1e-6)


def test_clipscore_is_cut_at_0_and_clipsim_is_not() -> None:
    opposite = np.full((3, 1), -1, np.float32)
    score = METRIC.score(METRIC.summarize([opposite], PLACE), None)
    assert score.value == pytest.approx(-1, rel=1e-12)
    assert score.parts["CLIPScore"] == 0


def test_one_value_has_no_standard_error() -> None:
    assert Sums(1, 0.3, 0.09).standard_error is None
    assert Sums(3, 3.0, 3.0).standard_error == 0
