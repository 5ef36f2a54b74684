"""Checkpoint weights; with `reading` and `show1_jax.buckets.orbax_paths`, the only module that uses Orbax.

A checkpoint is a directory with `manifest.json` and one subfolder for each component. The subfolder contains `weights`
(Orbax) and, for a text encoder, the files of its `tokenizer`. Weights are a tree of dictionaries. Their keys are the
parts of the NNX state's path, as strings: `state["down_blocks"][0]["conv"]["kernel"]` is `down_blocks/0/conv/kernel`.
"""

import asyncio
import logging
import math
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath  # type: ignore[import-untyped]
from flax import nnx
from jax.experimental.layout import Format
from orbax.checkpoint import type_handlers
from orbax.checkpoint._src import asyncio_utils

from show1_jax.buckets.errors import BucketError, translate_error
from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.cards.model_card import write_card
from show1_jax.checkpoints.manifest import (
    CHECKPOINT,
    MANIFEST,
    CheckpointError,
    Component,
    HashCheck,
    Manifest,
    check_hashes,
    check_sizes,
    describe_files,
    file_names,
    read_manifest,
)
from show1_jax.checkpoints.reading import ArrayReader, ByteLimit, move_to_layouts
from show1_jax.errors import UserError
from show1_jax.files import MAX_JSON_BYTES, check_target, check_utf8_path, is_folder, new_folder
from show1_jax.parallel.weights import WeightPath, to_state, to_weights, weight_path

CoroutineResult = TypeVar("CoroutineResult")

_SAVE_CONCURRENT_BYTES = 2**28
_READ_CONCURRENT_BYTES = 2**28
_INTERRUPTED_SECONDS = 3.0
_METADATA = "_METADATA"
_PASSING = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")
"""Codes of TensorStore's errors that do not show damage."""
_COMPRESS = False  # compression makes float32 weights a twelfth smaller, but writing takes five times as long

# Orbax's threads log errors with a traceback and also raise them: the user gets one line, from this package.
logging.getLogger("absl").addFilter(lambda record: not record.pathname.endswith("futures/future.py"))


def _run_in_new_loop(coroutine: Coroutine[Any, Any, CoroutineResult]) -> CoroutineResult:
    """Run a coroutine to the end, and also the tasks that it leaves running.

    If the disk is full, every write fails. The error of the first write is raised. The other writes must finish before
    the loop is closed: TensorStore's threads would report to the closed loop, each with a traceback on stderr.
    `asyncio.run` does not help: it cancels tasks, including those of other threads.
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
            if waiting:  # perhaps forever: Ctrl-C may have ended the task that would wake them
                break
        else:
            loop.close()


asyncio_utils._run_sync_via_new_loop = _run_in_new_loop  # private, but Orbax's own threads can be reached only here


def weight_shapes(checkpoint: Path, component: str) -> dict[WeightPath, jax.ShapeDtypeStruct]:
    """Return shape and dtype of every stored weight of a component, without reading the weights."""
    read_manifest(checkpoint).component(component)
    return _stored_shapes(checkpoint, f"{component}/weights")


def parameter_counts(checkpoint: Path, components: Iterable[str]) -> dict[str, int]:
    """Return the number of stored parameters of components, by name, without reading the weights."""
    return {
        name: sum(math.prod(leaf.shape) for leaf in _stored_shapes(checkpoint, f"{name}/weights").values())
        for name in components
    }


def load_weights(
    checkpoint: Path,
    component: str,
    abstract_state: nnx.State,
    shardings: Any = None,
    dtype: Any = None,
    part: WeightPath = (),
) -> nnx.State:
    """Restore a component's weights directly to the devices, while their files' hashes are checked.

    All processes must call this at the same point: each process hashes its share of the files. If there is one process,
    a thread may call it while others compute. With a `part`, hashes are not checked, because all parts are in the same
    files: see `check_weights`.

    Args:
      checkpoint: the checkpoint's directory.
      component: e.g. "keyframes".
      abstract_state: the parameters to fill, as shapes: `nnx.state(model, nnx.Param)` of an abstract model.
      shardings: one sharding for all parameters, or a state of shardings with the structure of `abstract_state`; by
        default everything is placed on the default device. Instead of a sharding there may be a
        `jax.experimental.layout.Format`: a sharding with the layout of the weights on the devices.
      dtype: dtype to cast to while reading; by default the dtypes of `abstract_state`.
      part: path of the module whose parameters are in `abstract_state`; by default the whole network.

    Returns:
      `abstract_state` with arrays instead of shapes.

    Raises:
      UserError: no such checkpoint or component, damaged files, or names or shapes that differ from `abstract_state`
        (all listed).
    """
    placed = _placement_by_path(abstract_state, shardings)
    wanted = {
        (*part, *path): jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=placed[path])
        for path, leaf in to_weights(abstract_state).items()
    }

    def read() -> nnx.State:
        arrays = load_arrays(checkpoint, f"{component}/weights", wanted, part)
        return to_state(abstract_state, {path[len(part) :]: array for path, array in arrays.items()})

    if part:
        return read()
    check_sizes(checkpoint, component)
    with HashCheck(checkpoint, f"{component}/weights", together=True) as check:
        weights, failure = None, None
        try:
            # It is small; if it is damaged, Orbax leaves coroutines that Python warns of.
            check_hashes(checkpoint, f"{component}/weights/{_METADATA}")
            weights = read()
        except Exception as error:  # of any class if the files are damaged, which the hashes show
            failure = error
        check.finish()
    if weights is None:
        assert failure is not None
        raise failure
    return weights


def check_weights(checkpoint: Path, component: str) -> None:
    """Compare the hashes of a component's weight files with those in the manifest.

    All processes must call this at the same point: each process hashes its share of the files.

    Raises:
      UserError: no such checkpoint or component, or missing or damaged files.
    """
    check_sizes(checkpoint, component)
    check_hashes(checkpoint, f"{component}/weights", together=True)


def load_arrays(
    checkpoint: Path, folder: str, wanted: Mapping[WeightPath, jax.ShapeDtypeStruct], part: WeightPath = ()
) -> dict[WeightPath, jax.Array]:
    """Load the arrays of one Orbax folder of a checkpoint, without checking hashes.

    Args:
      checkpoint: the checkpoint's directory.
      folder: relative path of the Orbax folder, e.g. "keyframes/weights".
      wanted: for every array its shape, the dtype to cast to, and its sharding or format; by default the default
        device.
      part: path of the arrays to load; by default all stored arrays.

    Returns:
      The arrays by path.

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
    registry = type_handlers.create_type_handler_registry((jax.Array, ArrayReader(_READ_CONCURRENT_BYTES)))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with _orbax_errors(checkpoint, folder):
        arrays = _flatten(handler.restore(_orbax_path(checkpoint / folder), args=args))
    return move_to_layouts(arrays, {path: leaf.format for path, leaf in wanted.items()})


def _stored_shapes(checkpoint: Path, folder: str) -> dict[WeightPath, jax.ShapeDtypeStruct]:
    try:
        _check_readable(checkpoint / folder)
        tree = ocp.PyTreeCheckpointHandler().metadata(_orbax_path(checkpoint / folder)).tree
        return {path: jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype)) for path, leaf in _flatten(tree).items()}
    except BucketError:
        raise
    except Exception as error:  # Orbax does not check its metadata: if damaged, exceptions of any type are raised
        raise _read_error(checkpoint, folder, error) from error


def _check_readable(folder: Path) -> None:
    """Refuse files on which Orbax would block or read without end: FIFOs, devices, links to folders, huge metadata.

    Raises:
        OSError: there is such a file; the message contains its name.
    """
    if isinstance(folder, BucketPath):
        if (folder / _METADATA).bucket.exceeds((folder / _METADATA).key, MAX_JSON_BYTES):
            raise OSError(f"{_METADATA} has more than {MAX_JSON_BYTES:,} bytes")
        return
    for path in folder.rglob("*"):
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            raise OSError(f"{path.relative_to(folder)} is not a regular file")
    metadata = folder / _METADATA
    if metadata.is_file() and metadata.stat().st_size > MAX_JSON_BYTES:
        raise OSError(f"{metadata.name} has more than {MAX_JSON_BYTES:,} bytes")


def _check_shapes(
    checkpoint: Path, folder: str, wanted: Mapping[WeightPath, jax.ShapeDtypeStruct], part: WeightPath
) -> None:
    stored = _stored_shapes(checkpoint, folder)
    found = {path: tuple(leaf.shape) for path, leaf in stored.items() if path[: len(part)] == part}
    expected = {path: tuple(leaf.shape) for path, leaf in wanted.items()}
    differing = sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))
    if differing:
        listed = ", ".join(
            f"{'/'.join(path)} (stored {found.get(path, 'nothing')}, wanted {expected.get(path, 'nothing')})"
            for path in differing[:20]
        )
        raise CheckpointError(
            checkpoint,
            f"{checkpoint}: {folder} does not fit the network in {len(differing)} places: "
            f"{listed}{', ...' if len(differing) > 20 else ''}",
        )


def tokenizer_files(checkpoint: Path, component: str) -> dict[str, Path]:
    """Return the tokenizer files of a text encoder by name, after checking their hashes; empty if it has none.

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
    """Return the tokenizer folder of a text encoder, after checking its files against the manifest.

    Raises:
      UserError: no such checkpoint or component, or files that are damaged, missing, or not in the manifest. Extra
        files are refused because tokenizer libraries read any file whose name they know.
    """
    listed = tokenizer_files(checkpoint, component)
    folder = checkpoint / component / "tokenizer"
    try:
        present = [path.name for path in folder.iterdir()] if is_folder(folder) else []
    except OSError as error:
        raise CheckpointError(checkpoint, f"{folder}: cannot be read ({error.strerror})") from None
    if extra := sorted(name for name in present if not name.startswith(".") and name not in listed):
        problem = f"{folder}: holds {', '.join(extra[:5])}, which the manifest does not list"
        raise CheckpointError(checkpoint, problem, "remove it, or convert again")
    return folder


class BackgroundWrite:
    """A background write of arrays to an Orbax folder.

    The arrays are on the host when the constructor returns, and on the disk when `wait` returns. All processes
    construct one with the same arrays. One process calls `finish`, after `wait` has returned in all processes.
    """

    def __init__(self, folder: Path, arrays: Mapping[WeightPath, jax.Array]):
        self._folder = _orbax_path(folder)
        self._handler = ocp.PyTreeCheckpointHandler(use_compression=_COMPRESS)
        saving = self._handler.async_save(self._folder, args=ocp.args.PyTreeSave(_nest(arrays)))
        self._commits = _run_in_new_loop(saving) or []

    def wait(self) -> None:
        """Wait until this process's part is written; raise the error of a write that failed."""
        for commit in self._commits:
            commit.result()

    def finish(self) -> None:
        """Join the parts of all processes."""
        self._handler.finalize(self._folder)


def _placement_by_path(
    abstract_state: nnx.State, shardings: Any
) -> Mapping[WeightPath, jax.sharding.Sharding | Format]:
    if shardings is None:
        shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(shardings, jax.sharding.Sharding | Format):
        return {weight_path(path): shardings for path, _ in nnx.to_flat_state(abstract_state)}
    return {
        weight_path(path): leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
        for path, leaf in nnx.to_flat_state(shardings)
    }


class CheckpointWriter:
    """A writer of a new checkpoint's components, one at a time; made by `new_checkpoint`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._components: dict[str, Component] = {}
        self._parameters: dict[str, int] = {}

    def add(
        self,
        name: str,
        component: Component,
        weights: Mapping[WeightPath, np.ndarray],
        dtypes: Mapping[WeightPath, np.dtype],
        tokenizer: Mapping[str, Path] | None = None,
        progress: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Write one component, tensor by tensor.

        Args:
          name: e.g. "keyframes".
          component: the component's record in the manifest.
          weights: arrays in this package's layout; views of memory-mapped files use memory only while they are written.
          dtypes: the dtype in which each array is stored.
          tokenizer: the tokenizer's files by name.
          progress: called after each tensor with its size in bytes, in the dtype of `weights`.
        """
        folder = self.directory / name
        folder.mkdir()
        tree = _nest(weights)
        save_args = _nest({path: ocp.SaveArgs(dtype=np.dtype(dtypes[path])) for path in weights})
        registry = type_handlers.create_type_handler_registry(
            (np.ndarray, _BoundedNumpyHandler(progress)), (jax.Array, type_handlers.ArrayHandler())
        )
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # Orbax would wait for the processes that do not write
            own = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
        handler = ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry, use_compression=_COMPRESS, multiprocessing_options=alone
        )
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as writer:
            writer.save((folder / "weights").absolute(), ocp.args.PyTreeSave(tree, save_args=save_args))
        # It contains a path of this machine; the manifest already records a complete checkpoint.
        (folder / "weights" / "commit_success.txt").unlink(missing_ok=True)
        if tokenizer:
            (folder / "tokenizer").mkdir()
            for file_name, path in tokenizer.items():
                (folder / "tokenizer" / file_name).write_bytes(path.read_bytes())
        self._components[name] = component
        self._parameters[name] = sum(array.size for array in weights.values())

    def finish(self, replaced: Path) -> None:
        """Write the model card, and then the manifest.

        Args:
          replaced: the checkpoint that this one replaces, if there is one: a card that the user edited is kept.
        """
        manifest = Manifest(self._components, describe_files(self.directory, file_names(self.directory)))
        write_card(self.directory, manifest, self._parameters, replaced)
        manifest.write(self.directory)


@contextmanager
def new_checkpoint(directory: Path, *, overwrite: bool = False) -> Iterator[CheckpointWriter]:
    """Yield a writer of a checkpoint, which appears at `directory` only if the block ends without an exception.

    A checkpoint in a bucket is written to the system's folder for temporary files, and then uploaded.

    Raises:
      UserError: `directory` exists (with `overwrite`: exists and is not a checkpoint), cannot be written, or the disk
        is full.
    """
    check_new_checkpoint(directory, overwrite=overwrite)
    with new_folder(directory, CHECKPOINT) as temporary:
        writer = CheckpointWriter(temporary)
        yield writer
        writer.finish(directory)


def check_new_checkpoint(directory: Path, *, overwrite: bool = False) -> None:
    """Refuse a directory to which `new_checkpoint` would not write.

    Raises:
      UserError: `directory` exists; with `overwrite`, it exists and is not a checkpoint; or its path is not UTF-8.
    """
    check_utf8_path(directory)
    check_target(
        directory,
        CHECKPOINT.name,
        lambda folder: (folder / MANIFEST).is_file(),
        overwrite=overwrite,
        uploaded=CHECKPOINT,
    )


class _BoundedNumpyHandler(type_handlers.NumpyHandler):
    """A handler that writes at most `_SAVE_CONCURRENT_BYTES` of arrays at a time (or one larger array), without copies.

    Orbax's own handler copies every array and writes all of them at once: this needs three times the component's size
    in memory. One array at a time would need the least memory, but then every write commits the whole OCDBT index.
    """

    def __init__(self, progress: Callable[[int], object]) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._progress = progress
        self._limit = ByteLimit(_SAVE_CONCURRENT_BYTES)

    async def _open_and_write(self, value: np.ndarray, tspec: dict[str, Any], ts_context: Any) -> None:
        async with self._limit.reserve(value.nbytes):
            await super()._open_and_write(value, tspec, ts_context)
        self._progress(value.nbytes)


@contextmanager
def _orbax_errors(checkpoint: Path, folder: str) -> Iterator[None]:
    """Convert the exceptions that damaged or missing weight files raise into one UserError."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise _read_error(checkpoint, folder, error) from error


def _read_error(checkpoint: Path, folder: str, error: Exception) -> UserError:
    if is_passing(checkpoint, error):
        return bucket_error(checkpoint, error)
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return CheckpointError(checkpoint, f"{checkpoint}: {folder} cannot be read ({reason})")


def is_passing(folder: Path, error: Exception) -> bool:
    """Return whether an error of Orbax is that of a bucket that does not answer or denies access, and no damage."""
    return isinstance(folder, BucketPath) and str(error).startswith(_PASSING)


def bucket_error(folder: Path, error: Exception) -> BucketError:
    """Return an error of `is_passing` as one line for the user."""
    assert isinstance(folder, BucketPath)
    return translate_error(str(error), folder.bucket.scheme, folder.bucket.name)


def _orbax_path(folder: Path) -> epath.Path:
    if isinstance(folder, BucketPath):
        from show1_jax.buckets.orbax_paths import orbax_path

        return orbax_path(folder)
    check_utf8_path(folder)
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
