"""Export of a checkpoint as diffusers folders: the reverse of `convert.convert`, through the same tables."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from flax import nnx

from show1_jax.checkpoints.arrays import tokenizer_files
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Component
from show1_jax.errors import UserError, shown_name
from show1_jax.files import check_space, check_target, new_folder
from show1_jax.nn.config import Architecture
from show1_jax.parallel.weights import WeightPath
from show1_jax.progress import Bar

from .convert import DTYPES
from .model_index import model_index
from .released import MODEL_INDEX, RELEASED_STAGES
from .rules import ReleasedTensor, released_tensors
from .safetensors_file import write_safetensors
from .stored import read_weights, stored_architecture
from .tables import KINDS, Kind, parameters

_STAGE_FOLDERS: Final = {part.component: stage.folder for stage in RELEASED_STAGES.values() for part in stage.parts}
_ROLES: Final = {role for stage in RELEASED_STAGES.values() for part in stage.parts for role in part.schedulers}
_EXPORTED_NAMES: Final = {
    MODEL_INDEX,
    "tokenizer",
    *_STAGE_FOLDERS.values(),
    *(kind.folder for kind in KINDS.values()),
    *_ROLES,
}
"""Names in an exported folder; a folder that contains others is not overwritten."""


@dataclass(frozen=True)
class _ExportedNetwork:
    """A component that can be written.

    Attributes:
        name: its name in the checkpoint.
        checkpoint: the checkpoint's directory.
        record: its entry in the manifest.
        kind: the kind of network.
        folder: the folder for its own folders, below the exported one.
        config: its `config.json`.
        state: its parameters, as shapes.
        tensors: for every released key our path and the released tensor; keys that repeat the tensor of another key
            are included.
    """

    name: str
    checkpoint: Path
    record: Component
    kind: Kind
    folder: str
    config: dict[str, Any]
    state: nnx.State
    tensors: dict[str, tuple[WeightPath, ReleasedTensor]]

    def written_bytes(self, dtype: np.dtype | None) -> int:
        """Return the size of its file in bytes; an upper bound if the stored weights have several dtypes."""
        width = dtype or DTYPES.get(self.record.dtype) or np.dtype("float32")
        return sum(math.prod(source.shape) for _, source in self.tensors.values()) * width.itemsize


def export(
    checkpoint: str | Path,
    out: Path,
    components: Sequence[str] = (),
    *,
    dtype: np.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write networks of a checkpoint as diffusers folders.

    Args:
        checkpoint: a checkpoint's directory, a training run's, or several, as `CheckpointSet.open` takes them.
        out: the folder to make; it appears when everything is written.
        components: the components to write into `out`, as `unet`, `text_encoder` and so on; by default all of them,
            into a folder in `out` for each stage, named as the released one.
        dtype: the dtype of the written weights; None keeps each tensor's.
        overwrite: replace an earlier export at `out`.

    Raises:
        UserError: no such checkpoint or component, damaged weights, two components for one folder, a network that no
            released class can represent, or a problem with `out` or the disk; `out` is then unchanged.
    """
    check_target(out, "exported folder", _is_exported, overwrite=overwrite)
    networks = _exported_networks(CheckpointSet.open(checkpoint), components)
    check_space(out, sum(network.written_bytes(dtype) for network in networks))
    with new_folder(out) as folder:
        for network in networks:
            _write_network(network, folder / network.folder, dtype)
        for name in {network.folder for network in networks}:
            _write_index(folder / name, [network for network in networks if network.folder == name])
    for network in networks:
        name = dtype.name if dtype else shown_name(network.record.dtype)
        print(f"{network.name}: {out / network.folder / network.kind.folder} as {name}")


def _exported_networks(checkpoints: CheckpointSet, components: Sequence[str]) -> list[_ExportedNetwork]:
    """Return the networks to write, checked as far as possible without reading weights."""
    networks = []
    owners: dict[str, str] = {}
    for name in dict.fromkeys(components or checkpoints.paths):
        record, checkpoint = checkpoints.component(name), checkpoints.path(name)
        architecture = stored_architecture(checkpoint, name, record)
        if record.kind not in KINDS:
            raise UserError(f"{name} is a network of metrics, which has no released folder; omit it with --component")
        kind = KINDS[record.kind]
        folder = "" if components else _STAGE_FOLDERS.get(name, "")
        place = f"{folder}/{kind.folder}".strip("/")
        if place in owners:
            raise UserError(f"{owners[place]} and {name} both go to {place}/; export them one by one")
        owners[place] = name
        if unknown := sorted(record.schedulers.keys() - _ROLES):
            raise UserError(
                f"{checkpoint}: {name} has schedulers of unknown roles: {', '.join(map(shown_name, unknown))}; "
                "convert again"
            )
        state = parameters(record.kind, architecture)
        config = _config(name, record, kind, architecture)
        networks.append(
            _ExportedNetwork(name, checkpoint, record, kind, folder, config, state, _tensors_by_key(kind, state))
        )
    return networks


def _tensors_by_key(kind: Kind, state: nnx.State) -> dict[str, tuple[WeightPath, ReleasedTensor]]:
    by_key = {source.key: (path, source) for path, source in released_tensors(state, kind.table).items()}
    return by_key | {repeat: by_key[key] for repeat, key in kind.table.tied.items()}


def _config(name: str, record: Component, kind: Kind, architecture: Architecture) -> dict[str, Any]:
    """Return the recorded `config.json` if it describes the architecture, or else one written from the architecture."""
    try:
        if record.config and kind.read_config(record.config) == architecture:
            return record.config
        return kind.write_config(architecture)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _write_network(network: _ExportedNetwork, folder: Path, dtype: np.dtype | None) -> None:
    kind, tensors = network.kind, network.tensors
    (folder / kind.folder).mkdir(parents=True)
    _write_json(folder / kind.folder / "config.json", network.config)
    for role, settings in network.record.schedulers.items():
        (folder / role).mkdir()
        _write_json(folder / role / "scheduler_config.json", settings)
    for file_name, path in tokenizer_files(network.checkpoint, network.name).items():
        (folder / "tokenizer").mkdir(exist_ok=True)
        (folder / "tokenizer" / file_name).write_bytes(path.read_bytes())
    weights = read_weights(network.checkpoint, network.name, network.state, dtype)
    with Bar(f"write {network.name}", len(tensors), unit=" tensors", leave=False) as bar:

        def read(key: str) -> np.ndarray:
            path, source = tensors[key]
            bar.update()
            return source.to_released(weights[path])

        specs = {key: (source.shape, dtype or weights[path].dtype) for key, (path, source) in tensors.items()}
        write_safetensors(folder / kind.folder / kind.weights, specs, read)


def _write_index(folder: Path, networks: Sequence[_ExportedNetwork]) -> None:
    records = {network.name: network.record for network in networks}
    if index := model_index(records, {network.name: network.config for network in networks}):
        _write_json(folder / MODEL_INDEX, index)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def _is_exported(folder: Path) -> bool:
    return all(path.name in _EXPORTED_NAMES for path in folder.iterdir())
