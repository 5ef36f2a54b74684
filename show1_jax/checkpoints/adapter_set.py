"""Adapters in use: opened, checked against the weights that they belong to, and added when a network is loaded."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from show1_jax.checkpoints.adapters import ADAPTER, LORA_A, LORA_B, AdapterConfig, lora_shapes, weight_changes
from show1_jax.checkpoints.arrays import load_arrays, weight_shapes
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, resolve_checkpoint
from show1_jax.checkpoints.manifest import check_hashes, check_sizes, read_manifest
from show1_jax.checkpoints.networks import LoadedNetwork, architecture_of, make_network
from show1_jax.checkpoints.reading import move_to_layouts
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.parallel import replicated_sharding, shardings_by_path
from show1_jax.parallel.weights import WeightPath, Weights, WeightShapes, to_state, to_weights

MAX_STRENGTH: Final = 100.0


class Adapter(NamedTuple):
    """An adapter that was opened; its arrays are not read yet.

    Attributes:
        folder: its checkpoint.
        component: the network that it adapts.
        config: its record.
        strength: factor of its changes; 0 leaves the network unchanged.
        shapes: shapes of its arrays.
        digest: hash that identifies it.
    """

    folder: Path
    component: str
    config: AdapterConfig
    strength: float
    shapes: WeightShapes
    digest: str


def open_adapters(names: str, checkpoints: CheckpointSet) -> tuple[Adapter, ...]:
    """Open adapters by name and check that they fit. All processes must call this at the same point.

    Args:
        names: `DIR` or `DIR:STRENGTH`, separated by commas; empty: none. Each folder is a step of a training run, or
            the working directory of a training run: then its newest intact step is used. The strength is 1 by default.
        checkpoints: checkpoints with the networks.

    Raises:
        UserError: a folder is not an adapter, is damaged, belongs to other weights, or does not fit the network; or a
            strength is not a number from -`MAX_STRENGTH` to `MAX_STRENGTH`.
    """
    adapters = []
    for folder, strength in split_adapters(names):
        manifest = read_manifest(path := resolve_checkpoint(folder))
        for component, record in manifest.components.items():
            if record.kind != ADAPTER:
                raise UserError(f"{folder} is not an adapter but a checkpoint; give it as --checkpoint")
            config = AdapterConfig.from_dict(record.architecture)
            check_sizes(path, component)
            shapes = weight_shapes(path, component)
            adapter = Adapter(path, component, config, strength, shapes, manifest.digest(component))
            _check_fits(adapter, checkpoints)
            adapters.append(adapter)
    return tuple(adapters)


def split_adapters(names: str) -> list[tuple[Path, float]]:
    """Return the folders and strengths that `DIR[:STRENGTH],...` names; see `open_adapters`."""
    return [_split_strength(name.strip()) for name in names.split(",") if name.strip()]


def _split_strength(name: str) -> tuple[Path, float]:
    folder, colon, number = name.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(name)):
        return user_path(name), 1.0
    try:
        strength = float(number)
    except ValueError:
        return user_path(name), 1.0
    if not abs(strength) <= MAX_STRENGTH:
        raise UserError(f"{name}: the strength of an adapter must be from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    return user_path(folder), strength


class AdaptedCheckpoints:
    """Checkpoints whose networks are loaded with adapters; it is a function that loads networks.

    Weights are adapted in float32 and rounded to their dtype. Networks keep their structure, so compiled programs run
    them with any adapters.

    Attributes:
        checkpoints: the checkpoints.
        adapters: adapters, of any of their networks.
    """

    def __init__(self, checkpoints: CheckpointSet, adapters: Sequence[Adapter] = ()):
        self.checkpoints, self.adapters = checkpoints, tuple(adapters)

    def __call__(
        self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = (), formats: Any = None
    ) -> LoadedNetwork:
        """Load a network and add its adapters; see `CheckpointSet.load`.

        Raises:
            UserError: as there; or an adapter's files are damaged or have values that are not finite.
        """
        network = self.checkpoints.load(component, mesh, dtype, part, formats)
        adapters = [adapter for adapter in self.adapters if adapter.component == component and adapter.strength]
        if not adapters:
            return network
        weights = to_weights(network.weights)
        for path, change in added_changes(weights, adapters, mesh).items():
            weights[path] = _changed(weights[path], change)
        return network._replace(weights=to_state(network.weights, weights))


def added_changes(base: Weights, adapters: Sequence[Adapter], mesh: Mesh) -> Weights:
    """Return the sum of the float32 changes that adapters of one network make, by path of the weight.

    Args:
        base: the weights of the network; those that no adapter replaces may be absent.
        adapters: adapters of the network.
        mesh: mesh of the changes.

    Raises:
        UserError: an adapter's files are damaged or have values that are not finite.
    """
    changes: Weights = {}
    for adapter in adapters:
        for path, change in weight_changes(base, read_adapter(adapter, mesh), adapter.config.scale).items():
            scaled = adapter.strength * change
            changes[path] = changes[path] + scaled if path in changes else scaled
    return changes


def _changed(weight: Any, change: Array) -> Array:
    """Return a changed weight with the sharding and the layout of the original, which is deleted."""
    changed = jax.jit(_add, out_shardings=weight.sharding)(weight, change)
    moved = move_to_layouts({(): changed}, {(): weight.format})[()]
    weight.delete()
    return moved


def _add(weight: Array, change: Array) -> Array:
    return (weight.astype(jnp.float32) + change).astype(weight.dtype)


def read_adapter(adapter: Adapter, mesh: Mesh) -> Weights:
    """Read an adapter's arrays, float32, sharded over the mesh as weights are, and check their hashes.

    Raises:
        UserError: its files are damaged or have values that are not finite.
    """
    check_hashes(adapter.folder, f"{adapter.component}/weights", together=True)
    shardings = shardings_by_path(adapter.shapes, mesh)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=shardings[path])
        for path, leaf in adapter.shapes.items()
    }
    arrays = load_arrays(adapter.folder, f"{adapter.component}/weights", wanted)
    finite = jax.jit(
        lambda arrays: jnp.stack([jnp.isfinite(array).all() for array in arrays.values()]).all(),
        out_shardings=replicated_sharding(mesh),
    )
    if not finite(arrays):
        raise UserError(f"{adapter.folder}: the adapter has values that are NaN or infinite; use an earlier step")
    return arrays


def _check_fits(adapter: Adapter, checkpoints: CheckpointSet) -> None:
    """Refuse an adapter of other weights, or whose arrays do not fit the network or its own record."""
    component, where = adapter.component, f"{adapter.folder}: the adapter"
    if adapter.config.base != checkpoints.manifest.digest(component):
        raise UserError(
            f"{where} belongs to other weights than the {component} of {checkpoints.path(component)}; "
            "give the checkpoint that it was trained on"
        )
    record = checkpoints.component(component)
    network = make_network(record.kind, architecture_of(record))
    weights = to_weights(nnx.state(network, nnx.Param))
    kernels = {
        kernel: weights[kernel]
        for path in adapter.shapes
        if path[-1] in (LORA_A, LORA_B) and (kernel := (*path[:-1], "kernel")) in weights
    }
    allowed = weights | lora_shapes(kernels, adapter.config.rank or 1)
    for path, leaf in adapter.shapes.items():
        name, wanted = ".".join(path), allowed.get(path)
        if wanted is None:
            raise UserError(f"{where} has {name}, which {component} does not have")
        if math.prod(leaf.shape) == 0 or tuple(leaf.shape) != tuple(wanted.shape):
            raise UserError(f"{where}: {name} has the shape {tuple(leaf.shape)} and not {tuple(wanted.shape)}")
    for kernel in kernels:
        for part in (LORA_A, LORA_B):
            if (*kernel[:-1], part) not in adapter.shapes:
                raise UserError(f"{where} lacks {'.'.join((*kernel[:-1], part))}, the other part of a pair")
