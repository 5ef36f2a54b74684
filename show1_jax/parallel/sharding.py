"""All sharding rules, by the axes of the mesh.

`data`     replicas of the weights; each computes a part of the batch.
`fsdp`     every weight is sharded over it and gathered for use; the batch is sharded over it as well.
`tensor`   heads and hidden channels of the layers with wide activations are sharded over it.
`guidance` the conditional and unconditional branch, which are concatenated in a network's batch.
`height`   the rows of frames: convolutions exchange the rows at the edges, norms sums, attention keys and values.

The last two are for sampling, where there may be more devices than videos. Time is never sharded: every temporal layer
would exchange all of it, and 29 frames do not divide evenly.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from show1_jax.errors import UserError
from show1_jax.parallel.weights import WeightPath, to_state, to_weights

BATCH_AXES: Final = ("data", "fsdp")

# Pairs of layers whose hidden channels are sharded over `tensor`: the first computes a part of them on each device, the
# second sums over them (Shoeybi et al. 2019, arXiv 1909.08053). The patterns match the end of a path.
_COLUMN_PARALLEL: Final = re.compile(
    r"(^|/)(to_[qkv]|add_[kv]_proj|[qkv]|[qkv]_proj|ff/proj_in|wi_[01]|fc1|conv1|conv[13]/conv)/kernel$"
)
_ROW_PARALLEL: Final = re.compile(r"(^|/)(to_out|o|out_proj|ff/proj_out|wo|fc2|conv2|conv[24]/conv)/kernel$")


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh | AbstractMesh, axes: tuple[str, ...] = ("data",)) -> NamedSharding:
    """Return the sharding of the leading axis over mesh axes: `data` for sampling, `BATCH_AXES` for training."""
    return NamedSharding(mesh, PartitionSpec(axes))


def weight_spec(path: WeightPath, shape: tuple[int, ...], fsdp: int, tensor: int = 1) -> PartitionSpec:
    """Return the sharding of one weight.

    Args:
        path: path of the weight, which names its layer.
        shape: shape of the weight; vectors are replicated.
        fsdp: size of that mesh axis. It shards the widest dimension that it divides, the last one of equal ones.
        tensor: size of that mesh axis. It shards the hidden dimension of the layers above, if it divides it.
    """
    if len(shape) < 2:
        return PartitionSpec()
    axes: list[str | None] = [None] * len(shape)
    hidden = _hidden_axis("/".join(path), len(shape))
    if tensor > 1 and hidden is not None and shape[hidden] % tensor == 0:
        axes[hidden] = "tensor"
    free = [(size, axis) for axis, size in enumerate(shape) if axes[axis] is None and size % fsdp == 0]
    if free:
        axes[max(free)[1]] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def _hidden_axis(path: str, ndim: int) -> int | None:
    if _COLUMN_PARALLEL.search(path):
        return ndim - 1
    return ndim - 2 if _ROW_PARALLEL.search(path) else None


def shardings_by_path(shapes: Mapping[WeightPath, Any], mesh: Mesh | AbstractMesh) -> dict[WeightPath, NamedSharding]:
    """Return a sharding for every weight of a flat dictionary of arrays or shapes."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    return {path: NamedSharding(mesh, weight_spec(path, leaf.shape, fsdp, tensor)) for path, leaf in shapes.items()}


def weight_shardings(abstract_state: nnx.State, mesh: Mesh) -> nnx.State:
    """Return a sharding for every weight, in the structure of `abstract_state`."""
    return to_state(abstract_state, shardings_by_path(to_weights(abstract_state), mesh))


def constrain_batch(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Shard an array over `data` alone, as `put_batch` does, if a mesh is set (`jax.set_mesh`)."""
    return _constrain(x, PartitionSpec(("data",)))


def constrain_replicated(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Replicate an array on every device, if a mesh is set (`jax.set_mesh`)."""
    return _constrain(x, PartitionSpec())


def _constrain(x: Shaped[Array, "..."], spec: PartitionSpec) -> Shaped[Array, "..."]:
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def constrain_activation(x: Shaped[Array, "b t p ..."]) -> Shaped[Array, "b t p ..."]:
    """Shard the batch and the rows of an activation, but not its time and channels, if a mesh is set (`jax.set_mesh`).

    The batch is sharded over `data`, and over `fsdp` and `guidance` if they divide it. The third axis, rows or pixels,
    is sharded over `height`, and over `guidance` if the batch is not; it need not divide evenly. Without the constraint
    the compiler may follow a sharded weight and shard channels, which adds communication to every norm. It may also
    compute the attention of all pixels on every device.
    """
    batch, rows = activation_axes(x.shape[0])
    return jax.lax.with_sharding_constraint(x, PartitionSpec(batch, None, rows)) if batch else x


def activation_axes(
    batch_size: int, mesh: Mesh | AbstractMesh | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the axes that shard the batch of an activation and its rows, as `constrain_activation` does.

    Args:
        batch_size: size of the batch.
        mesh: mesh of the devices; by default the one that is set (`jax.set_mesh`). Without one, there are no axes.
    """
    sizes = (mesh or jax.sharding.get_abstract_mesh()).shape
    if "data" not in sizes:
        return (), ()
    batch, num_shards = ["data"], sizes["data"]
    for axis in ("fsdp", "guidance"):
        if axis in sizes and batch_size % (num_shards * sizes[axis]) == 0:
            batch.append(axis)
            num_shards *= sizes[axis]
    return tuple(batch), tuple(axis for axis in ("guidance", "height") if axis in sizes and axis not in batch)


def constrain_stored(x: Shaped[Array, "b t p ..."]) -> Shaped[Array, "b t p ..."]:
    """Shard an activation that a program returns as `stored_sharding` says, if a mesh is set (`jax.set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if "data" not in mesh.shape else jax.lax.with_sharding_constraint(x, stored_sharding(mesh, x.shape))


def stored_sharding(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> NamedSharding:
    """Return the sharding of an activation between two programs: that of `constrain_activation`, if it is even.

    Args:
        mesh: mesh of the devices.
        shape: shape of the activation, (batch, time, rows, ...). Rows that do not divide evenly are not sharded.
    """
    batch, rows = activation_axes(shape[0], mesh)
    is_even = shape[2] % math.prod(mesh.shape[axis] for axis in rows) == 0
    return NamedSharding(mesh, PartitionSpec(batch, None, rows if is_even else None))


def shards_of(axes: Iterable[str]) -> int:
    """Return the number of shards of an axis that is sharded over axes of the mesh that is set; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in axes)


def put_batch(x: np.ndarray, mesh: Mesh) -> Array:
    """Shard a batch, which every process has completely, over `data`."""
    return jax.make_array_from_callback(x.shape, batch_sharding(mesh), lambda index: x[index])


def local_rows(mesh: Mesh, batch_size: int) -> range:
    """Return the rows of a training batch on the devices of this process.

    Rows are sharded in the order of the mesh, whose first axis is over processes, so the rows of a process are
    contiguous.
    """
    indices = batch_sharding(mesh, BATCH_AXES).addressable_devices_indices_map((batch_size,)).values()
    slices = [index[0].indices(batch_size) for index in indices if index is not None]
    return range(min(start for start, _, _ in slices), max(stop for _, stop, _ in slices))


def put_rows(x: np.ndarray, rows: range, batch_size: int, mesh: Mesh) -> Array:
    """Shard a training batch over `BATCH_AXES`.

    Args:
        x: the part of the batch in this process.
        rows: rows of the batch in `x`, from `local_rows`.
        batch_size: rows of the batch in all processes.
        mesh: mesh of the devices.
    """

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(batch_size)
        return x[start - rows.start : stop - rows.start]

    return jax.make_array_from_callback((batch_size, *x.shape[1:]), batch_sharding(mesh, BATCH_AXES), part)


def gather(x: Array, mesh: Mesh) -> np.ndarray:
    """Return the complete array in every process."""
    return np.asarray(x if x.is_fully_addressable else _replicate(mesh)(x))


def check_finite(x: Array, mesh: Mesh, source: str) -> None:
    """Wait for an array and refuse values that are not finite, in every process.

    Args:
        x: array computed on the devices of `mesh`.
        mesh: mesh of the devices.
        source: computation that made the array, as the subject of the error message.

    Raises:
        UserError: a value is NaN or infinite.
    """
    if not _all_finite(mesh)(x):
        raise not_finite(source)


def not_finite(source: str) -> UserError:
    """Return the error for a computation, named by `source`, whose results are not all finite."""
    return UserError(
        f"{source} gave values that are NaN or infinite; check the weights with `python -m convert verify "
        "CHECKPOINT`, or use --config.precision=float32, a smaller guidance_scale or another sampler"
    )


@functools.lru_cache(maxsize=4)
def _all_finite(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: jnp.isfinite(x).all(), out_shardings=replicated_sharding(mesh))


@functools.lru_cache(maxsize=4)
def _replicate(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=replicated_sharding(mesh))
