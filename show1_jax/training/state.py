"""What training changes: weights, their average, the optimiser's moments, the step and the random key."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, UInt32

from show1_jax.diffusion.random_keys import key_data
from show1_jax.parallel import shardings_by_path
from show1_jax.parallel.weights import Weights, WeightShapes


class TrainState(NamedTuple):
    """All that a resumed run needs, besides its place in the data.

    Attributes:
        step: steps done.
        key: data of the random key that every draw comes from, with the step and the row folded in.
        weights: float32.
        average: of the weights; what is evaluated, sampled from and published.
        optimizer: the optimiser's state.
    """

    step: Int32[Array, ""]
    key: UInt32[Array, "..."]
    weights: Weights
    average: Weights
    optimizer: optax.OptState


def abstract_state(
    shapes: WeightShapes | Weights, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh
) -> Any:
    """Shapes of a whole `TrainState`, each with its sharding: the optimiser and the average lie as the weights do.

    Args:
        shapes: float32 shapes of the weights, or the weights.
        optimizer: whose state is asked for.
        mesh: of devices, or their number alone (`jax.sharding.AbstractMesh`).
    """
    shardings = shardings_by_path(shapes, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())

    def placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def placed_moment(leaf: Any, sharding: NamedSharding) -> Any:
        return leaf if isinstance(leaf, optax.MaskedNode) else placed(leaf, sharding)

    weights = {path: placed(leaf, shardings[path]) for path, leaf in shapes.items()}
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        placed_moment,
        jax.eval_shape(optimizer.init, weights),
        shardings,
        transform_non_params=lambda leaf: placed(leaf, replicated),
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),  # a weight that another optimiser has
    )
    key = jax.eval_shape(key_data, 0)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    state: tuple[Any, ...] = (step, placed(key, replicated), weights, weights, moments)
    return TrainState(*state)


def new_state(weights: Weights, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """The state before the first step, from weights that lie where they belong."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(weights, optimizer, mesh))
    key = np.asarray(key_data(seed))

    def rest(weights: Weights) -> tuple[Any, ...]:
        return jnp.int32(0), jnp.asarray(key), jax.tree.map(jnp.copy, weights), optimizer.init(weights)

    placed = (shardings.step, shardings.key, shardings.average, shardings.optimizer)
    step, key_there, average, moments = jax.jit(rest, out_shardings=placed)(weights)
    return TrainState(step, key_there, weights, average, moments)
