"""`python -m convert export --adapter`: an adapter as a LoRA file that diffusers reads."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from convert.lora.keys import PREFIX, LoraLayer, lora_layers
from convert.lora.settings import BASE, COMPONENT, LORA_STEM, METADATA
from convert.rules import Problems, check_values
from convert.safetensors_file import write_safetensors
from convert.stored import cpu_mesh, stored_architecture
from convert.tables import KINDS, parameters
from show1_jax.checkpoints.adapter_set import Adapter, open_adapters, read_adapter
from show1_jax.checkpoints.adapters import LORA_A, LORA_B
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.files import check_space, check_target, new_folder

LORA_FILE: Final = f"{LORA_STEM}.safetensors"


def export_adapter(
    checkpoint: str | Path, adapter: str, out: Path, *, dtype: np.dtype | None = None, overwrite: bool = False
) -> None:
    """Write an adapter as a LoRA file with the names of peft, in a folder from which diffusers loads it.

    Args:
        checkpoint: the checkpoint that the adapter belongs to, as `CheckpointSet.open` takes it.
        adapter: the adapter's directory, or that of its training run, see `open_adapters`.
        out: the folder to make; it appears when everything is written.
        dtype: the dtype of the written arrays; None: float32.
        overwrite: replace an earlier export at `out`.

    Raises:
        UserError: no such checkpoint or adapter, an adapter of other weights, one that replaces whole weights, values
            that are NaN or too large for `dtype`, or a problem with `out` or the disk; `out` is then unchanged.
    """
    check_target(out, "exported adapter", _is_exported, overwrite=overwrite)
    checkpoints = CheckpointSet.open(checkpoint)
    opened = _open_one(adapter, checkpoints)
    parts = _parts_by_key(opened, checkpoints)
    written, rank = dtype or np.dtype("float32"), opened.config.rank
    specs = {key: (layer.shape(part, rank), written) for key, (layer, part) in parts.items()}
    check_space(out, sum(math.prod(shape) for shape, _ in specs.values()) * written.itemsize)
    arrays = {path: np.asarray(array) for path, array in read_adapter(opened, cpu_mesh()).items()}
    problems = Problems()
    for key, (layer, part) in parts.items():
        check_values(key, arrays[layer.path(part)], written, problems)
    problems.raise_any(str(opened.folder), "use a wider --dtype")

    def read(key: str) -> np.ndarray:
        layer, part = parts[key]
        return layer.to_released(part, arrays[layer.path(part)])

    with new_folder(out) as folder:
        write_safetensors(folder / LORA_FILE, specs, read, _metadata(opened, parts))
    print(f"{opened.component}: {out / LORA_FILE} as {written.name}, rank {rank}, alpha {opened.config.alpha:g}")
    if opened.config.scale != 1:
        print(f"give programs that do not read alpha from the header the strength {opened.config.scale:g}")


def _open_one(adapter: str, checkpoints: CheckpointSet) -> Adapter:
    """Open an adapter that a LoRA file can hold."""
    adapters = open_adapters(adapter, checkpoints.manifest)
    if len(adapters) != 1:
        raise UserError(f"--adapter {adapter}: a LoRA file has one adapter of one network; export them one by one")
    opened = adapters[0]
    if opened.strength != 1:
        raise UserError(f"--adapter {adapter}: a LoRA file has no strength; omit it, and use it when you sample")
    if whole := sorted(".".join(path) for path in opened.shapes if path[-1] not in (LORA_A, LORA_B)):
        named = whole[0] + (", ..." if len(whole) > 1 else "")
        raise UserError(
            f"{opened.folder}: the adapter replaces {len(whole)} whole weights ({named}), which no LoRA file can hold; "
            "train with trainable=lora, or write the whole network with `python -m convert merge --adapter`"
        )
    return opened


def _parts_by_key(opened: Adapter, checkpoints: CheckpointSet) -> dict[str, tuple[LoraLayer, str]]:
    """Return the layer and the part for every key of the file."""
    name = opened.component
    record, path = checkpoints.component(name), checkpoints.path(name)
    if record.kind != "unet":
        raise UserError(f"{opened.folder}: adapts {name}, and LoRA files that diffusers reads are of UNets")
    state = parameters(record.kind, stored_architecture(path, name, record))
    layers = lora_layers(state, KINDS[record.kind].table).values()
    parts = {layer.key(part): (layer, part) for layer in layers for part in (LORA_A, LORA_B)}
    return {key: (layer, part) for key, (layer, part) in parts.items() if layer.path(part) in opened.shapes}


def _metadata(opened: Adapter, parts: Mapping[str, tuple[LoraLayer, str]]) -> dict[str, str]:
    """Return the texts for the header: diffusers' settings, and whose adapter it is."""
    alpha = opened.config.alpha
    settings = {
        "r": opened.config.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": sorted({layer.name for layer, _ in parts.values()}),
    }
    return {
        METADATA: json.dumps({f"{PREFIX}{name}": value for name, value in settings.items()}),
        COMPONENT: opened.component,
        BASE: opened.config.base,
    }


def _is_exported(folder: Path) -> bool:
    return all(path.name == LORA_FILE for path in folder.iterdir())
