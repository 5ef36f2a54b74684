"""Checkpoints: the one module that knows Orbax.

A checkpoint is a directory with `manifest.json` and a subfolder for each component, which holds its `weights` (Orbax)
and, for a text encoder, its `tokenizer`'s files. Weights are a tree of dictionaries whose keys are the NNX state's
path with every part as a string: `state["down_blocks"][0]["conv"]["kernel"]` is `down_blocks/0/conv/kernel`.
"""

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # type: ignore[import-untyped]
from flax import nnx
from orbax.checkpoint import type_handlers
from orbax.checkpoint._src import asyncio_utils

from show1_jax.checkpoints.manifest import (
    MANIFEST,
    CheckpointError,
    Component,
    Manifest,
    check_hashes,
    check_sizes,
    describe_files,
    file_names,
    read_manifest,
)
from show1_jax.files import MAX_JSON_BYTES, check_target, new_folder
from show1_jax.parallel.weights import WeightPath, to_state, to_weights, weight_path

T = TypeVar("T")

_SAVE_CONCURRENT_BYTES = 2**28
_RESTORE_CONCURRENT_GB = 4
_INTERRUPTED_SECONDS = 3.0
_COMPRESS = False  # it saves a twelfth of float32 weights' place, for five times the time to write them

# Orbax's threads log, with a traceback, what they also raise: a user gets one line, from us.
logging.getLogger("absl").addFilter(lambda record: not record.pathname.endswith("futures/future.py"))


def _run_in_new_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and what it leaves running, to the end.

    Where a disk is full, every write fails. The first one's error is raised; the others must not be left to a loop
    that is closed, to which TensorStore's threads would report, each with a traceback on stderr. `asyncio.run` is no
    help: it cancels tasks, of other threads too.
    """
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        return loop.run_until_complete(coroutine)
    finally:
        is_interrupted = isinstance(sys.exception(), KeyboardInterrupt)
        limit = _INTERRUPTED_SECONDS if is_interrupted else None
        while tasks := asyncio.all_tasks(loop):
            _, waiting = loop.run_until_complete(asyncio.wait(tasks, timeout=limit))
            if waiting:  # perhaps for ever: Ctrl-C may have ended what would wake it
                break
        else:
            loop.close()


asyncio_utils._run_sync_via_new_loop = _run_in_new_loop  # what Orbax's own threads run: private, and no other way


def weight_shapes(checkpoint: Path, component: str) -> dict[WeightPath, jax.ShapeDtypeStruct]:
    """Shape and dtype of every stored weight of a component. Reads no weights."""
    read_manifest(checkpoint).component(component)
    return _stored(checkpoint, f"{component}/weights")


def load_weights(
    checkpoint: Path,
    component: str,
    abstract_state: nnx.State,
    shardings: Any = None,
    dtype: Any = None,
    part: WeightPath = (),
) -> nnx.State:
    """Restores a component's weights straight to the devices, once their files' hashes are those of the manifest.

    Every process of the job must call it, at the same point: each hashes its share of the files. A part's hashes are
    not checked, since all parts lie in the same files: see `check_weights`.

    Args:
      checkpoint: the checkpoint's directory.
      component: e.g. "keyframes".
      abstract_state: the parameters to fill, of an `nnx.eval_shape`d model: `nnx.state(model, nnx.Param)`.
      shardings: one sharding for all, or a state of them with the structure of `abstract_state`; by default
        everything goes to the default device.
      dtype: cast to this while reading; by default to the dtypes of `abstract_state`.
      part: path of the module whose parameters `abstract_state` has; by default the whole network.

    Returns:
      `abstract_state` with arrays in place of shapes.

    Raises:
      UserError: no such checkpoint or component, damaged files, or names or shapes that differ from `abstract_state`
        (all listed).
    """
    placed = _sharding_by_path(abstract_state, shardings)
    wanted = {
        (*part, *path): jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=placed[path])
        for path, leaf in to_weights(abstract_state).items()
    }
    if not part:
        check_weights(checkpoint, component)
    arrays = load_arrays(checkpoint, f"{component}/weights", wanted, part)
    return to_state(abstract_state, {path[len(part) :]: array for path, array in arrays.items()})


def check_weights(checkpoint: Path, component: str) -> None:
    """Reads the files of a component's weights, and compares their hashes with those of the manifest.

    Every process of the job must call it, at the same point: each hashes its share of the files.

    Raises:
      UserError: no such checkpoint or component, or missing or damaged files.
    """
    check_sizes(checkpoint, component)
    check_hashes(checkpoint, f"{component}/weights", together=True)


def load_arrays(
    checkpoint: Path, folder: str, wanted: Mapping[WeightPath, jax.ShapeDtypeStruct], part: WeightPath = ()
) -> dict[WeightPath, jax.Array]:
    """Reads the arrays of one Orbax folder of a checkpoint as they are, their hashes unchecked.

    Args:
      checkpoint: the checkpoint's directory.
      folder: its relative path, e.g. "keyframes/weights".
      wanted: shape of every array, what dtype it is cast to, and where it goes: by default to the default device.
      part: only arrays under this path are wanted; by default all that are stored.

    Raises:
      UserError: names or shapes differ (all listed), or the files cannot be read.
    """
    _check_shapes(checkpoint, folder, wanted, part)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    restore_args = {
        path: ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=leaf.sharding or default, dtype=leaf.dtype)
        for path, leaf in wanted.items()
    }
    args = ocp.args.PyTreeRestore(
        item=_nest(dict.fromkeys(wanted, 0)), restore_args=_nest(restore_args), partial_restore=bool(part)
    )
    with _orbax_errors(checkpoint, folder):
        return _flatten(_reader().restore(_orbax_path(checkpoint / folder), args=args))


def _stored(checkpoint: Path, folder: str) -> dict[WeightPath, jax.ShapeDtypeStruct]:
    try:
        _check_readable(checkpoint / folder)
        tree = _reader().metadata(_orbax_path(checkpoint / folder)).tree
        return {path: jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype)) for path, leaf in _flatten(tree).items()}
    except Exception as error:  # Orbax trusts what it wrote: damage to its metadata raises any type
        raise _unreadable(checkpoint, folder, error) from error


def _check_readable(folder: Path) -> None:
    """Refuse what Orbax would wait for, or read without end: FIFOs and devices, links to folders, vast metadata.

    Raises:
        OSError: says which file.
    """
    for path in folder.rglob("*"):
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            raise OSError(f"{path.relative_to(folder)} is not a regular file")
    metadata = folder / "_METADATA"
    if metadata.is_file() and metadata.stat().st_size > MAX_JSON_BYTES:
        raise OSError(f"{metadata.name} has more than {MAX_JSON_BYTES:,} bytes")


def _check_shapes(
    checkpoint: Path, folder: str, wanted: Mapping[WeightPath, jax.ShapeDtypeStruct], part: WeightPath
) -> None:
    stored = _stored(checkpoint, folder)
    there = {path: tuple(leaf.shape) for path, leaf in stored.items() if path[: len(part)] == part}
    asked = {path: tuple(leaf.shape) for path, leaf in wanted.items()}
    differing = sorted(path for path in there.keys() | asked.keys() if there.get(path) != asked.get(path))
    if differing:
        listed = ", ".join(
            f"{'/'.join(path)} (stored {there.get(path, 'nothing')}, wanted {asked.get(path, 'nothing')})"
            for path in differing[:20]
        )
        raise CheckpointError(
            checkpoint,
            f"{checkpoint}: {folder} does not fit the network in {len(differing)} places: "
            f"{listed}{', ...' if len(differing) > 20 else ''}",
        )


def tokenizer_files(checkpoint: Path, component: str) -> dict[str, Path]:
    """The tokenizer's files of a text encoder by name, once their hashes are those of the manifest; empty if none.

    Raises:
      UserError: no such checkpoint or component, or missing or damaged files.
    """
    manifest = read_manifest(checkpoint)
    manifest.component(component)
    folder = PurePosixPath(component, "tokenizer")
    check_hashes(checkpoint, str(folder))
    listed = (PurePosixPath(name) for name in manifest.files)
    return {path.name: checkpoint / path for path in listed if path.parent == folder}


def tokenizer_folder(checkpoint: Path, component: str) -> Path:
    """Where the tokenizer of a text encoder is, once its files are those of the manifest, unchanged.

    Raises:
      UserError: no such checkpoint or component, or files that are damaged, missing, or not in the manifest: the
        libraries that read the folder take whatever they know by name.
    """
    listed = tokenizer_files(checkpoint, component)
    folder = checkpoint / component / "tokenizer"
    try:
        present = os.listdir(folder) if os.path.isdir(folder) else []
    except OSError as error:
        raise CheckpointError(checkpoint, f"{folder}: cannot be read ({error.strerror})") from None
    if extra := sorted(name for name in present if not name.startswith(".") and name not in listed):
        problem = f"{folder}: holds {', '.join(extra[:5])}, which the manifest does not list"
        raise CheckpointError(checkpoint, problem, "remove it, or convert again")
    return folder


class BackgroundWrite:
    """Arrays on their way into an Orbax folder: on the host once this is made, on the disk once `wait` returns.

    Every process of the job makes one, of the same arrays; `finish` is for one process, after `wait` in all.
    """

    def __init__(self, folder: Path, arrays: Mapping[WeightPath, jax.Array]):
        self._folder = _orbax_path(folder)
        self._handler = ocp.PyTreeCheckpointHandler(use_compression=_COMPRESS)
        saving = self._handler.async_save(self._folder, args=ocp.args.PyTreeSave(_nest(arrays)))
        self._commits = _run_in_new_loop(saving) or []

    def wait(self) -> None:
        """Returns when this process's part is written, or raises what went wrong."""
        for commit in self._commits:
            commit.result()

    def finish(self) -> None:
        """Joins the parts of all processes."""
        self._handler.finalize(self._folder)


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
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=_COMPRESS)
        with ocp.Checkpointer(handler) as writer:
            writer.save((folder / "weights").absolute(), ocp.args.PyTreeSave(tree, save_args=save_args))
        # Says, of one machine's path, what the manifest says better.
        (folder / "weights" / "commit_success.txt").unlink(missing_ok=True)
        if tokenizer:
            (folder / "tokenizer").mkdir()
            for file_name, path in tokenizer.items():
                shutil.copyfile(path, folder / "tokenizer" / file_name)
        self._components[name] = component

    def finish(self) -> None:
        """Writes the manifest."""
        Manifest(self._components, describe_files(self.directory, file_names(self.directory))).write(self.directory)


@contextmanager
def new_checkpoint(directory: Path, *, overwrite: bool = False) -> Iterator[CheckpointWriter]:
    """A writer for a checkpoint that appears at `directory` when the block ends well, and not at all otherwise.

    Raises:
      UserError: `directory` exists and may not be overwritten (with `overwrite`: is no checkpoint), cannot be
        written, or the disk is full.
    """
    check_new_checkpoint(directory, overwrite=overwrite)
    with new_folder(directory) as temporary:
        writer = CheckpointWriter(temporary)
        yield writer
        writer.finish()


def check_new_checkpoint(directory: Path, *, overwrite: bool = False) -> None:
    """Raise UserError where `new_checkpoint` would not write: at what exists, or with `overwrite` is no checkpoint."""
    check_target(directory, "checkpoint", lambda folder: (folder / MANIFEST).is_file(), overwrite=overwrite)


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
def _orbax_errors(checkpoint: Path, folder: str) -> Iterator[None]:
    """Damaged or missing weight files raise many kinds of exceptions; all mean the same to a person."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(checkpoint, folder, error) from error


def _unreadable(checkpoint: Path, folder: str, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return CheckpointError(checkpoint, f"{checkpoint}: {folder} cannot be read ({reason})")


def _reader() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(restore_concurrent_gb=_RESTORE_CONCURRENT_GB)


def _orbax_path(folder: Path) -> epath.Path:
    return epath.Path(folder.absolute())


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
