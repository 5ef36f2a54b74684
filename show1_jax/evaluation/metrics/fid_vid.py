"""FID-vid: the Fréchet inception distance of the frames of videos (Heusel et al. 2017)."""

from show1_jax.evaluation.metrics.fvd import FrechetMetric
from show1_jax.evaluation.metrics.metric import MetricFacts

FID_VID = FrechetMetric(
    MetricFacts(
        title="FID-vid",
        summary="Fréchet inception distance of all frames of clips: Inception v3's pool3, two sets compared",
        network="inception_v3",
        better="lower",
        has_reference=True,
        has_captions=False,
        num_frames=16,
        min_frames=1,
        min_clips=10,
        digits=2,
        source="Heusel et al. 2017, arXiv 1706.08500; the network and resizing of pytorch-fid or TTUR",
    )
)
"""FID-vid: every frame of every clip is a row."""
