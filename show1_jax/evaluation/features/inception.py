"""Inception v3's features of frames, for the Fréchet Inception Distance of videos' frames."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare
from show1_jax.evaluation.features.resize import resize_bilinear
from show1_jax.nn.recognition.inception import SIDE

PYTORCH_FID: Final = "pytorch-fid"
TENSORFLOW: Final = "tensorflow"


def _prepare(checkpoint: CheckpointSet, options: Mapping[str, str]) -> Prepare:
    preprocess = {PYTORCH_FID: preprocess_as_pytorch_fid, TENSORFLOW: preprocess_as_tensorflow}[
        options["preprocessing"]
    ]
    return lambda clip, caption: {"frames": preprocess(clip)}


def preprocess_as_pytorch_fid(clip: Clip) -> Float[np.ndarray, "t 299 299 3"]:
    """Return frames in [-1, 1], resized bilinearly between the frames' edges, as pytorch-fid does."""
    return resize_bilinear(clip, SIDE, SIDE, "half_pixel") * np.float32(2 / 255) - np.float32(1)


def preprocess_as_tensorflow(clip: Clip) -> Float[np.ndarray, "t 299 299 3"]:
    """Return frames from -1 to 127/128, resized by TensorFlow 1's rule, as the original graph does."""
    return (resize_bilinear(clip, SIDE, SIDE, "asymmetric") - np.float32(128)) / np.float32(128)


def _features(network: Any, inputs: Mapping[str, Array]) -> Float[Array, "b rows width"]:
    frames = inputs["frames"]
    features = network(rearrange(frames, "b t h w c -> (b t) h w c"))
    return rearrange(features, "(b t) d -> b t d", b=len(frames))


INCEPTION: Final = FeatureNetwork(
    kind="inception_v3",
    settings={
        "network": "Inception v3 of 2015-12-05 (TensorFlow), as ported by pytorch-fid",
        "layer": "pool3, 2048 features of each frame",
        "input": f"all frames of a clip, RGB, {SIDE}x{SIDE}, bilinear without antialiasing, aspect ratio not kept",
    },
    prepare=_prepare,
    features=_features,
    options={"preprocessing": (PYTORCH_FID, TENSORFLOW)},
)
"""Features of each frame of a clip: one row a frame."""
