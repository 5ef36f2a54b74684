"""The folder of a saved step while it is written, on a file system and in a bucket, and the steps of a directory.

On a file system, a step is written to a hidden folder in the same directory, which all processes share, and renamed
when it is complete. A bucket has no renames: a step is written to its final place, and counts once its manifest, which
is written last, is there. Until then a hidden folder shows that it is incomplete.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jax

from show1_jax.buckets.lease import check_lease
from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.manifest import MANIFEST, Manifest, file_names
from show1_jax.errors import UserError

_STEP: Final = re.compile(r"[0-9]{8,18}")
_HIDDEN: Final = re.compile(r"\.([0-9]{8,18})\.saving")
_BEGUN: Final = "begun"
_MESSAGE_TIMEOUT_SECONDS: Final = 1200.0
_POLL_SECONDS: Final = 0.02
_BUCKET_POLL_SECONDS: Final = 0.25


class StepFolder:
    """The final folder of a step, and its hidden folder while it is written.

    Processes exchange messages through files in the hidden folder. They must not use the devices for this: the training
    step runs on them at the same time.

    Attributes:
        step: number of the step.
        final: its folder.
        draft: the folder in which it is written.
        messages: the folder of the messages; it exists while the step is written.
    """

    def __init__(self, directory: Path, step: int):
        self.step = step
        self.final = directory / f"{step:08d}"
        self.hidden = directory / f".{self.final.name}.saving"
        self.draft, self.replaced, self.messages = (self.hidden / name for name in ("draft", "replaced", "messages"))
        self.poll_seconds = _POLL_SECONDS

    def begin(self, folders: Sequence[str]) -> None:
        """Make the hidden folder, with these folders of the draft."""
        for folder in (self.messages, *(self.draft / name for name in folders)):
            folder.mkdir(parents=True)

    def is_begun(self) -> bool:
        """Return whether the step is being written; if not, another process has discarded it."""
        return self.messages.is_dir()

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the draft's files in bytes, by relative path."""
        return {name: (self.draft / name).stat().st_size for name in file_names(self.draft)}

    def publish(self, manifest: Manifest) -> None:
        """Complete the draft with its manifest, and move it to the final folder."""
        manifest.write(self.draft)
        if self.final.exists():
            os.replace(self.final, self.replaced)
        os.replace(self.draft, self.final)
        shutil.rmtree(self.hidden, ignore_errors=True)

    def discard(self) -> None:
        """Remove the hidden folder; a step that was being replaced is moved back first."""
        if self.replaced.is_dir() and not self.final.exists():
            os.replace(self.replaced, self.final)
        shutil.rmtree(self.hidden, ignore_errors=True)

    def remove(self) -> None:
        """Remove a complete step."""
        shutil.rmtree(self.final, ignore_errors=True)

    def send(self, topic: str, value: Any) -> None:
        """Write a message (JSON) that the other processes can read."""
        file = self._message(topic, jax.process_index())
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(value))
        os.replace(partial, file)

    def receive(self, topic: str, processes: Iterable[int]) -> list[Any]:
        """Wait for the messages of these processes, and return their values."""
        deadline = time.monotonic() + _MESSAGE_TIMEOUT_SECONDS
        values = []
        for process in processes:
            file = self._message(topic, process)
            while not file.exists():
                if not self.is_begun():
                    raise FileNotFoundError(self.messages)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"process {process} does not respond")
                time.sleep(self.poll_seconds)
            values.append(json.loads(file.read_bytes()))
        return values

    def _message(self, topic: str, process: int) -> Path:
        return self.messages / f"{topic}.{process}.json"


class BucketStepFolder(StepFolder):
    """The folder of a step in a bucket: the draft is the final folder, without its manifest."""

    def __init__(self, directory: BucketPath, step: int):
        super().__init__(directory, step)
        self.draft = self.final
        self.poll_seconds = _BUCKET_POLL_SECONDS

    def begin(self, folders: Sequence[str]) -> None:
        """Mark the step as incomplete; one that it replaces counts no longer."""
        assert isinstance(self.hidden, BucketPath)
        check_lease(self.hidden)
        (self.hidden / _BEGUN).write_bytes(b"")
        self.remove()

    def is_begun(self) -> bool:
        """Return whether the step is being written; if not, another process has discarded it."""
        return (self.hidden / _BEGUN).is_file()

    def sizes(self) -> dict[str, int]:
        """Return the relative paths of the draft's objects; their sizes are not known."""
        return dict.fromkeys(file_names(self.draft), 0)

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest, from which on the step counts, if this run still has the lease of its directory."""
        assert isinstance(self.hidden, BucketPath)
        check_lease(self.hidden)
        manifest.write(self.final)
        self.hidden.remove_all()

    def discard(self) -> None:
        """Remove an incomplete step, and the mark, which the other processes see.

        If the bucket does not answer, the next run removes them. If another run has taken over the directory, the step
        may be that run's, and stays.
        """
        assert isinstance(self.hidden, BucketPath)
        with suppress(UserError):
            check_lease(self.hidden)
            if jax.process_index() == 0 and not (self.final / MANIFEST).is_file():
                self.remove()
            self.hidden.remove_all()

    def remove(self) -> None:
        """Remove a step, first its manifest: an incomplete step must not count."""
        assert isinstance(self.final, BucketPath)
        (self.final / MANIFEST).unlink(missing_ok=True)
        self.final.remove_all()

    def send(self, topic: str, value: Any) -> None:
        """Write a message (JSON) that the other processes can read."""
        self._message(topic, jax.process_index()).write_text(json.dumps(value))


def step_folder(directory: Path, step: int) -> StepFolder:
    """Return the folder of a step in a directory of steps."""
    return BucketStepFolder(directory, step) if isinstance(directory, BucketPath) else StepFolder(directory, step)


def list_steps(directory: Path) -> list[int]:
    """Return the numbers of the steps in a directory, sorted, without reading any of their files.

    Raises:
        UserError: the directory cannot be read.
    """
    if isinstance(directory, BucketPath):
        names = (name.split("/") for name in directory.names())
        return sorted(int(parts[0]) for parts in names if _STEP.fullmatch(parts[0]) and parts[1:] == [MANIFEST])
    try:
        folders = list(directory.iterdir()) if os.path.isdir(directory) else ()
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror}); check its permissions") from None
    return sorted(int(path.name) for path in folders if _STEP.fullmatch(path.name) and os.path.isdir(path))


def remove_leftovers(directory: Path) -> None:
    """Remove incomplete steps that killed runs left, and make the directory.

    Raises:
        UserError: the directory cannot be made.
    """
    if isinstance(directory, BucketPath):
        return _remove_objects_left(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write in {directory} ({error.strerror}); use another --workdir") from error
    for hidden in directory.iterdir():
        if match := _HIDDEN.fullmatch(hidden.name):
            StepFolder(directory, int(match[1])).discard()


def _remove_objects_left(directory: BucketPath) -> None:
    check_lease(directory)
    complete, found = set(list_steps(directory)), set()
    for name in directory.names():
        folder = name.partition("/")[0]
        if match := _HIDDEN.fullmatch(folder):
            found.add(int(match[1]))
        elif _STEP.fullmatch(folder) and int(folder) not in complete:
            found.add(int(folder))
    for step in found:
        BucketStepFolder(directory, step).discard()
