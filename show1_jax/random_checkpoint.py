"""Checkpoints with random weights: the whole cascade can be run and tested before anything is trained."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from show1_jax.checkpoint import Component, new_checkpoint, weight_path
from show1_jax.models import ARCHITECTURES, build
from show1_jax.text import byte_level_tokenizers

KINDS = {"text_t5": "t5", "text_clip": "clip", "vae": "vae"}
"""The kind of network of each component that is no UNet."""
_TOKENIZERS = {"text_t5": "t5", "text_clip": "clip"}


def write_random_checkpoint(
    directory: Path,
    architecture: Mapping[str, Mapping[str, Any]],
    schedulers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    seed: int = 0,
) -> None:
    """Write a checkpoint whose weights are as initialised, and whose tokenizers know bytes only.

    Args:
        directory: must not exist.
        architecture: for every component the fields of its architecture dataclass.
        schedulers: for every UNet its scheduler configs, by role, in diffusers' form.
        seed: of the weights.

    Raises:
        UserError: `directory` exists, a field is wrong, or the disk is full.
    """
    rngs = nnx.Rngs(seed)
    with tempfile.TemporaryDirectory() as scratch, new_checkpoint(directory) as writer:
        byte_level_tokenizers(scratch)
        for name, fields in architecture.items():
            kind = KINDS.get(name, "unet")
            config = ARCHITECTURES[kind].from_dict(fields)
            state = nnx.state(build(kind, config, rngs=rngs), nnx.Param)
            weights = {weight_path(path): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}
            record = Component(
                kind=kind,
                architecture=config.to_dict(),
                dtype="float32",
                schedulers={role: dict(values) for role, values in schedulers.get(name, {}).items()},
                provenance={"source": "random weights", "seed": seed, "jax": jax.__version__},
            )
            folder = Path(scratch) / _TOKENIZERS.get(name, "")
            tokenizer = {path.name: path for path in folder.iterdir()} if name in _TOKENIZERS else None
            writer.add(name, record, weights, {path: array.dtype for path, array in weights.items()}, tokenizer)
