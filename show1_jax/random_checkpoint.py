"""Checkpoints with random weights: the whole cascade can be run and tested before anything is trained."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from show1_jax.checkpoint import new_checkpoint
from show1_jax.diffusion import SchedulerConfig, alphas_cumprod
from show1_jax.errors import UserError
from show1_jax.files import check_space
from show1_jax.manifest import Component
from show1_jax.models import ARCHITECTURES, architecture_of, build
from show1_jax.text import write_tokenizers
from show1_jax.weights import WeightPath, to_weights

TEXT_ENCODERS = {"text_t5": "t5", "text_clip": "clip"}
"""The kind of each text encoder, which is also the folder that `write_tokenizers` gives its tokenizer."""
KINDS = {**TEXT_ENCODERS, "vae": "vae"}
"""The kind of network of each component that is no UNet."""
SOURCE = "random weights"
"""What the provenance of such components says."""


def write_random_checkpoint(
    directory: Path,
    architecture: Mapping[str, Mapping[str, Any]],
    schedulers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seed: int = 0,
) -> None:
    """Write a checkpoint whose weights are random, and whose tokenizers know bytes only.

    Args:
        directory: must not exist.
        architecture: for every component the fields of its architecture dataclass.
        schedulers: for every UNet its scheduler configs, by role, in diffusers' form.
        seed: of the weights.

    Raises:
        UserError: `directory` exists, a field is wrong, or the disk is full or too small.
    """
    rng = np.random.default_rng(seed)
    origin = {"source": SOURCE, "seed": seed}
    records = {
        name: new_component(name, fields, schedulers.get(name, {}), origin) for name, fields in architecture.items()
    }
    shapes = {name: _weight_shapes(record) for name, record in records.items()}
    check_space(directory, sum(math.prod(shape) for of_one in shapes.values() for shape in of_one.values()) * 4)
    with tempfile.TemporaryDirectory() as scratch, new_checkpoint(directory) as writer:
        write_tokenizers(scratch)
        for name, record in records.items():
            weights = {path: _random_weight(rng, path[-1], shape) for path, shape in shapes[name].items()}
            folder = Path(scratch) / TEXT_ENCODERS.get(name, "")
            tokenizer = {path.name: path for path in folder.iterdir()} if name in TEXT_ENCODERS else None
            writer.add(name, record, weights, {path: array.dtype for path, array in weights.items()}, tokenizer)


def _weight_shapes(record: Component) -> dict[WeightPath, tuple[int, ...]]:
    network = build(record.kind, architecture_of(record))
    return {path: leaf.shape for path, leaf in to_weights(nnx.state(network, nnx.Param)).items()}


def new_component(
    name: str,
    architecture: Mapping[str, Any],
    schedulers: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> Component:
    """The record of a network that is made here; arguments as of `write_random_checkpoint`, for one component."""
    if not name.isidentifier():
        raise UserError(f"architecture: {name!r} is no component's name; take letters, digits and _")
    kind = KINDS.get(name, "unet")
    for role, settings in schedulers.items():
        try:
            alphas_cumprod(SchedulerConfig.from_json(settings))
        except UserError as error:
            raise UserError(f"schedulers: {name}: {role}: {error}") from None
    return Component(
        kind=kind,
        architecture=ARCHITECTURES[kind].from_dict(architecture).to_dict(),
        dtype="float32",
        schedulers={role: dict(values) for role, values in schedulers.items()},
        provenance=dict(provenance),
    )


def _random_weight(rng: np.random.Generator, name: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Norms as the identity, biases zero, all else Gaussian by fan-in. NumPy's, for it has nothing to compile."""
    if name in ("scale", "bias"):
        return np.full(shape, float(name == "scale"), np.float32)
    return rng.standard_normal(shape, np.float32) / np.float32(math.prod(shape[:-1]) ** 0.5)
