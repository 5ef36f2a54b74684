"""Checkpoints of a training run: written in the background, checked before they are used.

    WORKDIR/checkpoints/00001000/   of one step
        manifest.json               as every checkpoint has it: the component, and the hashes of all files
        NAME/weights                the component's averaged weights, as a converted checkpoint holds them
        training/state              the other arrays that a resumed run needs (Orbax)
        training/record.json        and what is no array

A step is written to a hidden folder beside its place, which several processes share, and renamed once it is whole.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jax

from show1_jax.checkpoints.arrays import BackgroundWrite, load_arrays
from show1_jax.checkpoints.manifest import (
    TRAINING,
    CheckpointError,
    Component,
    Manifest,
    check_hashes,
    check_sizes,
    describe_files,
    file_names,
    read_manifest,
    share_of,
)
from show1_jax.errors import FileError, UserError
from show1_jax.files import disk_error, read_json
from show1_jax.parallel.processes import from_all_processes, from_first_process
from show1_jax.parallel.weights import WeightPath, Weights

CHECKPOINTS: Final = "checkpoints"
"""The folder of a run's working directory that holds its steps."""
_STATE: Final = f"{TRAINING}/state"
_RECORD: Final = f"{TRAINING}/record.json"
_STEP: Final = re.compile(r"[0-9]{8,18}")
_HIDDEN: Final = re.compile(r"\.([0-9]{8,18})\.saving")
_ANOTHER: Final = "another process could not write its part"
_PATIENCE_SECONDS: Final = 1200.0
_POLL_SECONDS: Final = 0.02

T = TypeVar("T")
Shapes = Mapping[WeightPath, jax.ShapeDtypeStruct]
Warn = Callable[[str], object]


class Restored(NamedTuple):
    """A step as it was saved.

    Attributes:
        step: its number.
        ema: the averaged weights.
        state: the other arrays, in their tree.
        record: what is no array.
    """

    step: int
    ema: Weights
    state: Any
    record: dict[str, Any]


def warn_user(line: str) -> None:
    """Tell the person, once for the job."""
    if jax.process_index() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)


class TrainingCheckpoints:
    """The steps of one run. Every process of the job makes one and calls its methods, at the same points.

    Args:
        directory: `WORKDIR/checkpoints`, which all processes see. What killed runs left half-written is removed.
        keep: the newest so many steps are kept,
        keep_every: and those that this divides; 0: none.

    Raises:
        UserError: the directory cannot be made.
    """

    def __init__(self, directory: Path, *, keep: int, keep_every: int):
        self.directory = directory.absolute()
        self._keep, self._keep_every = keep, keep_every
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        from_first_process(self._tidy)

    def save(
        self, step: int, name: str, component: Component, ema: Weights, state: Any, record: Mapping[str, Any]
    ) -> None:
        """Save a step. When this returns the arrays are copied and may be donated; the writing goes on.

        An earlier save is waited for first. Where the step is there already, it is replaced once the new one is whole.

        Args:
            step: its number.
            name: of the component that is trained.
            component: what the manifest says of it.
            ema: its averaged weights.
            state: a tree of arrays, without the averaged weights.
            record: JSON; the first process's is written.

        Raises:
            UserError: this save could not begin, or the earlier one failed; the steps before are still there.
        """
        self.wait()
        text = json.dumps(record, indent=1) + "\n"
        place = _Place(self.directory, step)
        from_first_process(lambda: self._begin(place, name, text))
        writes: list[BackgroundWrite] = []
        failure: Exception | None = None
        try:
            with self._whole_or_gone(place):
                for folder, arrays in ((f"{name}/weights", ema), (_STATE, _by_path(state))):
                    writes.append(BackgroundWrite(place.draft / folder, arrays))
        except Exception as error:
            failure = error
        _raise_everywhere(failure)
        self._saving = self._thread.submit(self._finish, place, {name: component}, writes)

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            UserError: the last save failed, in any process; every process raises it.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            _raise_everywhere(saving.exception())

    def poll(self) -> None:
        """Raise what `wait` would, if it is known already. One of several processes does not know of the others."""
        if self._saving is not None and self._saving.done() and jax.process_count() == 1:
            self.wait()

    def close(self, *, agree: bool = True) -> None:
        """Wait, and let go of the thread.

        Args:
            agree: every process closes at this point. Otherwise, where an exception may be this process's alone, it
                finishes its own part of the last save and says nothing of it.

        Raises:
            UserError: the last save failed.
        """
        try:
            if agree:
                self.wait()
        finally:
            self._thread.shutdown()

    def record(self) -> dict[str, Any] | None:
        """What the newest step that has one says in its record, checked; None if there is none. Reads no arrays."""
        return from_first_process(self._newest_record)

    def restore(self, name: str, ema: Shapes, state: Any, warn: Warn = warn_user) -> Restored | None:
        """The newest step that is what was written, on any mesh and number of processes; None if there are no steps.

        A step that one process cannot read is passed over by all.

        Args:
            name: of the component.
            ema: shapes, dtypes and shardings of the averaged weights (`jax.ShapeDtypeStruct`).
            state: the same of the other arrays, in a tree with the structure of the saved one.
            warn: is told of each step that is passed over.

        Raises:
            UserError: there are steps, and none can be used; or the newest is of another component.
        """
        steps = from_first_process(lambda: _steps(self.directory))
        problem = ""
        for step in reversed(steps):
            try:
                return self._read(step, name, ema, state)
            except CheckpointError as error:
                problem = error.problem
                warn(f"{problem}; step {step} is passed over")
        if steps:
            raise UserError(f"{self.directory}: no step can be used: {problem}; start again in another --workdir")
        return None

    def _read(self, step: int, name: str, ema: Shapes, state: Any) -> Restored:
        folder = _Place(self.directory, step).final
        _in_every_process(folder, lambda: read_manifest(folder)).component(name)
        check_hashes(folder, together=True)
        record = _in_every_process(folder, lambda: _read_record(folder))
        weights = _in_every_process(folder, lambda: load_arrays(folder, f"{name}/weights", ema))
        arrays = _in_every_process(folder, lambda: load_arrays(folder, _STATE, _by_path(state)))
        leaves = [arrays[path] for path in _by_path(state)]
        return Restored(step, weights, jax.tree.unflatten(jax.tree.structure(state), leaves), record)

    def _newest_record(self) -> dict[str, Any] | None:
        for step in reversed(_steps(self.directory)):
            folder = _Place(self.directory, step).final
            try:
                check_hashes(folder, _RECORD)
                return _read_record(folder)
            except CheckpointError:
                continue
        return None

    def _tidy(self) -> None:
        """Remove what killed runs left."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write in {self.directory} ({error.strerror}); take another --workdir") from error
        for hidden in self.directory.iterdir():
            if match := _HIDDEN.fullmatch(hidden.name):
                _Place(self.directory, int(match[1])).discard()

    def _begin(self, place: "_Place", name: str, record: str) -> None:
        with self._whole_or_gone(place):
            self._tidy()
            for folder in (place.messages, place.draft / name / "weights", place.draft / _STATE):
                folder.mkdir(parents=True)
            (place.draft / _RECORD).write_text(record)

    def _finish(self, place: "_Place", components: dict[str, Component], writes: Sequence[BackgroundWrite]) -> None:
        """The part of a save that goes on in the background, in every process."""
        with self._whole_or_gone(place):
            self._write(place, components, writes)

    def _write(self, place: "_Place", components: dict[str, Component], writes: Sequence[BackgroundWrite]) -> None:
        everyone, is_first = range(jax.process_count()), jax.process_index() == 0
        with ExitStack() as stack:  # waits for all, even if one fails
            for write in writes:
                stack.callback(write.wait)
        place.tell("written", None)
        if is_first:
            place.hear("written", everyone)
            for write in writes:
                write.finish()
            place.tell("sizes", {name: (place.draft / name).stat().st_size for name in file_names(place.draft)})
        (sizes,) = place.hear("sizes", [0])
        place.tell("files", describe_files(place.draft, share_of(sizes)))
        if is_first:
            files = {name: file for share in place.hear("files", everyone) for name, file in share.items()}
            Manifest(components, files).write(place.draft)
            place.publish()
            self._remove_old(place.step)

    def _remove_old(self, newest: int) -> None:
        """Remove what need not be kept. Steps after the newest are bad ones that this run passed over."""
        steps = [step for step in _steps(self.directory) if step <= newest]
        for step in steps[: -self._keep]:
            if not self._keep_every or step % self._keep_every:
                shutil.rmtree(_Place(self.directory, step).final, ignore_errors=True)

    @contextmanager
    def _whole_or_gone(self, place: "_Place") -> Iterator[None]:
        """Where a save fails, remove what it wrote, which is how the other processes know, and say so in one line."""
        try:
            yield
        except BaseException as error:
            abandoned = jax.process_count() > 1 and not place.messages.is_dir()
            place.discard()
            if not isinstance(error, OSError | ValueError | RuntimeError):
                raise
            said = disk_error(error) or (str(error).splitlines() or [type(error).__name__])[0][:200]
            reason = _ANOTHER if abandoned else said
            raise UserError(
                f"{self.directory}: step {place.step} was not saved, {reason}; "
                "the steps before it are still there: make room, then go on with the same command"
            ) from error


class _Place:
    """Where a step is, and where it is while it is written; processes leave each other messages there.

    They may not use the devices for that: the training step runs on them meanwhile.
    """

    def __init__(self, directory: Path, step: int):
        self.step = step
        self.final = directory / f"{step:08d}"
        self.hidden = directory / f".{self.final.name}.saving"
        self.draft, self.replaced, self.messages = (self.hidden / name for name in ("draft", "replaced", "messages"))

    def publish(self) -> None:
        """Put the draft in its final place."""
        if self.final.exists():
            os.replace(self.final, self.replaced)
        os.replace(self.draft, self.final)
        shutil.rmtree(self.hidden, ignore_errors=True)

    def discard(self) -> None:
        """Remove all but what is in its final place, and put back what was to be replaced."""
        if self.replaced.is_dir() and not self.final.exists():
            os.replace(self.replaced, self.final)
        shutil.rmtree(self.hidden, ignore_errors=True)

    def tell(self, topic: str, value: Any) -> None:
        """Leave a message, which is JSON."""
        file = self._message(topic, jax.process_index())
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(value))
        os.replace(partial, file)

    def hear(self, topic: str, processes: Iterable[int]) -> list[Any]:
        """Wait for the messages of these processes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        values = []
        for process in processes:
            file = self._message(topic, process)
            while not file.exists():
                if not self.messages.is_dir():
                    raise FileNotFoundError(self.messages)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"process {process} is not heard of")
                time.sleep(_POLL_SECONDS)
            values.append(json.loads(file.read_bytes()))
        return values

    def _message(self, topic: str, process: int) -> Path:
        return self.messages / f"{topic}.{process}.json"


def latest(workdir: Path, warn: Warn = warn_user) -> Path | None:
    """The newest step of a run whose weights are what was written; None where there are no steps.

    One process does this alone.

    Args:
        workdir: the run's working directory.
        warn: is told of each step that is passed over.

    Raises:
        UserError: there are steps, and none is good.
    """
    directory = workdir / CHECKPOINTS
    steps = _steps(directory)
    for step in reversed(steps):
        folder = _Place(directory, step).final
        try:
            for name in read_manifest(folder).components:
                check_sizes(folder, name)
                check_hashes(folder, name)
        except CheckpointError as error:
            warn(f"{error.problem}; step {step} is passed over")
        else:
            return folder
    if steps:
        raise UserError(f"{directory}: every step is damaged; take another checkpoint")
    return None


def _steps(directory: Path) -> list[int]:
    """The numbers of the steps that are there, in order; finding them reads nothing."""
    try:
        folders = list(directory.iterdir()) if os.path.isdir(directory) else ()
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror}); check its permissions") from None
    return sorted(int(path.name) for path in folders if _STEP.fullmatch(path.name) and os.path.isdir(path))


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / _RECORD, "")
    except OSError as error:
        raise CheckpointError(folder, f"{folder / _RECORD}: cannot be read ({error.strerror})") from error
    except FileError as error:
        raise CheckpointError(folder, error.problem) from error
    if not isinstance(record, dict):
        raise CheckpointError(folder, f"{folder / _RECORD}: damaged (no JSON object)")
    return record


def _in_every_process(folder: Path, read: Callable[[], T]) -> T:
    """Read something of a step in every process; what one of them finds wrong with it is an error in all."""
    problem = ""
    try:
        value = read()
    except CheckpointError as error:
        problem = error.problem
    if problems := [line for line in from_all_processes(problem) if line]:
        raise CheckpointError(folder, problems[0])
    return value


def _raise_everywhere(failure: BaseException | None) -> None:
    """Raise in every process what has kept any of them from saving its part."""
    problem = "" if failure is None else str(failure) or type(failure).__name__
    problems = [line for line in from_all_processes(problem) if line]
    if failure is not None and not isinstance(failure, UserError):
        raise failure
    if problems:
        raise UserError(min(problems, key=lambda line: _ANOTHER in line)) from failure


def _by_path(tree: Any) -> dict[WeightPath, Any]:
    """The leaves of a tree under names that do not change with how JAX orders or numbers its nodes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {tuple(name for part in path for name in _names(part)): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves of the state have the same name"
    return named


def _names(part: Any) -> WeightPath:
    """A key that is a path itself, as those of weights are, is as many names."""
    key = getattr(part, "key", None)
    return key if isinstance(key, tuple) else (jax.tree_util.keystr((part,), simple=True),)
