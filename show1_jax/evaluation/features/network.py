"""A network whose outputs a metric compares: its inputs, its features, and the settings that decide both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from show1_jax.checkpoints.checkpoint_set import CheckpointSet

Clip = UInt8[np.ndarray, "t h w 3"]
Prepare = Callable[[Clip, str], dict[str, np.ndarray]]
"""Function from a clip, uint8 RGB, and its caption to the network's inputs for that clip, without a batch axis.

It runs in decoding threads of the host.
"""


@dataclass(frozen=True)
class FeatureNetwork:
    """A network whose outputs a metric compares.

    Attributes:
        kind: its kind of network, and the name of its component in a checkpoint of `python -m convert features`.
        settings: every choice that changes the features, for reports, e.g. the input's size and range, the layer.
        prepare: returns the function that prepares clips, from the opened checkpoint and the chosen options.
        features: returns the features of a batch from the network and its inputs, with one or more rows for each clip;
            it is traced by `jax.jit`.
        options: choices that a user has, each with its values, the default first, e.g. the rule of resizing.
        has_weights: it has weights in a checkpoint; otherwise `prepare` and `features` are called without a checkpoint
            and without a network.
        describe: returns further settings, which the checkpoint decides; None: there are none.
    """

    kind: str
    settings: Mapping[str, Any]
    prepare: Callable[[CheckpointSet, Mapping[str, str]], Prepare]
    features: Callable[[Any, Mapping[str, Array]], Float[Array, "b rows width"]]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_weights: bool = True
    describe: Callable[[CheckpointSet], Mapping[str, Any]] | None = None
