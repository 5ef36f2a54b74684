"""The gallery: the finished videos of the output directory, and the files of theirs that the page may serve."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.sampling.run_record import RECORD, Record

_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""Names of run directories, see `show1_jax.cascade.prompts.slug`; others are not looked at."""
_FILE: Final = re.compile(rf"[1-{len(STAGES)}]_({'|'.join(STAGES)})(\.mp4|\.gif|_x4_lanczos\.mp4)")

_PARTIAL: Final = re.compile(r"\.(\w+\.\w+)\.[0-9a-f]{8}")
"""Names of files before they are complete, see `show1_jax.files.write_bytes`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A finished video of the output directory.

    Attributes:
        name: name of its run directory.
        prompt: its prompt.
        seed: its seed.
        negative: its negative prompt; empty if it has none.
        steps: number of steps by stage.
        guidance: guidance scale by stage.
        stages: its stages that exist.
        finished: time at which it was finished, as the record says; empty if it does not.
    """

    name: str
    prompt: str
    seed: int
    negative: str
    steps: Mapping[Stage, int]
    guidance: Mapping[Stage, float]
    stages: tuple[Stage, ...]
    finished: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """Some entries of a gallery, newest first.

    Attributes:
        entries: the entries.
        number: number of the page, from 0.
        count: number of pages.
        total: number of videos in the output directory.
        damaged: names of the directories on this page whose record cannot be read.
    """

    entries: tuple[Entry, ...]
    number: int
    count: int
    total: int
    damaged: tuple[str, ...]


class Gallery:
    """The run directories of an output directory; nothing else of it is read or served."""

    def __init__(self, out: str | Path):
        self._out = user_path(out)

    def page(self, number: int, size: int) -> Page:
        """Return a page of the gallery; a number that is too large gives the last page."""
        names = self._names()
        count = max(1, -(-len(names) // size))
        number = min(max(number, 0), count - 1)
        entries, damaged = [], []
        for name in names[number * size : (number + 1) * size]:
            entry = self.entry(name)
            if entry is None:
                damaged.append(name)
            else:
                entries.append(entry)
        return Page(tuple(entries), number, count, len(names), tuple(damaged))

    def clean(self) -> None:
        """Remove files that a killed process has written in part, from directories that no other process is using."""
        for path in self._out.glob("*/.*"):
            if not _PARTIAL.fullmatch(path.name) or not _NAME.fullmatch(path.parent.name):
                continue
            with contextlib.suppress(UserError, OSError), RunDirectory(path.parent).locked():
                path.unlink()

    def entry(self, name: str) -> Entry | None:
        """Return the entry of a run directory; None if there is none, or its record is damaged."""
        if not _NAME.fullmatch(name):
            return None
        directory = RunDirectory(self._out / name)
        try:
            record = None if self._is_link(name) else directory.record()
            return None if record is None else _entry(name, record, directory)
        except (UserError, OSError):
            return None

    def file(self, name: str, file: str) -> Path | None:
        """Return the path of a file that the page may serve; None for any other, and for links.

        Args:
            name: name of a run directory.
            file: name of a viewable file in it: of a stage, the contact sheet or the record.
        """
        if not _NAME.fullmatch(name) or not (file in (RECORD, CONTACT_SHEET) or _FILE.fullmatch(file)):
            return None
        path = self._out / name / file
        is_plain = not self._is_link(name) and not path.is_symlink() and path.is_file()
        return path if is_plain else None

    def version(self, name: str, file: str) -> str:
        """Return a text that changes with a file, so that browsers load it again; empty if it does not exist."""
        path = self.file(name, file)
        try:
            return "" if path is None else format(path.stat().st_mtime_ns, "x")
        except OSError:
            return ""

    def viewed(self, name: str, stage: Stage) -> str | None:
        """Return the name of a stage's video to look at: the enlarged one, if there is one; None: there is none."""
        file = RunDirectory(self._out / name).viewed(stage).name
        return file if self.file(name, file) is not None else None

    def stage_file(self, name: str, stage: Stage, suffix: str) -> str | None:
        """Return the name of a stage's file with that suffix; None if it does not exist."""
        file = RunDirectory(self._out / name).stage_file(stage, suffix).name
        return file if self.file(name, file) is not None else None

    def _is_link(self, name: str) -> bool:
        return (self._out / name).is_symlink()

    def _names(self) -> list[str]:
        """Return the names of all run directories that have a record, newest first."""
        found = []
        try:
            with os.scandir(self._out) as entries:
                for entry in entries:
                    if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                        continue
                    try:
                        found.append((os.stat(Path(entry.path) / RECORD).st_mtime_ns, entry.name))
                    except OSError:
                        continue  # not finished
        except OSError:
            return []  # nothing was sampled yet
        return [name for _, name in sorted(found, reverse=True)]


def _entry(name: str, record: Record, directory: RunDirectory) -> Entry | None:
    """Return the entry of a record; None if a field of its request has another type than we write."""
    request = record.request
    prompt, seed = request.get("prompt"), request.get("seed")
    if not isinstance(prompt, str) or not isinstance(seed, int) or isinstance(seed, bool):
        return None
    config, negatives = request["config"], request.get("negative_prompts")
    negative = config.get("negative_prompt") if isinstance(config.get("negative_prompt"), str) else ""
    own = [text for text in negatives.values() if isinstance(text, str) and text] if isinstance(negatives, dict) else []
    finished = record.made.get("finished")
    return Entry(
        name=name,
        prompt=prompt,
        seed=seed,
        negative=own[0] if own else negative,
        steps=_numbers(config, "num_steps"),
        guidance=_numbers(config, "guidance_scale"),
        stages=tuple(stage for stage in STAGES if directory.has(stage)),
        finished=finished[:16].replace("T", " ") if isinstance(finished, str) else "",
    )


def _numbers(config: Mapping[str, Any], field: str) -> dict[Stage, Any]:
    """Return a numeric setting of the stages that have it."""
    found: dict[Stage, Any] = {}
    for stage in STAGES:
        settings = config.get(stage)
        value = settings.get(field) if isinstance(settings, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[stage] = value
    return found
