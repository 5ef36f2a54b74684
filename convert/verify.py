"""`python -m convert verify`: is a checkpoint what it was when it was written, and what is in it?"""

import math
from pathlib import Path

from flax import nnx

from convert.rules import Problems
from convert.stored import stored_architecture
from convert.tables import parameters
from show1_jax.checkpoints.arrays import weight_shapes
from show1_jax.checkpoints.manifest import Component, read_manifest, verify_files
from show1_jax.errors import shown_name
from show1_jax.parallel.weights import weight_path
from show1_jax.progress import Bar


def verify(checkpoint: Path) -> None:
    """Recomputes every hash, compares every shape with the stored architecture's, and prints a table of contents.

    Raises:
        UserError: no checkpoint, or a damaged one; names everything that is wrong.
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
        said = (name, component.kind, component.dtype, f"{count:,}", source, str(provenance.get("licence", "")))
        rows.append(tuple(map(shown_name, said)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _check_shapes(checkpoint: Path, name: str, component: Component) -> int:
    """Number of parameters, all of which have the shapes that the architecture says."""
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
