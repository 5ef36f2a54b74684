"""The table of metrics, a row each: the name in commands, and the metric with its default settings."""

from typing import Any, Final

from show1_jax.evaluation.metrics.clipsim import ClipSimilarity
from show1_jax.evaluation.metrics.fid_vid import FID_VID
from show1_jax.evaluation.metrics.flicker import TemporalFlickering
from show1_jax.evaluation.metrics.fvd import FVD
from show1_jax.evaluation.metrics.inception_score import InceptionScore
from show1_jax.evaluation.metrics.metric import Metric

METRICS: Final[dict[str, Metric[Any]]] = {
    "fvd": FVD,
    "is": InceptionScore(),
    "fid-vid": FID_VID,
    "clipsim": ClipSimilarity(),
    "flicker": TemporalFlickering(),
}
