"""Temporal flickering, from frames to the score."""

import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.evaluation.features.frame_differences import FRAME_DIFFERENCES
from show1_jax.evaluation.metrics.flicker import TemporalFlickering
from show1_jax.evaluation.metrics.metric import ClipRange

METRIC = TemporalFlickering()


def feature(video: np.ndarray) -> np.ndarray:
    inputs = FRAME_DIFFERENCES.prepare(CheckpointSet([]), {})(video, "")
    batch = {name: jnp.asarray(value)[None] for name, value in inputs.items()}
    return np.asarray(FRAME_DIFFERENCES.features(None, batch))[0]


def score_of(videos: list[np.ndarray]) -> float:
    return METRIC.score(METRIC.summarize([feature(video) for video in videos], ClipRange(0, 1, 0)), None).value


def test_the_score_is_the_mean_over_videos_of_the_mean_over_pairs() -> None:
    draw = np.random.default_rng(0)
    videos = [draw.integers(0, 256, (length, 5, 6, 3)).astype(np.uint8) for length in (2, 9, 30)]
    expected = []
    for video in videos:
        pairs = [np.abs(video[i].astype(float) - video[i + 1].astype(float)).mean() for i in range(len(video) - 1)]
        expected.append((255 - np.mean(pairs)) / 255)
    assert score_of(videos) == pytest.approx(np.mean(expected), rel=1e-6)


def test_still_and_blinking_videos() -> None:
    still = np.full((4, 2, 2, 3), 200, np.uint8)
    blinking = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)] * 3)
    assert score_of([still]) == 1
    assert score_of([blinking]) == 0
    assert score_of([still, blinking]) == pytest.approx(0.5)
