"""`python -m convert verify`: check that a checkpoint is unchanged since it was written, and list its contents."""

import math
from pathlib import Path

from flax import nnx

from show1_jax.checkpoints.adapters import ADAPTER, LORA_A, LORA_B, AdapterConfig
from show1_jax.checkpoints.arrays import weight_shapes
from show1_jax.checkpoints.cards.licences import licence_of
from show1_jax.checkpoints.manifest import Component, read_manifest, verify_files
from show1_jax.errors import shown_name
from show1_jax.parallel.weights import weight_path
from show1_jax.progress import Bar

from .rules import Problems
from .stored import stored_architecture
from .tables import parameters


def verify(checkpoint: Path) -> None:
    """Recompute every hash, compare every shape with the stored architecture's, and print a table of contents.

    Raises:
        UserError: no checkpoint, or a damaged one; the message names all problems.
    """
    manifest = read_manifest(checkpoint)
    total = sum(file["size"] for file in manifest.files.values())
    with Bar("hash", total, unit="B", leave=False) as bar:
        verify_files(checkpoint, bar.update)
    rows: list[tuple[str, ...]] = [("component", "kind", "dtype", "parameters", "source", "licence")]
    for name, component in manifest.components.items():
        count = _check_shapes(checkpoint, name, component)
        provenance = component.provenance
        source = "@".join(str(provenance[key]) for key in ("source", "revision") if provenance.get(key))
        row = (name, component.kind, component.dtype, f"{count:,}", source, licence_of(provenance).text)
        rows.append(tuple(map(shown_name, row)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for texts in rows:
        print("  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip())


def _check_shapes(checkpoint: Path, name: str, component: Component) -> int:
    """Return the number of parameters, after checking that all have the architecture's shapes.

    The shapes of an adapter's arrays depend on another checkpoint; only its rank and pairs are checked here.
    """
    if component.kind == ADAPTER:
        return _check_pairs(checkpoint, name, component)
    state = parameters(component.kind, stored_architecture(checkpoint, name, component))
    wanted = {weight_path(path): tuple(variable.shape) for path, variable in nnx.to_flat_state(state)}
    stored = {path: tuple(leaf.shape) for path, leaf in weight_shapes(checkpoint, name).items()}
    problems = Problems()
    for path in sorted(wanted.keys() - stored.keys()):
        problems.add("missing weights", "/".join(path))
    for path in sorted(stored.keys() - wanted.keys()):
        problems.add("unexpected weights", "/".join(path))
    for path in sorted(stored.keys() & wanted.keys()):
        if stored[path] != wanted[path]:
            problems.add("wrong shapes", f"{'/'.join(path)} is {stored[path]}, not {wanted[path]}")
    problems.raise_any(f"{checkpoint}: {name}", "convert again")
    return sum(math.prod(shape) for shape in stored.values())


def _check_pairs(checkpoint: Path, name: str, component: Component) -> int:
    """Return the number of parameters of an adapter, after checking its low-rank pairs."""
    config = AdapterConfig.from_dict(component.architecture)
    stored = {path: tuple(leaf.shape) for path, leaf in weight_shapes(checkpoint, name).items()}
    problems = Problems()
    for path, shape in stored.items():
        other = {LORA_A: LORA_B, LORA_B: LORA_A}.get(path[-1])
        if other is None:
            continue
        if (*path[:-1], other) not in stored:
            problems.add("pairs that are not complete", "/".join(path))
        if shape[-1 if other == LORA_B else 0] != config.rank:
            problems.add(f"ranks that are not {config.rank}", f"{'/'.join(path)} is {shape}")
    problems.raise_any(f"{checkpoint}: {name}", "train or import the adapter again")
    return sum(math.prod(shape) for shape in stored.values())
