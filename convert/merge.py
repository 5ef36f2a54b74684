"""Components of several checkpoints and training runs as one checkpoint: the form in which a cascade is published."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flax import nnx

from convert.released import check_text_widths
from convert.stored import read_weights, stored_architecture
from convert.tables import parameters
from show1_jax.checkpoints.arrays import (
    CheckpointWriter,
    check_new_checkpoint,
    new_checkpoint,
    tokenizer_files,
    weight_shapes,
)
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.recorded_settings import with_settings
from show1_jax.config.sampling import CascadeConfig
from show1_jax.errors import UserError, shown_name
from show1_jax.files import check_space
from show1_jax.nn.config import Architecture
from show1_jax.progress import Bar


@dataclass(frozen=True)
class _MergedComponent:
    """A component that will be written.

    Attributes:
        name: the name of the component, in both checkpoints.
        checkpoint: the directory of the checkpoint that it is read from.
        record: its entry in the new manifest.
        architecture: the architecture of its network.
        dtype: the dtype of the written weights; None keeps each tensor's.
    """

    name: str
    checkpoint: Path
    record: Component
    architecture: Architecture
    dtype: np.dtype | None

    def written_bytes(self) -> int:
        """Return the size of its written weights, in bytes."""
        stored = weight_shapes(self.checkpoint, self.name).values()
        return sum(math.prod(leaf.shape) * (self.dtype or leaf.dtype).itemsize for leaf in stored)

    def state(self) -> nnx.State:
        """Return its parameters, as shapes."""
        return parameters(self.record.kind, self.architecture)


def merge(
    checkpoints: str | Path,
    out: Path,
    components: Sequence[str] = (),
    *,
    dtype: np.dtype | None = None,
    config: CascadeConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Write components of one or several checkpoints as one, each with its tokenizer, its settings and its origin.

    Args:
        checkpoints: a checkpoint's directory, a training run's, or several, as `CheckpointSet.open` takes them:
            components of later ones replace those of earlier ones.
        out: the checkpoint's directory; it appears when everything is written.
        components: the components to write; by default all of them.
        dtype: the dtype of the stored weights; None keeps each tensor's.
        config: sampling settings to record; None keeps those of each component.
        overwrite: replace an existing checkpoint; it may be one of `checkpoints`.

    Raises:
        UserError: no such checkpoint or component, damaged files, networks that do not fit each other, weights that are
            NaN, infinite or too large for `dtype`, or a problem with `out` or the disk; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    opened = CheckpointSet.open(checkpoints)
    parts = [_merged_component(opened, name, dtype, config) for name in dict.fromkeys(components or opened.paths)]
    check_text_widths({part.name: part.architecture for part in parts})
    check_space(out, sum(part.written_bytes() for part in parts))
    with new_checkpoint(out, overwrite=overwrite) as writer:
        for part in parts:
            _write_component(writer, part)
    for part in parts:
        print(f"{part.name}: {part.checkpoint} as {shown_name(part.record.dtype)}")
    print(f"{out}: written")


def _merged_component(
    checkpoints: CheckpointSet, name: str, dtype: np.dtype | None, config: CascadeConfig | None
) -> _MergedComponent:
    """Return a component to write, checked as far as possible without reading weights."""
    record, checkpoint = checkpoints.component(name), checkpoints.path(name)
    if not name.isidentifier():
        raise UserError(f"{checkpoint}: {name!r} is not the name of a component; convert again")
    architecture = stored_architecture(checkpoint, name, record)
    record = replace(record, dtype=dtype.name if dtype else record.dtype)
    record = record if config is None else with_settings(record, name, config)
    return _MergedComponent(name, checkpoint, record, architecture, dtype)


def _write_component(writer: CheckpointWriter, part: _MergedComponent) -> None:
    weights = read_weights(part.checkpoint, part.name, part.state(), part.dtype)
    dtypes = {path: part.dtype or array.dtype for path, array in weights.items()}
    tokenizer = tokenizer_files(part.checkpoint, part.name)
    total = sum(array.nbytes for array in weights.values())
    with Bar(f"write {part.name}", total, unit="B", leave=False) as bar:
        writer.add(part.name, part.record, weights, dtypes, tokenizer, bar.update)
