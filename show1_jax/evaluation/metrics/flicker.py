"""Temporal flickering, a dimension of VBench (Huang et al. 2024): the change from frame to frame, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass

from show1_jax.evaluation.metrics.clipsim import standard_error
from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score


@dataclass(frozen=True)
class DifferenceSums:
    """Sums over clips of a clip's score, and of its square."""

    clips: int
    of_scores: float
    of_squares: float


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

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> DifferenceSums:
        """Return the sums over clips, whose single feature is d."""
        scores = [(255.0 - float(rows[0, 0])) / 255.0 for rows in clips]
        return DifferenceSums(len(scores), sum(scores), sum(score * score for score in scores))

    def merge(self, first: DifferenceSums, second: DifferenceSums) -> DifferenceSums:
        """See `Metric`."""
        return DifferenceSums(*(a + b for a, b in zip(vars(first).values(), vars(second).values(), strict=True)))

    def score(self, videos: DifferenceSums, reference: DifferenceSums | None) -> Score:
        """Return the mean over the clips."""
        error = standard_error(videos.clips, videos.of_scores, videos.of_squares)
        return Score(videos.of_scores / videos.clips, {"standard error over the clips": error})
