"""Which array lies where: all rules are here, by the mesh's axes.

`data`     copies of the weights; each sees a part of the batch.
`fsdp`     every weight is spread over it and gathered where it is used; the batch is spread over it as well.
`tensor`   the layers that make wide activations are split: heads and hidden channels.
`guidance` the two halves of guidance, which lie side by side in a network's batch.
`height`   the rows of frames: convolutions exchange the rows at the edges, norms sums, attention keys and values.

The last two are for sampling, where there may be more devices than videos. Time is never split: every temporal layer
would exchange all of it, and 29 frames divide over nothing.
"""

import functools
import re
from collections.abc import Callable, Mapping
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

# Pairs of layers whose hidden side is split over `tensor`: the first makes a part of the hidden channels on each
# device, the second sums over them (Shoeybi et al. 2019, arXiv 1909.08053). A path's end, before its `kernel`.
_MAKES_HIDDEN: Final = re.compile(
    r"(^|/)(to_[qkv]|add_[kv]_proj|[qkv]|[qkv]_proj|ff/proj_in|wi_[01]|fc1|conv1|conv[13]/conv)/kernel$"
)
_SUMS_HIDDEN: Final = re.compile(r"(^|/)(to_out|o|out_proj|ff/proj_out|wo|fc2|conv2|conv[24]/conv)/kernel$")


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh | AbstractMesh, axes: tuple[str, ...] = ("data",)) -> NamedSharding:
    """The leading axis over these axes of the mesh: `data` when sampling, `BATCH_AXES` when training."""
    return NamedSharding(mesh, PartitionSpec(axes))


def weight_spec(path: WeightPath, shape: tuple[int, ...], fsdp: int, tensor: int = 1) -> PartitionSpec:
    """How one weight is spread.

    Args:
        path: says which layer it belongs to.
        shape: vectors are not spread.
        fsdp: size of that axis: it takes the widest side that it divides, the last of equals.
        tensor: size of that axis: it takes the hidden side of the layers named above, if it divides it.
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
    if _MAKES_HIDDEN.search(path):
        return ndim - 1
    return ndim - 2 if _SUMS_HIDDEN.search(path) else None


def shardings_by_path(shapes: Mapping[WeightPath, Any], mesh: Mesh | AbstractMesh) -> dict[WeightPath, NamedSharding]:
    """A sharding for every weight of a flat dictionary of arrays or shapes."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    return {path: NamedSharding(mesh, weight_spec(path, leaf.shape, fsdp, tensor)) for path, leaf in shapes.items()}


def weight_shardings(abstract_state: nnx.State, mesh: Mesh) -> nnx.State:
    """A sharding for every weight, in the structure of `abstract_state`."""
    return to_state(abstract_state, shardings_by_path(to_weights(abstract_state), mesh))


def constrain_batch(x: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
    """Leave an array as `put_batch` puts it, where a mesh is set (`jax.set_mesh`): its batch over `data`, no more."""
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(("data",)))


def constrain_activation(x: Shaped[Array, "b t p ..."]) -> Shaped[Array, "b t p ..."]:
    """Keep an activation spread where a mesh is set (`jax.set_mesh`), and its time and channels whole.

    The batch goes over `data` and those of `fsdp` and `guidance` that divide it. The third axis, rows or pixels, goes
    over `height`, and over `guidance` where the batch does not; it need not divide. Left to itself the compiler may
    follow a sharded weight and spread channels, at the cost of exchanges in every norm, or have every device attend
    from all pixels.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    if "data" not in sizes:
        return x
    batch, places = ["data"], sizes["data"]
    for axis in ("fsdp", "guidance"):
        if axis in sizes and x.shape[0] % (places * sizes[axis]) == 0:
            batch.append(axis)
            places *= sizes[axis]
    rows = tuple(axis for axis in ("guidance", "height") if axis in sizes and axis not in batch)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(tuple(batch), None, rows))


def put_batch(x: np.ndarray, mesh: Mesh) -> Array:
    """A batch that every process holds whole, spread over `data`."""
    return jax.make_array_from_callback(x.shape, batch_sharding(mesh), lambda index: x[index])


def local_rows(mesh: Mesh, batch_size: int) -> range:
    """The rows of a training batch that the devices of this process hold.

    Rows are spread in the mesh's order, whose first axis goes over processes: those of a process lie side by side.
    """
    indices = batch_sharding(mesh, BATCH_AXES).addressable_devices_indices_map((batch_size,)).values()
    slices = [index[0].indices(batch_size) for index in indices if index is not None]
    return range(min(start for start, _, _ in slices), max(stop for _, stop, _ in slices))


def put_rows(x: np.ndarray, rows: range, batch_size: int, mesh: Mesh) -> Array:
    """A training batch of which this process holds `rows`, of `local_rows`, spread over `BATCH_AXES`."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(batch_size)
        return x[start - rows.start : stop - rows.start]

    return jax.make_array_from_callback((batch_size, *x.shape[1:]), batch_sharding(mesh, BATCH_AXES), part)


def gather(x: Array, mesh: Mesh) -> np.ndarray:
    """The whole of an array, on every process."""
    return np.asarray(x if x.is_fully_addressable else _replicate(mesh)(x))


def check_finite(x: Array, mesh: Mesh, what: str) -> None:
    """Wait for an array and refuse values that are not finite, in every process.

    Args:
        x: computed on the devices of `mesh`.
        mesh: of devices.
        what: made the array, as the beginning of a sentence.

    Raises:
        UserError: a value is NaN or infinite.
    """
    if not _all_finite(mesh)(x):
        raise UserError(
            f"{what} gave values that are NaN or infinite; check the weights with `python -m convert verify "
            "CHECKPOINT`, or take --config.precision=float32, a smaller guidance_scale or another sampler"
        )


@functools.lru_cache(maxsize=4)
def _all_finite(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: jnp.isfinite(x).all(), out_shardings=replicated_sharding(mesh))


@functools.lru_cache(maxsize=4)
def _replicate(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=replicated_sharding(mesh))
