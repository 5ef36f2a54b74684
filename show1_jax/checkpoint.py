"""Checkpoints: the one module that knows Orbax.

A checkpoint is a directory with `manifest.json` and a subfolder for each component, which holds its `weights` (Orbax)
and, for a text encoder, its `tokenizer`'s files. Weights are a tree of dictionaries whose keys are the NNX state's
path with every part as a string: `state["down_blocks"][0]["conv"]["kernel"]` is `down_blocks/0/conv/kernel`.
"""

import asyncio
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import type_handlers

from show1_jax.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_SAVE_CONCURRENT_BYTES = 2**28
_RESTORE_CONCURRENT_GB = 4

WeightPath = tuple[str, ...]


@dataclass(frozen=True)
class Component:
    """What a checkpoint knows of one component besides its weights. Every field is JSON.

    Attributes:
      kind: "unet", "vae", "t5" or "clip".
      architecture: the fields of our configuration dataclass of that kind.
      dtype: of the stored weights, e.g. "float16"; "mixed" where the released file mixes them and they were kept.
      schedulers: the released scheduler configurations, verbatim, by role (`scheduler`, `image_noising_scheduler`).
      config: the component's released `config.json`, verbatim.
      provenance: where the weights come from: source, revision, file hashes, licence, tool version.
    """

    kind: str
    architecture: dict[str, Any]
    dtype: str
    schedulers: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`: the components by name, and size and SHA-256 of every file by relative path."""

    components: dict[str, Component]
    files: dict[str, dict[str, Any]]
    format_version: int = FORMAT_VERSION

    def component(self, name: str) -> Component:
        """The component of that name; a UserError says which ones there are."""
        if name not in self.components:
            raise UserError(
                f"the checkpoint has no component {name!r}, only {', '.join(self.components) or 'none'}; "
                "convert it as well: `python -m convert --help`"
            )
        return self.components[name]

    @classmethod
    def from_json(cls, values: Any) -> Self:
        components = {name: Component(**fields) for name, fields in values["components"].items()}
        return cls(components, dict(values["files"]), int(values["format_version"]))


def read_manifest(checkpoint: Path) -> Manifest:
    """Reads a checkpoint's `manifest.json`.

    Raises:
      UserError: `checkpoint` is missing or no checkpoint (the line has the command that makes one), or is damaged or
        of another format version.
    """
    try:
        manifest = Manifest.from_json(json.loads((checkpoint / MANIFEST).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{checkpoint}: no checkpoint; make one with `python -m convert --out {checkpoint}`") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{checkpoint / MANIFEST}: damaged; convert again") from None
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(
            f"{checkpoint}: format version {manifest.format_version}, this program reads {FORMAT_VERSION}; "
            "convert again with this version"
        )
    return manifest


def verify_files(checkpoint: Path, progress: Callable[[int], object] = lambda size: None) -> None:
    """Recomputes the SHA-256 of every file; `progress` is told the bytes done.

    Raises:
      UserError: names every missing, changed and extra file at once.
    """
    recorded = read_manifest(checkpoint).files
    present = {path.relative_to(checkpoint).as_posix(): path for path in _files(checkpoint)}
    problems = [f"missing {name}" for name in sorted(recorded.keys() - present.keys())]
    problems += [f"extra {name}" for name in sorted(present.keys() - recorded.keys())]
    for name in sorted(recorded.keys() & present.keys()):
        size = present[name].stat().st_size
        if size != recorded[name]["size"] or sha256(present[name]) != recorded[name]["sha256"]:
            problems.append(f"changed {name}")
        progress(size)
    if problems:
        raise UserError(f"{checkpoint}: damaged: {', '.join(problems)}; convert again")


def check_sizes(checkpoint: Path, component: str) -> None:
    """Finds missing and truncated files of a component at once: Orbax reports them late and at length.

    Raises:
      UserError: names the first such file.
    """
    manifest = read_manifest(checkpoint)
    manifest.component(component)
    for name, recorded in manifest.files.items():
        path = checkpoint / name
        if name.startswith(f"{component}/") and (not path.is_file() or path.stat().st_size != recorded["size"]):
            raise UserError(f"{path}: missing or truncated; convert again, or copy the checkpoint again")


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_path(path: tuple[Any, ...]) -> WeightPath:
    """The place in a checkpoint of the parameter at `path` in an NNX state."""
    return tuple(str(part) for part in path)


def weight_shapes(checkpoint: Path, component: str) -> dict[WeightPath, jax.ShapeDtypeStruct]:
    """Shape and dtype of every stored weight of a component. Reads no weights."""
    read_manifest(checkpoint).component(component)
    with _reader() as reader, _orbax_errors(checkpoint, component):
        metadata = reader.metadata(_weights_folder(checkpoint, component)).item_metadata
        if metadata is None:
            raise ValueError("Orbax finds no weights")
        return {
            path: jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype))
            for path, leaf in _flatten(metadata.tree).items()
        }


def load_weights(
    checkpoint: Path,
    component: str,
    abstract_state: nnx.State,
    shardings: Any = None,
    dtype: Any = None,
) -> nnx.State:
    """Restores a component's weights straight to the devices.

    Args:
      checkpoint: the checkpoint's directory.
      component: e.g. "keyframes".
      abstract_state: the parameters to fill, of an `nnx.eval_shape`d model: `nnx.state(model, nnx.Param)`.
      shardings: one sharding for all, or a state of them with the structure of `abstract_state`; by default
        everything goes to the default device.
      dtype: cast to this while reading; by default to the dtypes of `abstract_state`.

    Returns:
      `abstract_state` with arrays in place of shapes.

    Raises:
      UserError: no such checkpoint or component, or names or shapes that differ from `abstract_state` (all listed).
    """
    wanted = {weight_path(path): variable for path, variable in nnx.to_flat_state(abstract_state)}
    check_sizes(checkpoint, component)
    _check_shapes(checkpoint, component, {path: tuple(variable.shape) for path, variable in wanted.items()})
    placed = _sharding_by_path(abstract_state, shardings)
    restore_args = {
        path: ocp.ArrayRestoreArgs(
            restore_type=jax.Array, sharding=placed[path], dtype=np.dtype(dtype or variable.dtype)
        )
        for path, variable in wanted.items()
    }
    with _reader() as reader, _orbax_errors(checkpoint, component):
        restored = reader.restore(
            _weights_folder(checkpoint, component),
            args=ocp.args.PyTreeRestore(item=_nest(dict.fromkeys(wanted, 0)), restore_args=_nest(restore_args)),
        )
    arrays = _flatten(restored)
    return nnx.from_flat_state(
        [(path, variable.replace(arrays[weight_path(path)])) for path, variable in nnx.to_flat_state(abstract_state)]
    )


def _check_shapes(checkpoint: Path, component: str, wanted: Mapping[WeightPath, tuple[int, ...]]) -> None:
    stored = {path: leaf.shape for path, leaf in weight_shapes(checkpoint, component).items()}
    differing = sorted(path for path in stored.keys() | wanted.keys() if stored.get(path) != wanted.get(path))
    if differing:
        listed = ", ".join(
            f"{'/'.join(path)} (stored {stored.get(path, 'nothing')}, wanted {wanted.get(path, 'nothing')})"
            for path in differing[:20]
        )
        raise UserError(
            f"{checkpoint}: the weights of {component} do not fit the network in {len(differing)} places: "
            f"{listed}{', ...' if len(differing) > 20 else ''}; convert again"
        )


def _sharding_by_path(abstract_state: nnx.State, shardings: Any) -> dict[WeightPath, jax.sharding.Sharding]:
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, jax.sharding.Sharding):
        return {weight_path(path): shardings for path, _ in nnx.to_flat_state(abstract_state)}
    return {
        weight_path(path): leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        for path, leaf in nnx.to_flat_state(shardings)
    }


class CheckpointWriter:
    """Writes the components of a new checkpoint one by one; made by `new_checkpoint`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._components: dict[str, Component] = {}

    def add(
        self,
        name: str,
        component: Component,
        weights: Mapping[WeightPath, np.ndarray],
        dtypes: Mapping[WeightPath, np.dtype],
        tokenizer: Mapping[str, Path] | None = None,
        progress: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Writes one component, tensor by tensor.

        Args:
          name: e.g. "keyframes".
          component: its record in the manifest.
          weights: arrays in our layout; views of memory-mapped files cost memory only while they are written.
          dtypes: what each is stored as.
          tokenizer: the tokenizer's files by name.
          progress: is told the bytes (as read) of each tensor written.
        """
        folder = self.directory / name
        folder.mkdir()
        tree = _nest(weights)
        save_args = _nest({path: ocp.SaveArgs(dtype=np.dtype(dtypes[path])) for path in weights})
        registry = type_handlers.create_type_handler_registry(
            (np.ndarray, _FewAtOnce(progress)), (jax.Array, type_handlers.ArrayHandler())
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry)) as writer:
            writer.save((folder / "weights").absolute(), ocp.args.PyTreeSave(tree, save_args=save_args))
        if tokenizer:
            (folder / "tokenizer").mkdir()
            for file_name, path in tokenizer.items():
                shutil.copyfile(path, folder / "tokenizer" / file_name)
        self._components[name] = component

    def finish(self) -> None:
        """Writes the manifest."""
        files = {
            path.relative_to(self.directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
            for path in _files(self.directory)
        }
        manifest = Manifest(self._components, files)
        (self.directory / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")


@contextmanager
def new_checkpoint(directory: Path, *, overwrite: bool = False) -> Iterator[CheckpointWriter]:
    """A writer for a checkpoint that appears at `directory` when the block ends well, and not at all otherwise.

    Everything is written to a sibling directory, which is renamed at the end.

    Raises:
      UserError: `directory` exists and may not be overwritten (with `overwrite`: is no checkpoint), cannot be
        written, or the disk is full.
    """
    check_target(directory, overwrite=overwrite)
    temporary = _sibling(directory)
    try:
        temporary.mkdir(parents=True)
        writer = CheckpointWriter(temporary)
        yield writer
        writer.finish()
        _publish(temporary, directory)
    except Exception as error:
        if line := _disk_error(error):
            raise UserError(f"{directory}: {line}; choose another place with --out") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(directory: Path, *, overwrite: bool = False) -> None:
    """Raises UserError where `new_checkpoint` would not write: at what exists, or with `overwrite` is no checkpoint."""
    if not directory.exists():
        return
    if not overwrite:
        raise UserError(f"{directory}: exists; choose another place, or replace it with --overwrite")
    if not (directory / MANIFEST).is_file() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f"{directory}: is no checkpoint, so it is not overwritten; choose another place")


def _publish(temporary: Path, directory: Path) -> None:
    replaced = _sibling(directory)
    if directory.exists():
        os.replace(directory, replaced)
    os.replace(temporary, directory)
    shutil.rmtree(replaced, ignore_errors=True)


def _sibling(directory: Path) -> Path:
    return directory.absolute().with_name(f".{directory.name}.{secrets.token_hex(4)}")


def _disk_error(error: Exception) -> str | None:
    """Orbax passes on what TensorStore says as any type; the operating system's words are in the text."""
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EDQUOT} or "No space left on device" in str(error):
        return "the disk is full, nothing was kept"
    if number in {errno.EACCES, errno.EROFS, errno.ENOTDIR}:
        return f"cannot be written ({os.strerror(number)})"
    return None


class _FewAtOnce(type_handlers.NumpyHandler):
    """Writes arrays of at most `_SAVE_CONCURRENT_BYTES` at a time (or one that is larger) and copies none beforehand.

    Orbax's own handler copies every array and writes them all at once: three times the component in memory. One at a
    time would be the least memory, but each write that ends alone costs a commit of OCDBT's whole index.
    """

    def __init__(self, progress: Callable[[int], object]) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._progress = progress
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def _open_and_write(self, value: np.ndarray, tspec: dict[str, Any], ts_context: Any) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._in_flight or self._in_flight + value.nbytes <= _SAVE_CONCURRENT_BYTES
            )
            self._in_flight += value.nbytes
        try:
            await super()._open_and_write(value, tspec, ts_context)
        finally:
            async with self._changed:
                self._in_flight -= value.nbytes
                self._changed.notify_all()
        self._progress(value.nbytes)


@contextmanager
def _orbax_errors(checkpoint: Path, component: str) -> Iterator[None]:
    """Damaged or missing weight files raise many kinds of exceptions; all mean the same to a person."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{checkpoint}: the weights of {component} cannot be read ({reason}); "
            f"see what is damaged with `python -m convert verify {checkpoint}`"
        ) from error


def _reader() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(restore_concurrent_gb=_RESTORE_CONCURRENT_GB))


def _weights_folder(checkpoint: Path, component: str) -> Path:
    return (checkpoint / component / "weights").absolute()


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST)


def _nest(flat: Mapping[WeightPath, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return tree


def _flatten(tree: Mapping[str, Any], prefix: WeightPath = ()) -> dict[WeightPath, Any]:
    flat: dict[WeightPath, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, (*prefix, key)) if isinstance(value, Mapping) else {(*prefix, key): value}
    return flat
