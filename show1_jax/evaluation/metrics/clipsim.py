"""CLIPSIM: the similarity of frames and caption in CLIP's space (Wu et al. 2021), and CLIPScore beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score
from show1_jax.evaluation.metrics.sums import Sums


@dataclass(frozen=True)
class CosineSums:
    """Sums of the cosines of frames with their captions.

    Attributes:
        clips: of the mean over each clip's frames.
        frames: of the frames of all clips.
    """

    clips: Sums
    frames: Sums


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
        return CosineSums(Sums.of(of_clip.mean() for of_clip in cosines), Sums.of(np.concatenate(cosines)))

    def merge(self, first: CosineSums, second: CosineSums) -> CosineSums:
        """See `Metric`."""
        return CosineSums(first.clips.merge(second.clips), first.frames.merge(second.frames))

    def score(self, videos: CosineSums, reference: CosineSums | None) -> Score:
        """Return the mean cosine; CLIPScore is 100 max(cosine, 0), with the maximum after the mean over all frames."""
        parts = {
            "standard error over the clips": videos.clips.standard_error,
            "CLIPScore": 100 * max(videos.frames.mean, 0.0),
        }
        return Score(videos.clips.mean, parts)
