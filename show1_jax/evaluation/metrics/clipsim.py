"""CLIPSIM: the similarity of frames and caption in CLIP's space (Wu et al. 2021), and CLIPScore beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score


@dataclass(frozen=True)
class CosineSums:
    """Sums of the cosines of frames with their captions.

    Attributes:
        clips: number of clips.
        of_means: sum over the clips of the mean over a clip's frames.
        of_squares: sum over the clips of the square of that mean.
        frames: number of frames of all clips.
        of_frames: sum over all frames.
    """

    clips: int
    of_means: float
    of_squares: float
    frames: int
    of_frames: float


@dataclass(frozen=True)
class ClipSimilarity:
    """The cosine of each frame with the caption, averaged over the frames of a video, then over the videos."""

    @property
    def facts(self) -> MetricFacts:
        """See `show1_jax.evaluation.metrics.metric.Metric`."""
        return MetricFacts(
            title="CLIPSIM",
            summary="mean cosine of frames and caption in CLIP's space; reports CLIPScore as well",
            network="clip_model",
            better="higher",
            has_reference=False,
            has_captions=True,
            num_frames=None,
            min_frames=1,
            min_clips=1,
            digits=4,
            source="GODIVA, Wu et al. 2021, arXiv 2104.14806; CLIPScore as in torchmetrics",
        )

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> CosineSums:
        """Return the sums over clips, whose rows are the cosines of their frames."""
        cosines = [rows[:, 0].astype(np.float64) for rows in clips]
        means = np.array([of_clip.mean() for of_clip in cosines])
        return CosineSums(
            clips=len(clips),
            of_means=float(means.sum()),
            of_squares=float(np.square(means).sum()),
            frames=sum(map(len, cosines)),
            of_frames=float(sum(of_clip.sum() for of_clip in cosines)),
        )

    def merge(self, first: CosineSums, second: CosineSums) -> CosineSums:
        """See `Metric`."""
        return CosineSums(*(a + b for a, b in zip(vars(first).values(), vars(second).values(), strict=True)))

    def score(self, videos: CosineSums, reference: CosineSums | None) -> Score:
        """Return the mean cosine; CLIPScore is 100 max(cosine, 0), with the maximum after the mean over all frames."""
        mean = videos.of_means / videos.clips
        parts = {
            "standard error over the clips": standard_error(videos.clips, videos.of_means, videos.of_squares),
            "CLIPScore": 100 * max(videos.of_frames / videos.frames, 0.0),
        }
        return Score(mean, parts)


def standard_error(count: int, total: float, squares: float) -> float | None:
    """Return the standard error of a mean from sums over `count` values; None for a single value."""
    if count < 2:
        return None
    variance = max(0.0, squares - total * total / count) / (count - 1)
    return math.sqrt(variance / count)
