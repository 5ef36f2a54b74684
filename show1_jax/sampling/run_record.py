"""`run.json`: what was asked for, how it was made, and the hashes of what came of it. We wrote it; others may edit it.

A record that is damaged or was edited into something else is refused by file and field: it must neither be taken for
another video's nor be overwritten without a word.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.settings import flatten
from show1_jax.errors import FileError
from show1_jax.files import read_json

RECORD: Final = "run.json"
RECORD_FORMAT: Final = "show1_jax.run.v1"
_REMEDY: Final = "replace the video with --overwrite, or choose another place with --out"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NOT_COMPARED: Final = {
    *("checkpoint", "out", "compilation_cache", "mesh"),  # where things are
    *("prompts", "seed", "negative_prompt", "precision"),  # a request has what became of them
    *("random_weights", "architecture", "schedulers", "train"),  # the checkpoint's hashes cover what came of them
}


@dataclasses.dataclass(frozen=True)
class Record:
    """What `run.json` says.

    Attributes:
        request: what makes the video what it is; see `show1_jax.sampling.run_directory.describe_request`.
        stages: that were run for it.
        results: a hash of every stage's result that was here then.
        files: a hash of every other file of these stages, by name; empty in records of older versions.
        made: how it was made; for people, never read.
    """

    request: Mapping[str, Any]
    stages: tuple[Stage, ...]
    results: Mapping[Stage, str]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Return what a file says; None where there is none.

        Raises:
            FileError: the file cannot be read or is no record; the line names it, and the field.
        """
        try:
            values = read_json(path, _REMEDY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fields = _Fields(path, values)
        return cls(fields.request(), fields.stages(), fields.results(), fields.files(), fields.mapping("made", {}))

    def to_bytes(self) -> bytes:
        """The content of the file. What is no Unicode, such as the name of a folder, is written as `?`."""
        text = json.dumps({"format": RECORD_FORMAT, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        return text.encode(errors="replace")

    def vouches(self, request: Mapping[str, Any], results: Mapping[Stage, str]) -> bool:
        """Whether this is of that request, and of these results (by hash) among others."""
        return not differences(self.request, request) and results.items() <= self.results.items()


class _Fields:
    """The fields of a file's JSON, each checked."""

    def __init__(self, path: Path, values: Any):
        self._path = path
        if not isinstance(values, dict):
            self._refuse("no JSON object")
        if values.get("format") != RECORD_FORMAT:
            self._refuse(f"format is not {RECORD_FORMAT!r}")
        self._values: dict[str, Any] = values

    def _refuse(self, problem: str) -> NoReturn:
        raise FileError(f"{self._path}: {problem}", _REMEDY)

    def mapping(self, name: str, default: Any = None) -> dict[str, Any]:
        """A field that is an object."""
        value = self._values.get(name, default)
        if not isinstance(value, dict):
            self._refuse(f"{name} must be an object")
        return value

    def request(self) -> dict[str, Any]:
        """The request, as far as it is compared."""
        request = self.mapping("request")
        if not isinstance(request.get("config"), dict):
            self._refuse("request.config must be an object")
        return request

    def stages(self) -> tuple[Stage, ...]:
        """The stages that were run."""
        value = self._values.get("stages")
        if not isinstance(value, list) or not all(isinstance(name, str) and name in STAGES for name in value):
            self._refuse(f"stages must be a list of {', '.join(STAGES)}")
        return tuple(value)

    def results(self) -> dict[Stage, str]:
        """The hashes of stages."""
        digests = self._digests("results", self.mapping("results"))
        for name in digests:
            if name not in STAGES:
                self._refuse(f"results has {name[:40]!r}, which is no stage")
        return {stage: digests[stage] for stage in STAGES if stage in digests}

    def files(self) -> dict[str, str]:
        """The hashes of other files."""
        return self._digests("files", self.mapping("files", {}))

    def _digests(self, field: str, values: Mapping[str, Any]) -> dict[str, str]:
        for name, value in values.items():
            if not isinstance(value, str) or not _DIGEST.fullmatch(value):
                self._refuse(f"{field}.{name[:40]} must be a hexadecimal SHA-256")
        return dict(values)


def differences(request: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The dotted names of what differs between two requests; where nothing does, they give the same files."""
    flat, other_flat = _compared(request), _compared(other)
    return sorted(
        name for name in flat.keys() | other_flat.keys() if flat.get(name, _ABSENT) != other_flat.get(name, _ABSENT)
    )


_ABSENT = object()


def _compared(request: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in request["config"].items() if name not in _NOT_COMPARED}
    return flatten({**request, "config": config})
