"""A small network in place of the metrics' networks, and the command that scores videos with it.

    python -m tests.helpers.tiny_features METRIC ...

`fvd` and `clipsim` use it, with their own rules; `slow` seconds are waited for each video.
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from show1_jax.checkpoints import networks
from show1_jax.checkpoints.arrays import new_checkpoint
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.networks import NetworkKind
from show1_jax.evaluation.__main__ import main
from show1_jax.evaluation.features.network import Clip, FeatureNetwork, Prepare
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.metrics.clipsim import ClipSimilarity
from show1_jax.evaluation.metrics.fvd import FVD
from show1_jax.evaluation.metrics.table import METRICS
from show1_jax.nn.config import Architecture
from show1_jax.nn.layers import Layers
from show1_jax.parallel.weights import WeightPath

WIDTH, SIDE = 6, 4
SLOW = "TINY_FEATURES_SECONDS"


@dataclasses.dataclass(frozen=True)
class TinyArchitecture(Architecture):
    width: int = WIDTH


class TinyNetwork(nnx.Module):
    def __init__(self, config: TinyArchitecture, make: Layers):
        self.linear = make.linear(SIDE * SIDE * 3, config.width)

    def __call__(self, frames: Array) -> Array:
        return jnp.tanh(self.linear(frames.reshape(*frames.shape[:-3], -1)))


def _prepare(checkpoints: CheckpointSet, options: Mapping[str, str]) -> Prepare:
    def prepare(clip: Clip, caption: str) -> dict[str, np.ndarray]:
        time.sleep(float(os.environ.get(SLOW, "0")))
        rows, columns = (np.linspace(0, size - 1, SIDE).astype(int) for size in clip.shape[1:3])
        words = np.full((1, SIDE, SIDE, 3), len(caption) / 40, np.float32)
        return {"video": clip[:, rows][:, :, columns].astype(np.float32) / 127.5 - 1, "words": words}

    return prepare


def _video_features(network: Any, inputs: Mapping[str, Array]) -> Array:
    return network(inputs["video"]).mean(1, keepdims=True)


def _frame_features(network: Any, inputs: Mapping[str, Array]) -> Array:
    frames, words = (network(inputs[name]) for name in ("video", "words"))
    return (frames * words).sum(-1, keepdims=True)


TINY_VIDEO = FeatureNetwork("tiny_video", {"size": "4 x 4"}, _prepare, _video_features)
TINY_FRAMES = FeatureNetwork("tiny_frames", {"size": "4 x 4"}, _prepare, _frame_features)


@dataclasses.dataclass(frozen=True)
class TinySimilarity(ClipSimilarity):
    @property
    def facts(self) -> Any:
        return dataclasses.replace(super().facts, network="tiny_frames")


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Have the metrics use the small network while the block lasts."""
    kinds, rows, table = networks.network_kinds, dict(METRICS), dict(FEATURE_NETWORKS)
    tiny = dict.fromkeys(("tiny_video", "tiny_frames"), NetworkKind(TinyArchitecture, TinyNetwork))
    networks.network_kinds = lambda: kinds() | tiny
    METRICS["fvd"] = dataclasses.replace(FVD, facts=dataclasses.replace(FVD.facts, network="tiny_video"))
    METRICS["clipsim"] = TinySimilarity()
    FEATURE_NETWORKS.update({network.kind: network for network in (TINY_VIDEO, TINY_FRAMES)})
    try:
        yield
    finally:
        networks.network_kinds = kinds
        METRICS.update(rows)
        FEATURE_NETWORKS.clear()
        FEATURE_NETWORKS.update(table)


def write_weights(folder: Path) -> None:
    """Write a checkpoint of both networks."""
    kernel = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, WIDTH)).astype(np.float32) / 4
    weights: dict[WeightPath, np.ndarray] = {
        ("linear", "kernel"): kernel,
        ("linear", "bias"): np.zeros(WIDTH, np.float32),
    }
    dtypes = {path: np.dtype("float32") for path in weights}
    with installed(), new_checkpoint(folder) as writer:
        for kind in ("tiny_video", "tiny_frames"):
            record = Component(kind, {"width": WIDTH}, "float32", provenance={"source": "tests", "sha256": "0" * 64})
            writer.add(kind, record, weights, dtypes)


def run(*arguments: str) -> int:
    """Run the command line with the small network and return its exit code."""
    with installed():
        return main(arguments)


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
