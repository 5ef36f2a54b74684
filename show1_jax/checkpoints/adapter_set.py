"""Adapters in use: opened, checked against the weights that they belong to, and added to a network's weights."""

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from show1_jax.checkpoints.adapters import (
    ADAPTER,
    LORA_A,
    LORA_B,
    AdapterConfig,
    changed_weight,
    lora_shapes,
    weight_changes,
)
from show1_jax.checkpoints.arrays import load_arrays, weight_shapes
from show1_jax.checkpoints.checkpoint_set import fetch_component, is_hub_name, resolve_checkpoint
from show1_jax.checkpoints.manifest import Manifest, check_hashes, read_manifest
from show1_jax.checkpoints.networks import architecture_of, make_network
from show1_jax.checkpoints.reading import move_to_layouts
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.files import is_present, storage_path
from show1_jax.nn.config import Architecture
from show1_jax.parallel import replicated_sharding, shardings_by_path
from show1_jax.parallel.weights import WeightPath, Weights, WeightShapes, to_weights

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


def open_adapters(names: str, manifest: Manifest) -> tuple[Adapter, ...]:
    """Open adapters by name and check that they fit. All processes must call this at the same point.

    Args:
        names: `DIR` or `DIR:STRENGTH`, separated by commas; empty: none. Each folder is a step of a training run, or
            the working directory of a training run: then its newest intact step is used; or `hub:OWNER/NAME`, see
            `CheckpointSet.open`. The strength is 1 by default.
        manifest: components of the checkpoint with the networks.

    Raises:
        UserError: a folder does not exist, is not an adapter, is damaged, belongs to other weights, or does not fit the
            network; or a strength is not a number from -`MAX_STRENGTH` to `MAX_STRENGTH`.
    """
    adapters = []
    for folder, strength in split_adapters(names):
        if not is_hub_name(folder) and not is_present(folder):
            raise UserError(
                f"there is no adapter {folder}; give the working directory of the run that trained it, or a folder "
                "made by `python -m convert import`; a strength is a number behind a colon"
            )
        own = read_manifest(path := resolve_checkpoint(folder))
        for component, record in own.components.items():
            if record.kind != ADAPTER:
                raise UserError(f"{folder} is not an adapter but a checkpoint; give it as --checkpoint")
            config = AdapterConfig.from_dict(record.architecture)
            fetch_component(path, component)
            check_hashes(path, component, together=True)
            shapes = weight_shapes(path, component)
            adapter = Adapter(path, component, config, strength, shapes, own.digest(component))
            _check_fits(adapter, manifest)
            adapters.append(adapter)
    return tuple(adapters)


def split_adapters(names: str) -> list[tuple[Path, float]]:
    """Return the folders and strengths that `DIR[:STRENGTH],...` names; see `open_adapters`."""
    return [_split_strength(name.strip()) for name in names.split(",") if name.strip()]


def _split_strength(name: str) -> tuple[Path, float]:
    folder, colon, number = name.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(name)):
        return storage_path(name), 1.0
    try:
        strength = float(number)
    except ValueError:
        return storage_path(name), 1.0
    if not abs(strength) <= MAX_STRENGTH:
        raise UserError(f"{name}: the strength of an adapter must be from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    return storage_path(folder), strength


def adapted_weights(weights: Weights, adapters: Sequence[Adapter], mesh: Mesh) -> Weights:
    """Return the weights that adapters change, by path, as new arrays; the given ones are kept.

    A weight W becomes W + the sum of strength x change, added in float32 and rounded to its dtype. It has the sharding
    and the layout of W, so that programs that were compiled for the network run with it.

    Args:
        weights: weights of a network on the devices; those that no adapter changes may be absent.
        adapters: adapters of this network, with strengths other than 0.
        mesh: devices.

    Raises:
        UserError: an adapter has values that are not finite.
    """
    read = [_Change(read_adapter(adapter, mesh), adapter.config.scale, adapter.strength) for adapter in adapters]
    paths = {changed_weight(path) for change in read for path in change.arrays}
    changed: dict[WeightPath, Any] = {path: weight for path, weight in weights.items() if path in paths}
    shardings = {path: weight.sharding for path, weight in changed.items()}
    adapted = jax.jit(_add, out_shardings=shardings)(changed, read)  # the program is the same with any strengths
    return move_to_layouts(adapted, {path: weight.format for path, weight in changed.items()})


class _Change(NamedTuple):
    """The arrays of an adapter, and the factors of their changes."""

    arrays: Weights
    scale: float
    strength: float


def _add(weights: Weights, changes: Sequence[_Change]) -> Weights:
    """Return weights with the sums of their changes."""
    total: Weights = {}
    for arrays, scale, strength in changes:
        for path, change in weight_changes(weights, arrays, scale).items():
            total[path] = total[path] + strength * change if path in total else strength * change
    return {path: (weight.astype(jnp.float32) + total[path]).astype(weight.dtype) for path, weight in weights.items()}


def read_adapter(adapter: Adapter, mesh: Mesh) -> Weights:
    """Read an adapter's arrays, float32, sharded over the mesh as weights are.

    Raises:
        UserError: values are not finite.
    """
    shardings = shardings_by_path(adapter.shapes, mesh)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=shardings[path])
        for path, leaf in adapter.shapes.items()
    }
    arrays = load_arrays(adapter.folder, f"{adapter.component}/weights", wanted)
    if not jax.jit(_all_finite, out_shardings=replicated_sharding(mesh))(arrays):
        raise UserError(f"{adapter.folder}: the adapter has values that are NaN or infinite; use an earlier step")
    return arrays


def _all_finite(arrays: Weights) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays.values()]).all()


@functools.lru_cache(maxsize=8)
def _network_shapes(kind: str, architecture: Architecture) -> WeightShapes:
    """Return the shapes of a network's weights; they are kept, because a network takes long to build."""
    return to_weights(nnx.state(make_network(kind, architecture), nnx.Param))


def _check_fits(adapter: Adapter, manifest: Manifest) -> None:
    """Refuse an adapter of other weights, or whose arrays do not fit the network or its own record."""
    component, where = adapter.component, f"{adapter.folder}: the adapter"
    if component not in STAGES:
        raise UserError(f"{where} changes {component}; only the networks of stages have adapters: {', '.join(STAGES)}")
    if component not in manifest.components:
        raise UserError(
            f"{where} changes {component}, which the checkpoint does not have; it has {', '.join(manifest.components)}"
        )
    if adapter.config.base != manifest.digest(component):
        raise UserError(
            f"{where} belongs to other weights than the {component} of the checkpoint; "
            "give the checkpoint that it was trained on"
        )
    record = manifest.component(component)
    weights = _network_shapes(record.kind, architecture_of(record))
    of_pairs = {changed_weight(path) for path in adapter.shapes if path[-1] in (LORA_A, LORA_B)}
    kernels = {path: weight for path, weight in weights.items() if path in of_pairs}
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
        if kernel in adapter.shapes:
            raise UserError(f"{where} has {'.'.join(kernel)} and also a pair that changes it; it must have one of them")
