"""A network's weights as a flat dictionary: checkpoints store it, optimisers update it and sharding rules read it.

Keys are the paths of the attributes in the modules: `("down_blocks", "0", "resnets", "1", "conv1", "kernel")`.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

WeightPath = tuple[str, ...]
Weights = dict[WeightPath, Array]
WeightShapes = dict[WeightPath, jax.ShapeDtypeStruct]


def weight_path(path: tuple[Any, ...]) -> WeightPath:
    """Return the key of the parameter at `path` in an NNX state."""
    return tuple(str(part) for part in path)


def to_weights(state: nnx.State) -> dict[WeightPath, Any]:
    """Return the arrays or shapes in a state of parameters, by path."""
    return {weight_path(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def to_state(like: nnx.State, weights: dict[WeightPath, Any]) -> nnx.State:
    """Return a state with the structure of `like` and these weights."""
    return nnx.from_flat_state(
        [(path, variable.replace(weights[weight_path(path)])) for path, variable in nnx.to_flat_state(like)]
    )
