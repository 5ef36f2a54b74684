"""Checkpoints of a training run: written in the background, checked before they are used.

    WORKDIR/checkpoints/00001000/   the checkpoint of one step
        manifest.json               as in every checkpoint: the component, and the hashes of all files
        README.md                   its model card; contact_sheet.png beside it, if samples were made at this step
        NAME/weights                the component's averaged weights, in the format of a converted checkpoint
        training/state              the other arrays that a resumed run needs (Orbax)
        training/record.json        the state of the run that is not in arrays

The directory may be in a bucket. `step_folders` has the folder of a step while it is written.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jax

from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.arrays import BackgroundWrite, bucket_error, is_passing, load_arrays, parameter_counts
from show1_jax.checkpoints.cards.model_card import add_sheet, own_card_in, write_card
from show1_jax.checkpoints.manifest import (
    TRAINING,
    CheckpointError,
    Component,
    Manifest,
    check_hashes,
    check_sizes,
    describe_files,
    files_to_hash,
    read_manifest,
)
from show1_jax.checkpoints.step_folders import StepFolder, list_steps, remove_leftovers, step_folder
from show1_jax.errors import FileError, UserError, disk_error
from show1_jax.files import read_json
from show1_jax.parallel.processes import from_all_processes, from_first_process
from show1_jax.parallel.weights import WeightPath, Weights

CHECKPOINTS: Final = "checkpoints"
"""The folder of a run's working directory that contains its steps."""
_STATE: Final = f"{TRAINING}/state"
_RECORD: Final = f"{TRAINING}/record.json"
_NO_ANSWER: Final = "\0"
"""Mark of a problem that is no damage, in what processes tell each other."""
_OTHER_PROCESS_FAILED: Final = "another process could not write its part"

StepPart = TypeVar("StepPart")
Shapes = Mapping[WeightPath, jax.ShapeDtypeStruct]
Warn = Callable[[str], object]


class Restored(NamedTuple):
    """A step as it was saved.

    Attributes:
        step: its number.
        ema: the averaged weights.
        state: the other arrays, in the structure of the saved tree.
        record: the JSON record.
    """

    step: int
    ema: Weights
    state: Any
    record: dict[str, Any]


def warn_user(line: str) -> None:
    """Print a warning, from the first process only."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)


class TrainingCheckpoints:
    """The saved steps of one training run. All processes construct one and call its methods at the same points.

    Args:
        directory: `WORKDIR/checkpoints`, on a file system that all processes share. Incomplete steps that killed runs
            left there are removed.
        keep: number of newest steps to keep.
        keep_every: steps that are multiples of this number are kept as well; 0: none.

    Raises:
        UserError: the directory cannot be made.
    """

    def __init__(self, directory: Path, *, keep: int, keep_every: int):
        self.directory = directory.absolute()
        self._keep, self._keep_every = keep, keep_every
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        from_first_process(lambda: remove_leftovers(self.directory))

    def save(
        self, step: int, name: str, component: Component, ema: Weights, state: Any, record: Mapping[str, Any]
    ) -> None:
        """Save a step in the background.

        When this returns, the arrays are copied and may be donated, and the files are still being written. An earlier
        save is waited for first. If the step exists, it is replaced when the new one is complete.

        Args:
            step: number of the step.
            name: name of the trained component.
            component: record of the component for the manifest.
            ema: averaged weights of the component.
            state: a tree of arrays, without the averaged weights.
            record: JSON values; those of the first process are written.

        Raises:
            UserError: this save could not begin, or the earlier one failed; earlier steps still exist.
        """
        self.wait()
        text = json.dumps(record, indent=1) + "\n"
        target = step_folder(self.directory, step)
        from_first_process(lambda: self._begin(target, name, text))
        writes: list[BackgroundWrite] = []
        failure: Exception | None = None
        try:
            with self._discard_on_error(target):
                for folder, arrays in ((f"{name}/weights", ema), (_STATE, _leaves_by_path(state))):
                    writes.append(BackgroundWrite(target.draft / folder, arrays))
        except Exception as error:
            failure = error
        _raise_in_every_process(failure)
        parameters = {name: sum(array.size for array in ema.values())}
        self._saving = self._thread.submit(self._finish, target, {name: component}, parameters, writes)

    def add_sheet(self, step: int, sheet: Path) -> None:
        """Copy a contact sheet into a saved step and show it in its card, in the background, after the save.

        A step that was not saved, or whose card the user edited, stays unchanged; steps in buckets have no cards. One
        process calls this.
        """
        if not isinstance(self.directory, BucketPath):
            self._thread.submit(self._add_sheet, step_folder(self.directory, step).final, sheet)

    def _add_sheet(self, folder: Path, sheet: Path) -> None:
        if not own_card_in(folder) or not folder.is_dir():
            return
        with suppress(UserError):  # a full disk: the step is complete without it
            manifest = read_manifest(folder)
            add_sheet(folder, sheet)
            write_card(folder, manifest, parameter_counts(folder, manifest.components))

    def wait(self) -> None:
        """Wait until the last save is complete.

        Raises:
            UserError: the last save failed in any process; all processes raise it.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            _raise_in_every_process(saving.exception())

    def poll(self) -> None:
        """Raise the error of the last save if it has already failed.

        With several processes this does nothing, because one process does not know the state of the others.
        """
        if self._saving is not None and self._saving.done() and jax.process_count() == 1:
            self.wait()

    def close(self, *, agree: bool = True) -> None:
        """Wait for the last save, and end the background thread.

        Args:
            agree: all processes close at this point. Set it to False after an exception that other processes may not
                have: this process then finishes its own part of the last save, and no error is reported.

        Raises:
            UserError: the last save failed.
        """
        try:
            if agree:
                self.wait()
        finally:
            self._thread.shutdown()

    def record(self) -> dict[str, Any] | None:
        """Return the record of the newest step with an intact record, or None; no arrays are read."""
        return from_first_process(self._newest_record)

    def restore(self, name: str, ema: Shapes, state: Any, warn: Warn = warn_user) -> Restored | None:
        """Restore the newest intact step, on any mesh and number of processes; return None if there are no steps.

        A step that one process cannot read is skipped by all processes.

        Args:
            name: name of the component.
            ema: shapes, dtypes and shardings of the averaged weights (`jax.ShapeDtypeStruct`).
            state: the same for the other arrays, in a tree with the structure of the saved tree.
            warn: called with a line for each skipped step.

        Raises:
            UserError: there are steps, but none can be used; or the newest is of another component.
        """
        steps = from_first_process(lambda: list_steps(self.directory))
        problem = ""
        for step in reversed(steps):
            try:
                return self._read(step, name, ema, state)
            except CheckpointError as error:
                problem = error.problem
                warn(f"{problem}; step {step} is skipped")
        if steps:
            raise UserError(f"{self.directory}: no step can be used: {problem}; start again in another --workdir")
        return None

    def _read(self, step: int, name: str, ema: Shapes, state: Any) -> Restored:
        folder = step_folder(self.directory, step).final
        _in_every_process(folder, lambda: read_manifest(folder)).component(name)
        check_hashes(folder, together=True)
        record = _in_every_process(folder, lambda: _read_step_record(folder))
        weights = _in_every_process(folder, lambda: load_arrays(folder, f"{name}/weights", ema))
        arrays = _in_every_process(folder, lambda: load_arrays(folder, _STATE, _leaves_by_path(state)))
        leaves = [arrays[path] for path in _leaves_by_path(state)]
        return Restored(step, weights, jax.tree.unflatten(jax.tree.structure(state), leaves), record)

    def _newest_record(self) -> dict[str, Any] | None:
        for step in reversed(list_steps(self.directory)):
            folder = step_folder(self.directory, step).final
            try:
                check_hashes(folder, _RECORD)
                return _read_step_record(folder)
            except CheckpointError:
                continue
        return None

    def _begin(self, target: StepFolder, name: str, record: str) -> None:
        with self._discard_on_error(target):
            remove_leftovers(self.directory)
            target.begin([f"{name}/weights", _STATE])
            (target.draft / _RECORD).write_text(record)

    def _finish(
        self,
        target: StepFolder,
        components: dict[str, Component],
        parameters: dict[str, int],
        writes: Sequence[BackgroundWrite],
    ) -> None:
        """Do the background part of a save, in every process."""
        with self._discard_on_error(target):
            self._write(target, components, parameters, writes)

    def _write(
        self,
        target: StepFolder,
        components: dict[str, Component],
        parameters: dict[str, int],
        writes: Sequence[BackgroundWrite],
    ) -> None:
        processes, is_first = range(jax.process_count()), jax.process_index() == 0
        with ExitStack() as stack:  # waits for all, even if one fails
            for write in writes:
                stack.callback(write.wait)
        target.send("written", None)
        if is_first:
            target.receive("written", processes)
            for write in writes:
                write.finish()
            target.send("sizes", target.sizes())
        (sizes,) = target.receive("sizes", [0])
        target.send("files", describe_files(target.draft, files_to_hash(sizes)))
        if is_first:
            files = {name: file for share in target.receive("files", processes) for name, file in share.items()}
            manifest = Manifest(components, files)
            if not isinstance(target.draft, BucketPath):
                write_card(target.draft, manifest, parameters, target.final)
            target.publish(manifest)
            self._remove_old(target.step)

    def _remove_old(self, newest: int) -> None:
        """Remove the steps that are not kept. Steps after the newest are damaged ones, which this run skipped."""
        steps = [step for step in list_steps(self.directory) if step <= newest]
        for step in steps[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                step_folder(self.directory, step).remove()

    @contextmanager
    def _discard_on_error(self, target: StepFolder) -> Iterator[None]:
        """Remove the files of a save that fails in the block, so that the other processes stop too; raise one line."""
        try:
            yield
        except BaseException as error:
            abandoned = jax.process_count() > 1 and not _is_begun(target)
            target.discard()
            if not isinstance(error, OSError | ValueError | RuntimeError):
                raise
            if is_passing(self.directory, error):
                raise bucket_error(self.directory, error) from error
            own_reason = disk_error(error) or (str(error).splitlines() or [type(error).__name__])[0][:200]
            reason = _OTHER_PROCESS_FAILED if abandoned else own_reason
            raise UserError(
                f"{self.directory}: step {target.step} was not saved, {reason}; "
                "the steps before it are still there: make room, then resume with the same command"
            ) from error


def _is_begun(target: StepFolder) -> bool:
    try:
        return target.is_begun()
    except BucketError:
        return True  # not known; this process has an error of its own


def latest_step(workdir: Path, warn: Warn = warn_user) -> Path | None:
    """Return the newest step of a run with intact weights, or None if there are no steps.

    Only one process needs to call this.

    Args:
        workdir: working directory of the run.
        warn: called with a line for each skipped step.

    Raises:
        UserError: there are steps, but none is intact.
    """
    directory = workdir / CHECKPOINTS
    steps = list_steps(directory)
    for step in reversed(steps):
        folder = step_folder(directory, step).final
        try:
            for name in read_manifest(folder).components:
                check_sizes(folder, name)
                check_hashes(folder, name)
        except CheckpointError as error:
            warn(f"{error.problem}; step {step} is skipped")
        else:
            return folder
    if steps:
        raise UserError(f"{directory}: every step is damaged; use another checkpoint")
    return None


def _read_step_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / _RECORD, "")
    except OSError as error:
        raise CheckpointError(folder, f"{folder / _RECORD}: cannot be read ({error.strerror})") from error
    except FileError as error:
        raise CheckpointError(folder, error.problem) from error
    if not isinstance(record, dict):
        raise CheckpointError(folder, f"{folder / _RECORD}: damaged (no JSON object)")
    return record


def _in_every_process(folder: Path, read: Callable[[], StepPart]) -> StepPart:
    """Read a part of a step in every process; if one process cannot read it, raise an error in all of them.

    Raises:
        CheckpointError: it is damaged for one of them.
        BucketError: the bucket does not answer one of them: the part may be intact.
    """
    problem = ""
    try:
        value = read()
    except CheckpointError as error:
        problem = error.problem
    except BucketError as error:
        problem = f"{_NO_ANSWER}{error}"
    problems = [line for line in from_all_processes(problem) if line]
    for line in problems:
        if line.startswith(_NO_ANSWER):
            raise BucketError(line.removeprefix(_NO_ANSWER))
    if problems:
        raise CheckpointError(folder, problems[0])
    return value


def _raise_in_every_process(failure: BaseException | None) -> None:
    """Raise an error in every process if any of them could not save its part."""
    problem = "" if failure is None else str(failure) or type(failure).__name__
    problems = [line for line in from_all_processes(problem) if line]
    if failure is not None and not isinstance(failure, UserError):
        raise failure
    if problems:
        raise UserError(min(problems, key=lambda line: _OTHER_PROCESS_FAILED in line)) from failure


def _leaves_by_path(tree: Any) -> dict[WeightPath, Any]:
    """Return the leaves of a tree by names that do not depend on the order in which JAX flattens it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {tuple(name for part in path for name in _path_part(part)): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves of the state have the same name"
    return named


def _path_part(part: Any) -> WeightPath:
    """Return the names in one part of a leaf's path: a key of weights is itself a path, with several names."""
    key = getattr(part, "key", None)
    return key if isinstance(key, tuple) else (jax.tree_util.keystr((part,), simple=True),)
