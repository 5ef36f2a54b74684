"""Components of several checkpoints and training runs as one checkpoint: the form in which a cascade is published."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from show1_jax.checkpoints.adapter_set import Adapter, adapted_weights, open_adapters
from show1_jax.checkpoints.adapters import changed_weight
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
from show1_jax.parallel.weights import WeightPath
from show1_jax.progress import Bar

from .released import check_text_widths
from .rules import Problems, check_values
from .stored import cpu_mesh, read_weights, stored_architecture
from .tables import parameters


@dataclass(frozen=True)
class _MergedComponent:
    """A component that will be written.

    Attributes:
        name: the name of the component, in both checkpoints.
        checkpoint: the directory of the checkpoint that it is read from.
        record: its entry in the new manifest.
        architecture: the architecture of its network.
        dtype: the dtype of the written weights; None keeps each tensor's.
        adapters: adapters whose changes are added to its weights.
    """

    name: str
    checkpoint: Path
    record: Component
    architecture: Architecture
    dtype: np.dtype | None
    adapters: tuple[Adapter, ...]

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
    adapters: str = "",
    dtype: np.dtype | None = None,
    config: CascadeConfig | None = None,
    overwrite: bool = False,
) -> None:
    """Write components of one or several checkpoints as one, each with its tokenizer, its settings and its origin.

    Adapters are added to the weights in float32, as when a cascade is loaded with them, and the sums are rounded once.

    Args:
        checkpoints: a checkpoint's directory, a training run's, or several, as `CheckpointSet.open` takes them:
            components of later ones replace those of earlier ones.
        out: the checkpoint's directory; it appears when everything is written.
        components: the components to write; by default all of them.
        adapters: adapters of these components with their strengths, as `open_adapters` takes them.
        dtype: the dtype of the stored weights; None keeps each tensor's.
        config: sampling settings to record; None keeps those of each component.
        overwrite: replace an existing checkpoint; it may be one of `checkpoints`.

    Raises:
        UserError: no such checkpoint or component, damaged files, networks that do not fit each other, an adapter of
            none of the components, weights that are NaN, infinite or too large for `dtype`, or a problem with `out` or
            the disk; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    opened = CheckpointSet.open(checkpoints)
    names = list(dict.fromkeys(components or opened.paths))
    added = open_adapters(adapters, opened.manifest)
    if unused := [adapter for adapter in added if adapter.component not in names]:
        raise UserError(f"{unused[0].folder}: adapts {unused[0].component}, which is not written; add its --component")
    parts = [_merged_component(opened, name, dtype, config, added) for name in names]
    check_text_widths({part.name: part.architecture for part in parts})
    check_space(out, sum(part.written_bytes() for part in parts))
    with new_checkpoint(out, overwrite=overwrite) as writer:
        for part in parts:
            _write_component(writer, part)
    for part in parts:
        added_names = "".join(f" + {adapter.strength:g} x {adapter.folder}" for adapter in part.adapters)
        print(f"{part.name}: {part.checkpoint}{added_names} as {shown_name(part.record.dtype)}")
    print(f"{out}: written")


def _merged_component(
    checkpoints: CheckpointSet,
    name: str,
    dtype: np.dtype | None,
    config: CascadeConfig | None,
    adapters: Sequence[Adapter],
) -> _MergedComponent:
    """Return a component to write, checked as far as possible without reading weights."""
    record, checkpoint = checkpoints.component(name), checkpoints.path(name)
    if not name.isidentifier():
        raise UserError(f"{checkpoint}: {name!r} is not the name of a component; convert again")
    architecture = stored_architecture(checkpoint, name, record)
    record = replace(record, dtype=dtype.name if dtype else record.dtype)
    record = record if config is None else with_settings(record, name, config)
    own = tuple(adapter for adapter in adapters if adapter.component == name)
    if own:
        record = replace(record, provenance={**record.provenance, "adapters": [_origin(adapter) for adapter in own]})
    return _MergedComponent(name, checkpoint, record, architecture, dtype, own)


def _origin(adapter: Adapter) -> dict[str, Any]:
    """Return the provenance of a merged adapter."""
    rank, alpha = adapter.config.rank, adapter.config.alpha
    return {
        "source": str(adapter.folder),
        "digest": adapter.digest,
        "strength": adapter.strength,
        "rank": rank,
        "alpha": alpha,
    }


def _write_component(writer: CheckpointWriter, part: _MergedComponent) -> None:
    weights = read_weights(part.checkpoint, part.name, part.state(), part.dtype)
    dtypes = {path: part.dtype or array.dtype for path, array in weights.items()}
    weights |= _changed_weights(part, weights, dtypes)
    tokenizer = tokenizer_files(part.checkpoint, part.name)
    total = sum(array.nbytes for array in weights.values())
    with Bar(f"write {part.name}", total, unit="B", leave=False) as bar:
        writer.add(part.name, part.record, weights, dtypes, tokenizer, bar.update)


def _changed_weights(
    part: _MergedComponent, weights: dict[WeightPath, np.ndarray], dtypes: dict[WeightPath, np.dtype]
) -> dict[WeightPath, np.ndarray]:
    """Return the weights that the adapters of a component change, in the dtypes in which they are written."""
    adapters = [adapter for adapter in part.adapters if adapter.strength]
    if not adapters:
        return {}
    paths = {changed_weight(path) for adapter in adapters for path in adapter.shapes}
    base = {path: jnp.asarray(weights[path], jnp.float32) for path in paths}
    changed = {}
    problems = Problems()
    for path, weight in adapted_weights(base, adapters, cpu_mesh()).items():
        array = np.asarray(weight)
        check_values("/".join(path), array, dtypes[path], problems)
        with np.errstate(over="ignore"):  # it is one of the problems
            changed[path] = array.astype(dtypes[path])
    problems.raise_any(f"{part.checkpoint}: {part.name} with its adapters", "use a lower strength, or a wider --dtype")
    return changed
