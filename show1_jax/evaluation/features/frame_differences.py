"""The mean absolute difference of neighbouring frames, computed on the host: a feature without a network."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare


def _mean_difference(clip: Clip, caption: str) -> dict[str, np.ndarray]:
    """Return the mean over pixels, channels and pairs of neighbouring frames, in levels of 0 to 255."""
    pairs = itertools.pairwise(clip)
    means = [np.abs(after.astype(np.int16) - before).mean(dtype=np.float64) for before, after in pairs]
    return {"difference": np.array([np.mean(means)], np.float32)}


def _prepare(checkpoints: Any, options: Mapping[str, str]) -> Prepare:
    return _mean_difference


def _features(network: Any, inputs: Mapping[str, Array]) -> Float[Array, "b 1 1"]:
    return inputs["difference"][:, None, :]


FRAME_DIFFERENCES = FeatureNetwork(
    kind="frame_differences",
    settings={"size": "as stored", "range": "0 to 255, RGB", "layer": "none"},
    prepare=_prepare,
    features=_features,
    has_weights=False,
)
