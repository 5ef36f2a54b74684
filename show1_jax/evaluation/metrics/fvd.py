"""Fréchet distances of features: FVD of clips (Unterthiner et al. 2018) and FID-vid of frames (Heusel et al. 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from show1_jax.evaluation.metrics.gaussian import Gaussian, frechet_distance
from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score


@dataclass(frozen=True)
class FrechetMetric:
    """The Fréchet distance of Gaussians that are fitted to the features of two sets of clips; every row counts.

    Attributes:
        facts: see `show1_jax.evaluation.metrics.metric.Metric`.
    """

    facts: MetricFacts

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> Gaussian:
        """Return the moments of all rows."""
        return Gaussian.of(np.concatenate(clips))

    def merge(self, first: Gaussian, second: Gaussian) -> Gaussian:
        """See `Metric`."""
        return first.merge(second)

    def score(self, videos: Gaussian, reference: Gaussian | None) -> Score:
        """Return the distance, with the rank of both covariances."""
        assert reference is not None
        width = len(videos.mean)
        parts = {
            "distance of the means": float(np.square(videos.mean - reference.mean).sum()),
            "rank of the videos' covariance": videos.rank,
            "rank of the reference's covariance": reference.rank,
        }
        warnings = [
            f"{name} has {of_one.count} rows of features for a covariance of {width} x {width}, whose rank is "
            f"{parts[f'rank of the {owner} covariance']}: so few make {self.facts.title} too high; use more "
            f"than {width + 1}"
            for name, owner, of_one in (("--videos", "videos'", videos), ("--reference", "reference's", reference))
            if of_one.count <= width + 1
        ]
        return Score(frechet_distance(videos, reference), parts, tuple(warnings))


FVD = FrechetMetric(
    MetricFacts(
        title="FVD",
        summary="Fréchet video distance: I3D's 400 logits of clips, two sets compared",
        network="i3d",
        better="lower",
        has_reference=True,
        has_captions=False,
        num_frames=16,
        min_frames=11,
        min_clips=10,
        digits=2,
        source="Unterthiner et al. 2018, arXiv 1812.01717; google-research/frechet_video_distance",
    )
)
"""FVD. I3D has no output for clips of 8 frames and fewer. Those of up to 10 are refused as well: black against white
is 570 there, and 153 with 16 frames."""
