"""`run.json`: the request, how the video was made, and the hashes of the results. Users may edit the file.

A record that is damaged, or became invalid when it was edited, is refused with its file and field. It must not be
mistaken for the record of another video, and must not be overwritten without a message.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.settings import flatten
from show1_jax.errors import FileError
from show1_jax.files import read_json

RECORD: Final = "run.json"
RECORD_FORMAT: Final = "show1_jax.run.v1"
_RECORD_REMEDY: Final = "replace the video with --overwrite, or choose another place with --out"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NOT_COMPARED: Final = {
    *("checkpoint", "adapter", "out", "compilation_cache", "mesh", "resident_weights"),  # paths and devices
    *("prompts", "seed", "negative_prompt", "precision"),  # a request contains their resolved values
    *("random_weights", "architecture", "schedulers", "train"),  # the checkpoint's hashes cover their results
}
_ADDED: Final = ("guidance_min_timestep", "guidance_max_timestep", "deep_every", "fine_levels", "image_passes")
"""Settings of stages that older records lack. Their defaults sample as before, and count as absent."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of `run.json`.

    Attributes:
        request: all inputs that determine the video; see `show1_jax.sampling.run_directory.describe_request`.
        stages: stages that were sampled for this request.
        results: a hash of the result of every stage that existed when the record was written.
        files: a hash of every other file of these stages, by name; empty in records of older versions.
        made: how the video was made; information for the user, which the program never uses.
    """

    request: Mapping[str, Any]
    stages: tuple[Stage, ...]
    results: Mapping[Stage, str]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """Return the record in a file, or None if there is no file.

        Raises:
            FileError: the file cannot be read or is not a record; the line names the file and the field.
        """
        try:
            values = read_json(path, _RECORD_REMEDY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fields = _Fields(path, values)
        return cls(fields.request(), fields.stages(), fields.results(), fields.files(), fields.mapping("made", {}))

    def to_bytes(self) -> bytes:
        """Return the content of the file; characters that are not Unicode, e.g. in a folder's name, become `?`."""
        text = json.dumps({"format": RECORD_FORMAT, **dataclasses.asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        return text.encode(errors="replace")

    def matches(self, request: Mapping[str, Any], results: Mapping[Stage, str]) -> bool:
        """Return whether the record has an equal request, and contains all of these results (by hash)."""
        return not differences(self.request, request) and results.items() <= self.results.items()


class _Fields:
    """The fields of a record's JSON; each method checks and returns one."""

    def __init__(self, path: Path, values: Any):
        self._path = path
        if not isinstance(values, dict):
            self._refuse("no JSON object")
        if values.get("format") != RECORD_FORMAT:
            self._refuse(f"format is not {RECORD_FORMAT!r}")
        self._values: dict[str, Any] = values

    def _refuse(self, problem: str) -> NoReturn:
        raise FileError(f"{self._path}: {problem}", _RECORD_REMEDY)

    def mapping(self, name: str, default: Any = None) -> dict[str, Any]:
        """Return a field that must be an object."""
        value = self._values.get(name, default)
        if not isinstance(value, dict):
            self._refuse(f"{name} must be an object")
        return value

    def request(self) -> dict[str, Any]:
        """Return the request; only its `config` is checked here."""
        request = self.mapping("request")
        if not isinstance(request.get("config"), dict):
            self._refuse("request.config must be an object")
        return request

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages that were sampled."""
        value = self._values.get("stages")
        if not isinstance(value, list) or not all(isinstance(name, str) and name in STAGES for name in value):
            self._refuse(f"stages must be a list of {', '.join(STAGES)}")
        return tuple(value)

    def results(self) -> dict[Stage, str]:
        """Return the hashes of the stages' results."""
        digests = self._digests("results", self.mapping("results"))
        for name in digests:
            if name not in STAGES:
                self._refuse(f"results has {name[:40]!r}, which is not a stage")
        return {stage: digests[stage] for stage in STAGES if stage in digests}

    def files(self) -> dict[str, str]:
        """Return the hashes of the other files."""
        return self._digests("files", self.mapping("files", {}))

    def _digests(self, field: str, values: Mapping[str, Any]) -> dict[str, str]:
        for name, value in values.items():
            if not isinstance(value, str) or not _DIGEST.fullmatch(value):
                self._refuse(f"{field}.{name[:40]} must be a hexadecimal SHA-256")
        return dict(values)


def differences(request: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the fields that differ between two requests; equal requests give the same files."""
    flat, other_flat = _compared(request), _compared(other)
    return sorted(
        name for name in flat.keys() | other_flat.keys() if flat.get(name, _ABSENT) != other_flat.get(name, _ABSENT)
    )


_ABSENT = object()


def _compared(request: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in request["config"].items() if name not in _NOT_COMPARED}
    stages = {f"config.{stage}": dataclasses.asdict(CascadeConfig().stage(stage)) for stage in STAGES}
    defaults = {name: value for name, value in flatten(stages).items() if name.rpartition(".")[2] in _ADDED}
    flat = flatten({**request, "config": config})
    return {name: value for name, value in flat.items() if name not in defaults or value != defaults[name]}
