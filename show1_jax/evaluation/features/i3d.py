"""I3D as the reference implementation of FVD uses it (google-research, `frechet_video_distance`).

Unterthiner et al. 2018 (arXiv 1812.01717). Frames are stretched to 224x224 whatever their shape, by TensorFlow 1's
`tf.image.resize_bilinear` without flags, and scaled from [0, 255] to [-1, 1]; the features are the logits of TF Hub's
`deepmind/i3d-kinetics-400`, averaged over time. Others differ: VideoGPT scales the shorter side by `half_pixel` and
crops the middle of the longer one.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Array, Float

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare
from show1_jax.evaluation.features.resize import RESIZE_RULES, ResizeRule, resize_bilinear

SIDE: Final = 224


def _prepare(checkpoints: CheckpointSet, options: Mapping[str, str]) -> Prepare:
    rule = cast(ResizeRule, options["resize"])
    return lambda clip, caption: {"video": i3d_input(clip, rule)}


def i3d_input(clip: Clip, rule: ResizeRule) -> Float[np.ndarray, "t 224 224 3"]:
    """Return a clip of any size as the network takes it: 224x224 in [-1, 1], float32."""
    video = resize_bilinear(clip, SIDE, SIDE, rule)
    video *= 2  # in the order of the reference, and in place
    video /= 255
    video -= 1
    return video


def _features(network: Any, inputs: Mapping[str, Array]) -> Float[Array, "b 1 width"]:
    return network(inputs["video"])[:, None]


I3D: Final = FeatureNetwork(
    kind="i3d",
    settings={
        "network": "I3D, Kinetics-400 (deepmind/i3d-kinetics-400)",
        "layer": "400 logits, averaged over time",
        "input": "frames stretched to 224x224, RGB in [-1, 1]",
    },
    prepare=_prepare,
    features=_features,
    options={"resize": RESIZE_RULES},
)
