"""The engine of conversion: a bijection between the keys of a released file and the parameters of an NNX state.

Our names follow the released ones, so that a component's `KeyTable` contains only the differences. Every parameter has
exactly one key and one layout, and both work in either direction. All problems are collected before they are raised.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from einops import rearrange
from flax import nnx

from show1_jax.errors import UserError, shown_name
from show1_jax.parallel.weights import WeightPath, weight_path

_MAX_LISTED_PROBLEMS = 20
_CHUNK_ELEMENTS = 2**24
TORCH_LEAVES: Final[Mapping[str, str]] = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_KERNEL_LAYOUTS = {2: ("o i", "i o"), 4: ("o i h w", "h w i o"), 5: ("o i t h w", "t h w i o")}

Substitutions = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class KeyTable:
    """The differences between released keys and our paths, for one kind of component.

    Attributes:
        renames: regular expressions and replacements that turn our dotted path, without its leaf, into the released
            key.
        layouts: regular expressions for our paths of weights that are neither PyTorch's kernels nor stored as they are,
            each with the released and our layout, e.g. "o i t 1 1 -> t 1 i o".
        leaves: the released names of our leaves; other leaves have their own names.
        aliases: regular expressions and replacements that turn keys of older files into those of newer ones.
        tied: for each key that repeats another key's tensor, that other key; a file may contain either or both.
        ignored: a regular expression for keys without a parameter.
    """

    renames: Substitutions = ()
    layouts: Substitutions = ()
    leaves: Mapping[str, str] = field(default_factory=lambda: TORCH_LEAVES)
    aliases: Substitutions = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: str | None = None


@dataclass(frozen=True)
class ReleasedTensor:
    """A parameter's released tensor: its key, the released and our layout as einops axes, and its shape in the file."""

    key: str
    layouts: tuple[str, str]
    shape: tuple[int, ...]

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Return a view of a released array in our layout."""
        return rearrange(array, " -> ".join(self.layouts))

    def to_released(self, array: np.ndarray) -> np.ndarray:
        """Return a view of our array in the released layout."""
        return rearrange(array, " -> ".join(reversed(self.layouts)))


class Problems:
    """The problems of one component, by kind."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, problem: str) -> None:
        """Add one problem."""
        self._by_kind[kind].append(problem)

    def raise_any(self, where: str, advice: str) -> None:
        """Raise one UserError if there are problems; it names the first 20 of each kind."""
        if self._by_kind:
            kinds = "; ".join(
                f"{len(found)} {kind}: {', '.join(map(shown_name, found[:_MAX_LISTED_PROBLEMS]))}"
                f"{', ...' if len(found) > _MAX_LISTED_PROBLEMS else ''}"
                for kind, found in self._by_kind.items()
            )
            raise UserError(f"{where}: {kinds}; {advice}")


def released_tensors(
    abstract_state: nnx.State, table: KeyTable, problems: Problems | None = None
) -> dict[WeightPath, ReleasedTensor]:
    """Return the released key, layouts and shape of every parameter of an (abstract) state: a bijection.

    Raises:
        UserError: two parameters with one key, or a parameter without a rule; not raised if `problems` collects them.
    """
    found = problems or Problems()
    result: dict[WeightPath, ReleasedTensor] = {}
    owners: dict[str, str] = {}
    for path, variable in nnx.to_flat_state(abstract_state):
        dotted = ".".join(weight_path(path))
        layouts = _layouts(dotted, len(variable.shape), table)
        if layouts is None:
            found.add("unmapped parameters", dotted)
            continue
        key = _released_key(dotted, table)
        if key in owners:
            found.add("parameters that share a key", f"{owners[key]} and {dotted} ({key})")
        owners[key] = dotted
        shape = rearrange(np.broadcast_to(False, variable.shape), " -> ".join(reversed(layouts))).shape
        result[weight_path(path)] = ReleasedTensor(key, layouts, shape)
    if problems is None:
        found.raise_any("conversion table", "name every parameter once")
    return result


def match_weights(
    weights: Mapping[str, np.ndarray],
    abstract_state: nnx.State,
    table: KeyTable,
    *,
    where: str,
    dtype: np.dtype | None = None,
    progress: Callable[[int], object] = lambda size: None,
) -> dict[WeightPath, np.ndarray]:
    """Return the released arrays by our paths and in our layouts, as views, after all checks.

    Args:
        weights: the component's released arrays by key.
        abstract_state: the network's parameters, as `nnx.eval_shape` gives them.
        table: the component's table.
        where: the component's name in messages.
        dtype: the dtype in which the weights will be stored; None keeps each tensor's.
        progress: called with the size in bytes of each array that was checked.

    Raises:
        UserError: lists every unmapped, unexpected, duplicate, missing, mis-shaped, non-numeric, NaN, infinite or (in
            `dtype`) overflowing weight at once.
    """
    problems = Problems()
    given = _names_by_key(weights, table, problems)  # names only: each array is read when it is checked
    result: dict[WeightPath, np.ndarray] = {}
    wanted = released_tensors(abstract_state, table, problems)
    for path, source in wanted.items():
        if source.key not in given:
            problems.add("missing keys", source.key)
            continue
        array = weights[given[source.key]]
        if array.shape != source.shape:
            problems.add("wrong shapes", f"{source.key} is {array.shape}, not {source.shape}")
            continue
        check_values(source.key, array, dtype or array.dtype, problems)
        progress(array.nbytes)
        result[path] = source.to_ours(array)
    for key in sorted(given.keys() - {source.key for source in wanted.values()}):
        problems.add("unexpected keys", key)
    problems.raise_any(where, "use weights and config.json of the same released component")
    return result


def check_values(key: str, array: np.ndarray, dtype: np.dtype, problems: Problems) -> None:
    """Add a problem if an array is not of floats, or has NaN, infinity or values that are too large for `dtype`."""
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        problems.add("weights that are not floats", f"{key} is {array.dtype}")
    elif not all(np.isfinite(chunk).all() for chunk in _chunks(array)):
        problems.add("weights with NaN or infinity", key)
    elif dtype != array.dtype:
        with np.errstate(over="ignore"):
            if not all(np.isfinite(chunk.astype(dtype)).all() for chunk in _chunks(array)):
                problems.add(f"weights too large for {dtype}", key)


def _layouts(dotted: str, rank: int, table: KeyTable) -> tuple[str, str] | None:
    for pattern, layouts in table.layouts:
        if re.search(pattern, dotted):
            released, ours = layouts.split(" -> ")
            return (released, ours) if len(ours.split()) == rank else None
    if not dotted.endswith("kernel"):
        axes = " ".join(f"axis{axis}" for axis in range(rank))
        return axes, axes
    return _KERNEL_LAYOUTS.get(rank)


def _released_key(dotted: str, table: KeyTable) -> str:
    stem, _, leaf = dotted.rpartition(".")
    stem = _substitute(stem, table.renames)
    return f"{stem}.{table.leaves.get(leaf, leaf)}" if stem else leaf


def _substitute(name: str, substitutions: Substitutions) -> str:
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def _names_by_key(weights: Mapping[str, np.ndarray], table: KeyTable, problems: Problems) -> dict[str, str]:
    """Return the arrays' names by current key: aliases are resolved, repeats and keys without a parameter omitted."""
    given: dict[str, str] = {}
    tied: dict[str, str] = {}
    for name in weights:
        key = _substitute(name, table.aliases)
        if table.ignored and re.search(table.ignored, key):
            continue
        owners = tied if key in table.tied else given
        if key in owners:
            problems.add("duplicate keys", f"{name} ({key})")
        else:
            owners[key] = name
    for repeat, name in tied.items():
        key = table.tied[repeat]
        if key in given and not _equal(weights[given[key]], weights[name]):
            problems.add("duplicate keys with different values", f"{key} and {repeat}")
        given.setdefault(key, name)
    return given


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and all(np.array_equal(x, y) for x, y in zip(_chunks(a), _chunks(b), strict=True))


def _chunks(array: np.ndarray) -> Iterator[Any]:
    """Yield pieces along the first axis, so that results computed from a mapped array stay small."""
    if array.ndim == 0:
        yield array
        return
    rows = max(1, _CHUNK_ELEMENTS // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
