"""Inception score of videos (Salimans et al. 2016; Saito et al. 2017), with the probabilities of C3D's classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float64
from scipy.special import log_softmax

from show1_jax.data.order import shuffled
from show1_jax.evaluation.metrics.metric import ClipFeatures, ClipRange, MetricFacts, Score

DEFAULT_SPLITS: Final = 10


@dataclass(frozen=True)
class ClassSums:
    """Sums over the clips of every split.

    Attributes:
        counts: numbers of clips.
        probabilities: sums of the probabilities p of the classes.
        negative_entropies: sums of p log p over clips and classes.
    """

    counts: Float64[np.ndarray, " splits"]
    probabilities: Float64[np.ndarray, "splits classes"]
    negative_entropies: Float64[np.ndarray, " splits"]

    def scores(self) -> Float64[np.ndarray, " splits"]:
        """Return exp(E KL(p(y|x) || p(y))) of every split."""
        means = self.probabilities / self.counts[:, None]
        logs = np.log(means, where=means > 0, out=np.zeros_like(means))
        divergence: np.ndarray = self.negative_entropies / self.counts - (means * logs).sum(1)
        return np.exp(divergence)


@dataclass(frozen=True)
class InceptionScore:
    """The mean over splits of exp(E KL(p(y|x) || p(y))), and its standard deviation, as Salimans et al. compute it.

    The reference divides the clips in their order, which for its samples is random. Here they are shuffled first:
    prompts in files are sorted by class, and a split with few classes has a low score.

    Attributes:
        splits: number of parts of equal size.
    """

    splits: int = field(
        default=DEFAULT_SPLITS,
        metadata={"help": "parts of the clips, whose scores are averaged; 1 as in TGAN", "least": 1},
    )

    @property
    def facts(self) -> MetricFacts:
        """See `show1_jax.evaluation.metrics.metric.Metric`."""
        return MetricFacts(
            title="IS",
            summary="inception score: C3D's 101 classes of UCF-101, clips of 16 frames",
            network="c3d",
            better="higher",
            has_reference=False,
            has_captions=False,
            num_frames=16,
            min_frames=16,
            max_frames=16,
            min_clips=max(10, self.splits),
            digits=2,
            source="Salimans et al. 2016, arXiv 1606.03498; TGAN, Saito et al. 2017, arXiv 1611.06624",
        )

    def summarize(self, clips: Sequence[ClipFeatures], place: ClipRange) -> ClassSums:
        """Return the sums over clips; a clip's rows, which are logits, count one by one."""
        counts, entropies = np.zeros(self.splits), np.zeros(self.splits)
        probabilities = np.zeros((self.splits, clips[0].shape[1]))
        for number, logits in enumerate(clips, start=place.first):
            split = shuffled(number, place.total, "splits", place.seed) * self.splits // place.total
            logs = log_softmax(logits.astype(np.float64), axis=1)
            shares = np.exp(logs)
            counts[split] += len(logits)
            probabilities[split] += shares.sum(0)
            entropies[split] += (shares * logs).sum()
        return ClassSums(counts, probabilities, entropies)

    def merge(self, first: ClassSums, second: ClassSums) -> ClassSums:
        """See `Metric`."""
        return ClassSums(
            first.counts + second.counts,
            first.probabilities + second.probabilities,
            first.negative_entropies + second.negative_entropies,
        )

    def score(self, videos: ClassSums, reference: ClassSums | None) -> Score:
        """Return the mean over splits."""
        scores = videos.scores()
        together = ClassSums(*(part.sum(0, keepdims=True) for part in vars(videos).values()))
        parts = {
            "standard deviation over the splits": float(scores.std()),
            "without splits": float(together.scores()[0]),
        }
        fewest, classes = int(videos.counts.min()), videos.probabilities.shape[1]
        warnings: tuple[str, ...] = ()
        if fewest < classes:
            warnings = (
                f"a split has {fewest} clips, and its score cannot be higher than that; use at least {classes} clips "
                "for each of the splits, or a smaller --splits",
            )
        return Score(float(scores.mean()), parts, warnings)
