"""The weights that a run trains: all of its network, or some by path; the others are frozen."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp

from show1_jax.checkpoints.adapters import KERNEL, lora_shapes
from show1_jax.config.training import (
    AutoencoderTrainingConfig,
    DenoisingTrainingConfig,
    LoraConfig,
    StageTrainingConfig,
)
from show1_jax.errors import UserError, shown
from show1_jax.parallel.weights import WeightPath, WeightShapes

Leaf = TypeVar("Leaf")

LORA: Final = "lora"
WEIGHT_GROUPS: Final[Mapping[str, str]] = {
    "attention": r"(^|\.)(to_[qkv]|to_out|add_[kv]_proj)\.kernel$",
    # As Video Motion Customization's code (Jeong et al. 2023, arXiv 2312.00845) chooses them.
    "temporal_attention": r"(^|\.)temp_attentions\..*\.to_[qkv]\.kernel$",
    "spatial": r"^(?!(.*\.)?(temp_attentions|temp_convs|transformer_in)\.)",
}
"""Regular expressions over dotted paths of weights, by name."""
_DECODER: Final = r"^(?!(encoder|quant_conv)\.)"
_NUM_NEAR: Final = 3


def trains_all(training: StageTrainingConfig) -> bool:
    """Return whether a run trains all weights of its network."""
    return _pattern(training) is None


def saves_adapter(training: StageTrainingConfig) -> bool:
    """Return whether a run saves only the arrays that it trains; otherwise it saves the whole network."""
    return isinstance(training, DenoisingTrainingConfig) and not trains_all(training)


def trained_shapes(training: StageTrainingConfig, shapes: WeightShapes) -> WeightShapes:
    """Return the shapes of the arrays that a run trains, by path.

    Args:
        training: settings of the stage.
        shapes: shapes of all weights of the network.

    Raises:
        UserError: the setting `trainable` or `lora.layers` is not a regular expression, or matches no weight.
    """
    if (lora := lora_config(training)) is not None:
        kernels = {path: leaf for path, leaf in shapes.items() if path[-1] == KERNEL}
        return lora_shapes(matching_weights(lora.layers, kernels, "lora.layers"), lora.rank)
    pattern = _pattern(training)
    return shapes if pattern is None else matching_weights(pattern, shapes, "trainable")


def lora_config(training: StageTrainingConfig) -> LoraConfig | None:
    """Return the settings of the low-rank adapters that a run trains; None if it trains weights."""
    if isinstance(training, DenoisingTrainingConfig) and training.trainable == LORA:
        return training.lora
    return None


def frozen_weights(weights: Mapping[WeightPath, Leaf], trained: Mapping[WeightPath, Any]) -> dict[WeightPath, Leaf]:
    """Return the weights of a network, or their shapes, that are not trained; `trained` has the trained arrays."""
    return {path: weight for path, weight in weights.items() if path not in trained}


def frozen_shapes(training: StageTrainingConfig, shapes: WeightShapes, trained: WeightShapes) -> WeightShapes:
    """Return the shapes of the weights of a network that are not trained, with their dtype on the devices.

    Args:
        training: settings of the stage.
        shapes: shapes of all weights of the network.
        trained: shapes of the trained arrays.
    """
    dtype = training.frozen_dtype if isinstance(training, DenoisingTrainingConfig) else "float32"
    frozen = frozen_weights(shapes, trained)
    return {path: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)) for path, leaf in frozen.items()}


def matching_weights(pattern: str, shapes: WeightShapes, setting: str) -> WeightShapes:
    """Return the weights whose dotted paths a regular expression matches at any place.

    Args:
        pattern: a regular expression, or a name of `WEIGHT_GROUPS`.
        shapes: shapes of the weights to choose from.
        setting: name of the setting with the pattern, for errors.

    Raises:
        UserError: it is not a regular expression, or matches no weight; the line has the nearest names.
    """
    try:
        expression = re.compile(WEIGHT_GROUPS.get(pattern, pattern))
    except re.error as error:
        raise UserError(f"{setting}={shown(pattern)} is not a regular expression ({error})") from None
    chosen = {path: leaf for path, leaf in shapes.items() if expression.search(".".join(path))}
    if not chosen:
        names = [*WEIGHT_GROUPS, *(".".join(path) for path in shapes)]
        near = ", ".join(difflib.get_close_matches(pattern[:200], names, n=_NUM_NEAR, cutoff=0))
        raise UserError(f"{setting}={shown(pattern)} matches no weight of the network; the nearest names are {near}")
    return chosen


def _pattern(training: StageTrainingConfig) -> str | None:
    """Return the pattern of the trained weights; None for all weights."""
    if isinstance(training, AutoencoderTrainingConfig):
        return _DECODER if training.decoder_only else None
    assert isinstance(training, DenoisingTrainingConfig)
    return None if training.trainable == "all" else training.trainable
