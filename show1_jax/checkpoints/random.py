"""Checkpoints with random weights, to run and test the whole cascade before any training."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flax import nnx

from show1_jax.checkpoints.arrays import new_checkpoint
from show1_jax.checkpoints.manifest import Component, Manifest
from show1_jax.checkpoints.networks import architecture_of, kind_of, make_network, network_kind
from show1_jax.checkpoints.recorded_settings import with_settings
from show1_jax.config.sampling import CascadeConfig
from show1_jax.diffusion.schedule import SchedulerConfig, alphas_cumprod
from show1_jax.errors import UserError
from show1_jax.files import check_space
from show1_jax.nn.init import initial_weight
from show1_jax.parallel.weights import WeightPath, to_weights
from show1_jax.text.encoders import TEXT_ENCODERS

SOURCE = "random weights"
"""The `source` in the provenance of components with random weights."""


def write_random_checkpoint(
    directory: Path,
    architecture: Mapping[str, Mapping[str, Any]],
    schedulers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seed: int = 0,
    config: CascadeConfig | None = None,
) -> None:
    """Write a checkpoint with random weights and byte-level tokenizers.

    Args:
        directory: folder of the new checkpoint; must not exist.
        architecture: for every component the fields of its architecture dataclass.
        schedulers: for every UNet its scheduler configs, by role, in diffusers' format.
        seed: seed of the weights.
        config: sampling settings to record; by default none are recorded.

    Raises:
        UserError: `directory` exists, a field is wrong, or the disk is full or too small.
    """
    records = described_manifest(architecture, schedulers, {"source": SOURCE, "seed": seed}).components
    if config is not None:
        records = {name: with_settings(record, name, config) for name, record in records.items()}
    shapes = {name: _weight_shapes(record) for name, record in records.items()}
    check_space(directory, sum(math.prod(shape) for of_one in shapes.values() for shape in of_one.values()) * 4)
    with new_checkpoint(directory) as writer:
        for name, record in records.items():
            # The component's name is part of the path: networks share paths, but their weights must differ.
            weights = {
                path: initial_weight((name, *path), shape, seed, temporal_identity=False)
                for path, shape in shapes[name].items()
            }
            with _byte_tokenizer(name) as tokenizer:
                writer.add(name, record, weights, {path: array.dtype for path, array in weights.items()}, tokenizer)


def described_manifest(
    architecture: Mapping[str, Mapping[str, Any]],
    schedulers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    provenance: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of a checkpoint that does not exist on disk; it lists no files.

    Args:
        architecture: see `write_random_checkpoint`.
        schedulers: see `write_random_checkpoint`.
        provenance: provenance of every component.

    Raises:
        UserError: a field is wrong.
    """
    records = {
        name: new_component(name, fields, schedulers.get(name, {}), provenance) for name, fields in architecture.items()
    }
    return Manifest(records, {})


@contextmanager
def _byte_tokenizer(component: str) -> Iterator[dict[str, Path] | None]:
    """Yield the files of a text encoder's smallest tokenizer by name, removed after the block; None if no encoder."""
    if component not in TEXT_ENCODERS:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        TEXT_ENCODERS[component].write_tokenizer(Path(folder), ())
        yield {path.name: path for path in Path(folder).iterdir()}


def _weight_shapes(record: Component) -> dict[WeightPath, tuple[int, ...]]:
    network = make_network(record.kind, architecture_of(record))
    return {path: leaf.shape for path, leaf in to_weights(nnx.state(network, nnx.Param)).items()}


def new_component(
    name: str,
    architecture: Mapping[str, Any],
    schedulers: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> Component:
    """Return the record of a new component; arguments as in `write_random_checkpoint`, for one component.

    Raises:
        UserError: the name or a field is wrong.
    """
    if not name.isidentifier():
        raise UserError(f"architecture: {name!r} is not the name of a component; use letters, digits and _")
    kind = kind_of(name)
    for role, settings in schedulers.items():
        try:
            alphas_cumprod(SchedulerConfig.from_json(settings))
        except UserError as error:
            raise UserError(f"schedulers: {name}: {role}: {error}") from None
    return Component(
        kind=kind,
        architecture=network_kind(kind).architecture.from_dict(architecture).to_dict(),
        dtype="float32",
        schedulers={role: dict(values) for role, values in schedulers.items()},
        provenance=dict(provenance),
    )
