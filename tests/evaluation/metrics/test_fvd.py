"""FVD and FID-vid as metrics: rows, ranks and warnings."""

import numpy as np
import pytest

from show1_jax.evaluation.metrics.fid_vid import FID_VID
from show1_jax.evaluation.metrics.fvd import FVD
from show1_jax.evaluation.metrics.metric import ClipRange
from tests.evaluation.metrics.test_gaussian import features, reference_distance

PLACE = ClipRange(0, 1, 0)


def clips_of(rows: np.ndarray, rows_of_a_clip: int = 1) -> list[np.ndarray]:
    return list(rows.reshape(-1, rows_of_a_clip, rows.shape[1]))


@pytest.mark.parametrize("rows_of_a_clip", [1, 4])
def test_all_rows_of_all_clips_count(rows_of_a_clip: int) -> None:
    a, b = features(80, 6, 1), features(120, 6, 2, shift=1)
    videos = FID_VID.summarize(clips_of(a[:40], rows_of_a_clip), PLACE)
    videos = FID_VID.merge(videos, FID_VID.summarize(clips_of(a[40:], rows_of_a_clip), PLACE))
    score = FID_VID.score(videos, FID_VID.summarize(clips_of(b, rows_of_a_clip), PLACE))
    assert score.value == pytest.approx(reference_distance(a, b), rel=1e-6)
    assert score.warnings == ()
    assert score.parts["rank of the videos' covariance"] == 6


def test_too_few_clips_for_a_full_rank_are_a_warning_with_the_rank() -> None:
    few, many = clips_of(features(7, 6)), clips_of(features(50, 6))
    score = FVD.score(FVD.summarize(few, PLACE), FVD.summarize(many, PLACE))
    (warning,) = score.warnings
    assert warning.startswith("--videos has 7 rows of features for a covariance of 6 x 6, whose rank is 6")
    fewer = FVD.score(FVD.summarize(many, PLACE), FVD.summarize(few[:4], PLACE))
    assert "--reference has 4 rows of features for a covariance of 6 x 6, whose rank is 3" in fewer.warnings[0]
