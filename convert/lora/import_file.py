"""`python -m convert import`: a LoRA file of PyTorch as an adapter of one of our networks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.adapters import ADAPTER, LORA_A, LORA_B, AdapterConfig
from show1_jax.checkpoints.arrays import check_new_checkpoint, new_checkpoint
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Component, sha256
from show1_jax.checkpoints.run_steps import warn_user
from show1_jax.errors import UserError, shown, shown_name
from show1_jax.files import check_space
from show1_jax.parallel.weights import WeightPath

from ..convert import tool_version
from ..released import OWNERS_LICENCE
from ..safetensors_file import read_metadata
from ..stored import stored_architecture
from ..tables import KINDS, parameters
from .keys import LoraLayer, lora_layers
from .pairs import LoraPair, lora_file, read_pairs
from .settings import BASE, COMPONENT

_DEFAULT_COMPONENT: Final = "keyframes"


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
        overwrite: replace an existing checkpoint; not the one with the network, which the adapter needs.

    Raises:
        UserError: no such file or network, a damaged file, settings that are not supported, keys, shapes or values that
            do not fit the network (the line has all of them), or a problem with `out`; `out` is then unchanged.
    """
    check_new_checkpoint(out, overwrite=overwrite)
    file = lora_file(source)
    metadata = read_metadata(file) if file.suffix == ".safetensors" else {}
    checkpoints = CheckpointSet.open(checkpoint)
    alike = [path for path in checkpoints.paths.values() if isinstance(path, BucketPath) == isinstance(out, BucketPath)]
    if out.exists() and any(out.samefile(path) for path in alike):
        raise UserError(f"{out}: an adapter would replace the checkpoint that it changes; give another --out")
    name = component or metadata.get(COMPONENT, _DEFAULT_COMPONENT)
    pairs = read_pairs(file, _layers(checkpoints, name), name)
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


def _config(base: str, pairs: Sequence[LoraPair], file: Path) -> AdapterConfig:
    """Return the record of an adapter with these pairs: their rank and alpha, or else the largest rank and factor 1."""
    kinds = {(pair.rank, pair.alpha) for pair in pairs}
    rank, alpha = max(kinds)
    try:
        return AdapterConfig(base, rank, alpha if len(kinds) == 1 else float(rank))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _arrays(pairs: Sequence[LoraPair], config: AdapterConfig, file: Path) -> dict[WeightPath, np.ndarray]:
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
            raise UserError(f"{file}: {pair.layer.name} is too large with its alpha {pair.alpha:g}; save it again")
        added = config.rank - pair.rank
        arrays[pair.layer.path(LORA_A)] = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, added)])
        arrays[pair.layer.path(LORA_B)] = np.pad(b, [(0, added), (0, 0)])
    return arrays
