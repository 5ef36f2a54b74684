"""The table of feature networks, by kind."""

from typing import Final

from show1_jax.evaluation.features.c3d import C3D
from show1_jax.evaluation.features.clip import CLIP
from show1_jax.evaluation.features.frame_differences import FRAME_DIFFERENCES
from show1_jax.evaluation.features.i3d import I3D
from show1_jax.evaluation.features.inception import INCEPTION
from show1_jax.evaluation.features.network import FeatureNetwork

FEATURE_NETWORKS: Final[dict[str, FeatureNetwork]] = {
    network.kind: network for network in (I3D, C3D, INCEPTION, CLIP, FRAME_DIFFERENCES)
}
