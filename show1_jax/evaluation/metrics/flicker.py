"""Temporal flickering, a dimension of VBench (Huang et al. 2024): the change from frame to frame, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass

from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score
from show1_jax.evaluation.metrics.sums import Sums


@dataclass(frozen=True)
class TemporalFlickering:
    """(255 - d) / 255, where d is the mean absolute difference of neighbouring frames: per video, then the mean."""

    @property
    def facts(self) -> MetricFacts:
        """See `show1_jax.evaluation.metrics.metric.Metric`."""
        return MetricFacts(
            title="temporal flickering",
            summary="VBench's (255 - mean absolute difference of neighbouring frames) / 255; no network",
            network="frame_differences",
            better="higher",
            has_reference=False,
            has_captions=False,
            num_frames=None,
            min_frames=2,
            min_clips=1,
            digits=4,
            source="VBench, Huang et al. 2024, arXiv 2311.17982; Vchitect/VBench, without its filter of static videos",
        )

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> Sums:
        """Return the sums over clips, whose single feature is d."""
        return Sums.of((255.0 - float(rows[0, 0])) / 255.0 for rows in clips)

    def merge(self, first: Sums, second: Sums) -> Sums:
        """See `Metric`."""
        return first.merge(second)

    def score(self, videos: Sums, reference: Sums | None) -> Score:
        """Return the mean over the clips."""
        return Score(videos.mean, {"standard error over the clips": videos.standard_error})
