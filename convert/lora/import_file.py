"""`python -m convert import`: a LoRA file of PyTorch as an adapter of one of our networks."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from convert.convert import tool_version
from convert.lora.keys import ALPHA, LoraKeys, LoraLayer, lora_layers
from convert.lora.settings import BASE, COMPONENT, LORA_STEM, PEFT_STEM, LoraSettings, lora_settings
from convert.reader import Weights
from convert.released import OWNERS_LICENCE
from convert.rules import Problems, check_values
from convert.safetensors_file import read_metadata, read_safetensors
from convert.stored import stored_architecture
from convert.tables import KINDS, parameters
from convert.torch_file import read_torch_file
from show1_jax.checkpoints.adapters import ADAPTER, LORA_A, LORA_B, AdapterConfig
from show1_jax.checkpoints.arrays import check_new_checkpoint, new_checkpoint
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Component, sha256
from show1_jax.checkpoints.run_steps import warn_user
from show1_jax.errors import UserError, shown, shown_name
from show1_jax.files import check_space
from show1_jax.parallel.weights import WeightPath

_FILES: Final = tuple(f"{stem}.{kind}" for stem in (LORA_STEM, PEFT_STEM) for kind in ("safetensors", "bin"))
_DEFAULT_COMPONENT: Final = "keyframes"
_ADVICE: Final = "give a LoRA file of this network, and its --component"


@dataclass(frozen=True)
class _Pair:
    """A low-rank pair of a file.

    Attributes:
        a: A, in the layout of the file.
        b: B, in the layout of the file.
        rank: its rank.
        alpha: its factor is alpha / rank.
    """

    layer: LoraLayer
    a: np.ndarray
    b: np.ndarray
    rank: int
    alpha: float


def import_adapter(
    source: Path, checkpoint: str | Path, out: Path, component: str | None = None, *, overwrite: bool = False
) -> None:
    """Write a LoRA file of PyTorch as an adapter.

    Keys are those of diffusers, peft or kohya, see `convert.lora.keys`. Every key of the file must name a layer of the
    network. If all pairs have the same rank and alpha, their values are kept; otherwise B has the factors alpha / rank,
    and zeros extend all pairs to the largest rank.

    Args:
        source: a `.safetensors` or `.bin` file, or a folder in which diffusers or peft saved one.
        checkpoint: the checkpoint with the network, as `CheckpointSet.open` takes it.
        out: the adapter's directory; it appears when everything is written.
        component: the network to adapt; by default that of an exported file, or else the keyframe network.
        overwrite: replace an existing checkpoint.

    Raises:
        UserError: no such file or network, a damaged file, settings that are not supported, keys, shapes or values that
            do not fit the network (the line has all of them), or a problem with `out`; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    file = _weights_file(source)
    is_safetensors = file.suffix == ".safetensors"
    weights = Weights((read_safetensors if is_safetensors else read_torch_file)(file), (file,))
    settings, metadata = lora_settings(file), read_metadata(file) if is_safetensors else {}
    checkpoints = CheckpointSet.open(checkpoint)
    name = component or metadata.get(COMPONENT, _DEFAULT_COMPONENT)
    layers = _layers(checkpoints, name)
    pairs = _pairs(weights, LoraKeys(layers), settings, f"{file}: as an adapter of {name}")
    base = checkpoints.manifest.digest(name)
    config = _config(base, pairs, file)
    check_space(out, sum(4 * config.rank * sum(pair.layer.channels) for pair in pairs))
    arrays = _arrays(pairs, config, file)
    provenance: dict[str, Any] = {
        "source": str(source),
        "files": {file.name: sha256(file)},
        "licence": OWNERS_LICENCE,
        "tool": tool_version(),
    }
    with new_checkpoint(out, overwrite=overwrite) as writer:
        record = Component(ADAPTER, config.to_dict(), "float32", provenance=provenance)
        writer.add(name, record, arrays, {path: array.dtype for path, array in arrays.items()})
    if metadata.get(BASE, base) != base:
        warn_user(f"{file}: made for other weights than the {name} of {checkpoints.path(name)}; compare its videos")
    print(f"{name}: {len(pairs)} layers of {file.name}, rank {config.rank}, alpha {config.alpha:g}")
    print(f"{out}: written")


def _weights_file(source: Path) -> Path:
    if not source.is_dir():
        if source.suffix not in (".safetensors", ".bin"):
            raise UserError(f"{source}: not a LoRA file; give a .safetensors or .bin file, or the folder with it")
        return source
    found = [source / name for name in _FILES if (source / name).is_file()]
    if not found:
        raise UserError(f"{source}: has none of {', '.join(_FILES)}; give the path of the file itself")
    return found[0]


def _layers(checkpoints: CheckpointSet, name: str) -> dict[WeightPath, LoraLayer]:
    if name not in checkpoints.paths:
        names = ", ".join(checkpoints.paths)
        raise UserError(f"the checkpoint has no component {shown(name)}, only {names}; choose one with --component")
    record, path = checkpoints.component(name), checkpoints.path(name)
    if record.kind != "unet":
        raise UserError(
            f"{path}: {shown_name(name)} is not a UNet, and adapters are of UNets; give another --component"
        )
    architecture = stored_architecture(path, name, record)
    return lora_layers(parameters(record.kind, architecture), KINDS[record.kind].table)


def _config(base: str, pairs: list[_Pair], file: Path) -> AdapterConfig:
    """Return the record of an adapter with these pairs: their rank and alpha, or else the largest rank and factor 1."""
    kinds = {(pair.rank, pair.alpha) for pair in pairs}
    rank, alpha = max(kinds)
    try:
        return AdapterConfig(base, rank, alpha if len(kinds) == 1 else float(rank))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _pairs(weights: Weights, keys: LoraKeys, settings: LoraSettings, where: str) -> list[_Pair]:
    """Return the pairs of a file, after all checks; each of its tensors is used once.

    Raises:
        UserError: lists every unexpected, duplicate, missing or mis-shaped tensor, and all bad values, at once.
    """
    problems = Problems()
    found: dict[WeightPath, dict[str, str]] = defaultdict(dict)
    layers: dict[WeightPath, LoraLayer] = {}
    for key in weights:
        if (place := keys.find(key)) is None:
            problems.add("unexpected keys", key)
            continue
        layer, part = place
        layers[layer.kernel] = layer
        if part in found[layer.kernel]:
            problems.add("duplicate keys", f"{key} and {found[layer.kernel][part]}")
        found[layer.kernel][part] = key
    pairs = [
        pair
        for kernel, named in found.items()
        if (pair := _checked_pair(layers[kernel], named, weights, settings, problems))
    ]
    if not found:
        problems.add("low-rank pairs", "the file has no other tensors either")
    problems.raise_any(where, _ADVICE)
    return pairs


def _checked_pair(
    layer: LoraLayer, named: dict[str, str], weights: Weights, settings: LoraSettings, problems: Problems
) -> _Pair | None:
    """Return a pair; None after adding its problems.

    Args:
        layer: the layer that it adapts.
        named: keys of its parts in the file.
        weights: tensors of the file.
        settings: settings of the file.
        problems: collects problems.
    """
    if missing := {LORA_A, LORA_B} - named.keys():
        listed = " and ".join(sorted(name.upper().removeprefix("LORA_") for name in missing))
        problems.add("pairs that are not complete", f"{next(iter(named.values()))} without {listed}")
        return None
    arrays = {part: weights[named[part]] for part in (LORA_A, LORA_B)}
    rank = next(iter(arrays[LORA_A].shape), 0)
    for part, array in arrays.items():
        key, wanted = named[part], layer.shape(part, max(rank, 1))
        if array.shape != wanted:
            problems.add("wrong shapes", f"{key} is {array.shape}, not {wanted}")
            return None
        check_values(key, array, np.dtype("float32"), problems)
    if (stated := settings.rank_of(layer.name)) not in (None, rank):
        problems.add("other ranks than stated", f"{named[LORA_A]} has {rank}, not {stated}")
    alpha = settings.alpha_of(layer.name, rank)
    if ALPHA in named and (own := _alpha(named[ALPHA], weights, problems)):
        if settings.alpha is not None and own != alpha:
            problems.add("alphas that contradict the settings", f"{named[ALPHA]} is {own:g}, not {alpha:g}")
        alpha = own
    return _Pair(layer, arrays[LORA_A], arrays[LORA_B], rank, alpha)


def _alpha(key: str, weights: Weights, problems: Problems) -> float:
    """Return the value of an alpha tensor; 0 if it states none, as in kohya's files."""
    array = weights[key]
    value = float(array.reshape(-1)[0].astype(np.float64)) if array.size == 1 else np.nan
    if not 0 <= value < np.inf:
        problems.add("alphas that are not a positive number", f"{key} of shape {array.shape}")
        return 0.0
    return value


def _arrays(pairs: list[_Pair], config: AdapterConfig, file: Path) -> dict[WeightPath, np.ndarray]:
    """Return the arrays of an adapter with these pairs, in our layout, float32."""
    arrays = {}
    for pair in pairs:
        a, b = (
            pair.layer.to_ours(part, array.astype(np.float32)) for part, array in ((LORA_A, pair.a), (LORA_B, pair.b))
        )
        factor = np.float32(1 if pair.rank == config.rank and pair.alpha == config.alpha else pair.alpha / pair.rank)
        with np.errstate(over="ignore"):
            b = factor * b
        if not np.isfinite(b).all():
            raise UserError(f"{file}: {pair.layer.name} is too large for its alpha {pair.alpha:g}; {_ADVICE}")
        added = config.rank - pair.rank
        arrays[pair.layer.path(LORA_A)] = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, added)])
        arrays[pair.layer.path(LORA_B)] = np.pad(b, [(0, added), (0, 0)])
    return arrays
