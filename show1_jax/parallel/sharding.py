"""Which array lies where. Weights are spread over `fsdp`, batches over `data`; nothing else is sharded by hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def weight_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """How one weight is spread: over its widest axis that divides, the last of equals; a vector not at all."""
    if len(shape) < 2:
        return PartitionSpec()
    _, axis = max((size if size % fsdp == 0 else 0, axis) for axis, size in enumerate(shape))
    if shape[axis] % fsdp:
        return PartitionSpec()
    return PartitionSpec(*("fsdp" if index == axis else None for index in range(len(shape))))


def weight_shardings(abstract_state: nnx.State, mesh: Mesh) -> Any:
    """A sharding for every weight, in the structure of `abstract_state`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, weight_spec(leaf.shape, mesh.shape["fsdp"])), abstract_state)


def constrain_batch(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Keep an activation's batch over `data` and the rest of it whole, where a mesh is set (`jax.set_mesh`).

    Without it the compiler may follow a sharded weight and spread channels, at the cost of exchanges in every norm.
    """
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec("data"))


def put_batch(x: np.ndarray, mesh: Mesh) -> Array:
    """A batch that every process holds whole, spread over `data`."""
    return jax.make_array_from_callback(x.shape, batch_sharding(mesh), lambda index: x[index])


def gather(x: Array, mesh: Mesh) -> np.ndarray:
    """The whole of an array, on every process."""
    return np.asarray(x if x.is_fully_addressable else _replicate(mesh)(x))


@functools.lru_cache(maxsize=4)
def _replicate(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=replicated_sharding(mesh))
