"""The training state: weights, their average, the optimiser's state, the step and the random key."""

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
    """Everything that a resumed run requires, except its position in the data.

    Attributes:
        step: number of completed steps.
        key: data of the run's random key; every draw comes from it, with the step and the row folded in.
        weights: trained weights, float32; the frozen weights of the network are not in the state.
        average: moving average of the weights; evaluated, sampled from and published.
        optimizer: state of the optimiser.
    """

    step: Int32[Array, ""]
    key: UInt32[Array, "..."]
    weights: Weights
    average: Weights
    optimizer: optax.OptState


def abstract_state(
    shapes: WeightShapes | Weights, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh
) -> Any:
    """Return the shapes of a `TrainState` with their shardings.

    The average and the optimiser's moments are sharded like the weights; the rest is replicated.

    Args:
        shapes: float32 shapes of the trained weights, or these weights.
        optimizer: optimiser of the run.
        mesh: devices, or only the sizes of their axes (`jax.sharding.AbstractMesh`).
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
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),  # a weight that another optimiser trains
    )
    key = jax.eval_shape(key_data, 0)
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    state: tuple[Any, ...] = (step, placed(key, replicated), weights, weights, moments)
    return TrainState(*state)


def new_state(weights: Weights, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """Return the state before the first step.

    Args:
        weights: initial trained weights, already sharded over the mesh.
        optimizer: optimiser of the run.
        seed: seed of all draws of the run.
        mesh: devices.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(weights, optimizer, mesh))
    key = np.asarray(key_data(seed))

    def initial_parts(weights: Weights) -> tuple[Any, ...]:
        return jnp.int32(0), jnp.asarray(key), jax.tree.map(jnp.copy, weights), optimizer.init(weights)

    placed = (shardings.step, shardings.key, shardings.average, shardings.optimizer)
    step, placed_key, average, moments = jax.jit(initial_parts, out_shardings=placed)(weights)
    return TrainState(step, placed_key, weights, average, moments)
