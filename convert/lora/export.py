"""`python -m convert export --adapter`: an adapter as a LoRA file that diffusers reads."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from show1_jax.checkpoints.adapter_set import Adapter, open_adapters, read_adapter
from show1_jax.checkpoints.adapters import LORA_A, LORA_B, AdapterConfig
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.files import check_space, check_target, new_folder
from show1_jax.parallel.weights import WeightPath

from ..rules import Problems, check_values
from ..safetensors_file import write_safetensors
from ..stored import cpu_mesh, read_weights, stored_architecture
from ..tables import KINDS, parameters
from .keys import PREFIX, LoraLayer, lora_layers
from .settings import BASE, COMPONENT, LORA_STEM, METADATA
from .svd import nearest_pairs

LORA_FILE: Final = f"{LORA_STEM}.safetensors"
MAX_RANK: Final = 4096
"""Largest rank of an approximation; no kernel of the released networks has more rows and columns."""
Layers = Mapping[WeightPath, LoraLayer]
Arrays = dict[WeightPath, np.ndarray]


def export_adapter(
    checkpoint: str | Path,
    adapter: str,
    out: Path,
    *,
    rank: int | None = None,
    dtype: np.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write an adapter as a LoRA file with the names of peft, in a folder from which diffusers loads it.

    Args:
        checkpoint: the checkpoint that the adapter belongs to, as `CheckpointSet.open` takes it.
        adapter: the adapter's directory, or that of its training run, see `open_adapters`.
        out: the folder to make; it appears when everything is written.
        rank: rank of the pairs that approximate an adapter of whole kernels; None for an adapter that has pairs.
        dtype: the dtype of the written arrays; None: float32.
        overwrite: replace an earlier export at `out`.

    Raises:
        UserError: no such checkpoint or adapter, an adapter of other weights, one that replaces whole weights if there
            is no `rank` or if they are not kernels, values that are NaN or too large for `dtype`, or a problem with
            `out` or the disk; `out` is then unchanged.
    """
    check_target(out, "exported adapter", _is_exported, overwrite=overwrite)
    checkpoints = CheckpointSet.open(checkpoint)
    opened = _open_one(adapter, checkpoints)
    layers = _layers(opened, checkpoints)
    _check_arrays(opened, layers, rank)
    arrays = {path: np.asarray(array) for path, array in read_adapter(opened, cpu_mesh()).items()}
    config, share = opened.config, 1.0
    if rank is not None:
        arrays, share = nearest_pairs(_changes(opened, arrays, checkpoints), rank)
        config = replace(config, rank=rank, alpha=float(rank))
    _write(out, opened.component, config, layers, arrays, dtype or np.dtype("float32"))
    if rank is not None:
        print(f"the pairs have {100 * share:.1f} % of the adapter's change (sum of squares)")


def _open_one(adapter: str, checkpoints: CheckpointSet) -> Adapter:
    adapters = open_adapters(adapter, checkpoints.manifest)
    if len(adapters) != 1:
        raise UserError(f"--adapter {adapter}: a LoRA file has one adapter of one network; export them one by one")
    if adapters[0].strength != 1:
        raise UserError(f"--adapter {adapter}: a LoRA file has no strength; omit it, and use it when you sample")
    return adapters[0]


def _layers(opened: Adapter, checkpoints: CheckpointSet) -> Layers:
    name = opened.component
    record, path = checkpoints.component(name), checkpoints.path(name)
    if record.kind != "unet":
        raise UserError(f"{opened.folder}: adapts {name}, and LoRA files that diffusers reads are of UNets")
    state = parameters(record.kind, stored_architecture(path, name, record))
    return lora_layers(state, KINDS[record.kind].table)


def _check_arrays(opened: Adapter, layers: Layers, rank: int | None) -> None:
    """Refuse an adapter that a LoRA file cannot hold."""
    whole = sorted(path for path in opened.shapes if path[-1] not in (LORA_A, LORA_B))
    if others := [".".join(path) for path in whole if path not in layers]:
        raise UserError(
            f"{opened.folder}: the adapter replaces {others[0]}, and a LoRA file is for kernels only; "
            "write the whole network with `python -m convert merge --adapter`"
        )
    if rank is None and whole:
        named = ".".join(whole[0]) + (", ..." if len(whole) > 1 else "")
        raise UserError(
            f"{opened.folder}: the adapter replaces {len(whole)} whole kernels ({named}), which no LoRA file can hold; "
            "approximate them with --rank N, or write the whole network with `python -m convert merge --adapter`"
        )
    if rank is not None and len(whole) < len(opened.shapes):
        raise UserError(f"{opened.folder}: the adapter has pairs of rank {opened.config.rank} already; omit --rank")


def _changes(opened: Adapter, arrays: Arrays, checkpoints: CheckpointSet) -> Arrays:
    """Return the changes of the kernels that an adapter replaces."""
    name = opened.component
    record, path = checkpoints.component(name), checkpoints.path(name)
    base = read_weights(path, name, parameters(record.kind, stored_architecture(path, name, record)))
    return {kernel: array - base[kernel].astype(np.float32) for kernel, array in arrays.items()}


def _write(out: Path, name: str, config: AdapterConfig, layers: Layers, arrays: Arrays, dtype: np.dtype) -> None:
    """Write the file of an adapter, after checking its values."""
    pairs = {layer.key(part): (layer, part) for layer in layers.values() for part in (LORA_A, LORA_B)}
    parts = {key: (layer, part) for key, (layer, part) in pairs.items() if layer.path(part) in arrays}
    specs = {key: (layer.shape(part, config.rank), dtype) for key, (layer, part) in parts.items()}
    problems = Problems()
    for key, (layer, part) in parts.items():
        check_values(key, arrays[layer.path(part)], dtype, problems)
    problems.raise_any(name, "use a wider --dtype")
    check_space(out, sum(math.prod(shape) for shape, _ in specs.values()) * dtype.itemsize)

    def read(key: str) -> np.ndarray:
        layer, part = parts[key]
        return layer.to_released(part, arrays[layer.path(part)])

    targets = sorted({layer.name for layer, _ in parts.values()})
    with new_folder(out) as folder:
        write_safetensors(folder / LORA_FILE, specs, read, _metadata(name, config, targets))
    print(f"{name}: {out / LORA_FILE} as {dtype.name}, rank {config.rank}, alpha {config.alpha:g}")
    if config.scale != 1:
        print(f"give programs that do not read alpha from the header the strength {config.scale:g}")


def _metadata(name: str, config: AdapterConfig, targets: list[str]) -> dict[str, str]:
    """Return the texts for the header: diffusers' settings, and whose adapter it is."""
    alpha = int(config.alpha) if config.alpha.is_integer() else config.alpha
    settings = {"r": config.rank, "lora_alpha": alpha, "target_modules": targets}
    return {
        METADATA: json.dumps({f"{PREFIX}{key}": value for key, value in settings.items()}),
        COMPONENT: name,
        BASE: config.base,
    }


def _is_exported(folder: Path) -> bool:
    return all(path.name == LORA_FILE for path in folder.iterdir())
