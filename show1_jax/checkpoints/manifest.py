"""`manifest.json`: what a checkpoint holds, and the hashes of its files and of itself."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import jax

from show1_jax.config.settings import Settings
from show1_jax.errors import FileError, UserError
from show1_jax.files import open_regular, read_json
from show1_jax.parallel.processes import from_all_processes

T = TypeVar("T")

FORMAT_VERSION = 3
_READ_VERSIONS: Final = (2, 3)
"""Version 3 records sampling settings."""
MANIFEST = "manifest.json"
TRAINING = "training"
"""The folder that a step of a training run has besides its component's."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Component(Settings):
    """The record of one component: everything but its weights. Every field is JSON.

    Attributes:
      kind: of network, see `show1_jax.checkpoints.networks.network_kinds`.
      architecture: the fields of our configuration dataclass of that kind.
      dtype: of the stored weights, e.g. "float16"; "mixed" where the released file mixes them and they were kept.
      schedulers: the released scheduler configurations, verbatim, by role (`scheduler`, `image_noising_scheduler`).
      config: the component's released `config.json`, verbatim.
      provenance: where the weights come from: source, revision, file hashes, licence, tool version.
      sampling: the settings that a stage's network is to be sampled with, see
      `show1_jax.checkpoints.recorded_settings`; empty for
        other networks, and in checkpoints of version 2.
    """

    kind: str
    architecture: dict[str, Any]
    dtype: str
    schedulers: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The components by name, and size and SHA-256 of every file by relative path."""

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

    def digest(self, name: str) -> str:
        """A hash of what a component is: its files' hashes, its architecture and its schedulers."""
        component = self.component(name)
        files = {path: file["sha256"] for path, file in self.files.items() if path.startswith(f"{name}/")}
        return _digest([component.kind, component.architecture, component.schedulers, files])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Build from the fields of a `manifest.json`.

        Raises:
            UserError: a field is missing or of the wrong type; names it.
        """
        components, files = (_mapping(name, values.get(name)) for name in ("components", "files"))
        for name in components:
            _require(name.isidentifier(), f"{name!r} is no component's name")
        for name, file in files.items():
            place = PurePosixPath(name)
            _require(
                not place.is_absolute() and ".." not in place.parts, f"files: {name!r} leads out of the checkpoint"
            )
            size, digest = (_mapping(f"files: {name}", file).get(key) for key in ("size", "sha256"))
            _require(type(size) is int and size >= 0, f"files: {name}: size={size!r} is no number of bytes")
            _require(
                isinstance(digest, str) and _SHA256.fullmatch(digest) is not None,
                f"files: {name}: sha256={digest!r} is no SHA-256",
            )
        return cls({name: _component(name, fields) for name, fields in components.items()}, dict(files))

    def write(self, checkpoint: Path) -> None:
        """Writes `manifest.json`, with the hash of all that it says."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        text = json.dumps(values | {"sha256": _digest(values)}, indent=1)
        (checkpoint / MANIFEST).write_text(text + "\n")
        _flush(checkpoint / MANIFEST)


def _component(name: str, fields: Any) -> Component:
    try:
        return Component.from_dict(fields)
    except UserError as error:
        raise UserError(f"components: {name}: {error}") from None


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    _require(isinstance(value, Mapping), f"{name} is no JSON object")
    assert isinstance(value, Mapping)
    return value


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise UserError(problem)


class CheckpointError(FileError):
    """A checkpoint that is not what was written, or that does not fit."""

    def __init__(self, checkpoint: Path, problem: str, remedy: str = ""):
        is_step = os.path.isdir(checkpoint / TRAINING)
        super().__init__(problem, remedy or ("take an earlier step" if is_step else "convert again"))


def read_manifest(checkpoint: Path) -> Manifest:
    """Reads a checkpoint's `manifest.json`.

    Raises:
      UserError: `checkpoint` is missing or no checkpoint (the line has the command that makes one), or is damaged or
        of another format version.
    """
    path = checkpoint / MANIFEST
    try:
        values = read_json(path, "")
        version, digest = values["format_version"], values.pop("sha256", None)
        if type(version) is int and version not in _READ_VERSIONS:
            readable = " and ".join(map(str, _READ_VERSIONS))
            problem = f"{checkpoint}: format version {version}, this program reads {readable}"
            raise CheckpointError(checkpoint, problem)
        if type(version) is not int or digest != _digest(values):
            raise CheckpointError(checkpoint, f"{path}: damaged (its hash of itself differs)")
        return Manifest.from_json(values)
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"make one with `python -m convert --out {checkpoint}`"
        raise CheckpointError(checkpoint, f"{checkpoint}: no checkpoint", remedy) from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(checkpoint, f"{path}: damaged (no manifest of a checkpoint)") from None
    except CheckpointError:
        raise
    except UserError as error:
        problem = error.problem if isinstance(error, FileError) else f"{path}: damaged ({error})"
        raise CheckpointError(checkpoint, problem) from None


def check_sizes(checkpoint: Path, component: str) -> None:
    """Finds missing and truncated files of a component at once, without reading them.

    Raises:
      UserError: names the first such file.
    """
    manifest = read_manifest(checkpoint)
    manifest.component(component)
    for name, recorded in manifest.files.items():
        path = checkpoint / name
        if name.startswith(f"{component}/") and (not os.path.isfile(path) or path.stat().st_size != recorded["size"]):
            raise CheckpointError(checkpoint, f"{path}: missing or truncated")


def check_hashes(checkpoint: Path, folder: str = "", *, together: bool = False) -> None:
    """Recomputes the SHA-256 of every file of a checkpoint, or of those in one folder of it, in threads.

    Args:
      checkpoint: the checkpoint's directory.
      folder: its relative path, e.g. "keyframes/weights", or a file's; empty: everything.
      together: every process of the job calls this at the same point and hashes its share; otherwise the calling
        process hashes all.

    Raises:
      UserError: names the files that are missing or changed, in every process that took part.
    """
    files = read_manifest(checkpoint).files
    sizes = {name: file["size"] for name, file in files.items() if not folder or f"{name}/".startswith(f"{folder}/")}
    names = share_of(sizes) if together else list(sizes)
    same = _in_threads(lambda name: _is_same(checkpoint / name, files[name]), names)
    wrong = [name for name, is_same in zip(names, same, strict=True) if not is_same]
    if together:
        wrong = [name for names in from_all_processes(wrong) for name in names]
    if wrong:
        listed = ", ".join(sorted(wrong)[:5]) + (", ..." if len(wrong) > 5 else "")
        raise CheckpointError(checkpoint, f"{checkpoint}: missing or changed: {listed}")


def verify_files(checkpoint: Path, progress: Callable[[int], object] = lambda size: None) -> None:
    """Recomputes the SHA-256 of every file; `progress` is told the bytes done.

    Raises:
      UserError: names every missing, changed and extra file at once.
    """
    recorded = read_manifest(checkpoint).files
    present = set(file_names(checkpoint))
    problems = [f"missing {name}" for name in sorted(recorded.keys() - present)]
    problems += [f"extra {name}" for name in sorted(present - recorded.keys())]
    common = sorted(recorded.keys() & present)
    same = _in_threads(lambda name: _is_same(checkpoint / name, recorded[name]), common)
    for name, is_same in zip(common, same, strict=True):
        problems += [] if is_same else [f"changed {name}"]
        progress(recorded[name]["size"])
    if problems:
        raise CheckpointError(checkpoint, f"{checkpoint}: damaged: {', '.join(problems)}")


def file_names(checkpoint: Path) -> list[str]:
    """The relative paths of a checkpoint's files, but for its manifest."""
    paths = (path for path in checkpoint.rglob("*") if os.path.isfile(path) and path != checkpoint / MANIFEST)
    return sorted(path.relative_to(checkpoint).as_posix() for path in paths)


def describe_files(checkpoint: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of these files, by relative path, as a manifest holds them, once they are on the disk."""

    def describe(name: str) -> dict[str, Any]:
        path = checkpoint / name
        _flush(path)
        return {"size": path.stat().st_size, "sha256": sha256(path)}

    names = list(names)
    return dict(zip(names, _in_threads(describe, names), strict=True))


def share_of(sizes: Mapping[str, int]) -> list[str]:
    """The files that this process hashes of those that all processes of the job hash together."""
    largest_first = sorted(sizes, key=lambda name: (-sizes[name], name))
    return largest_first[jax.process_index() :: jax.process_count()]


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Waits until a file is on the disk, so that what its rename or its hash vouches for outlives a power failure."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_same(path: Path, recorded: Mapping[str, Any]) -> bool:
    try:
        return path.stat().st_size == recorded["size"] and sha256(path) == recorded["sha256"]
    except OSError:
        return False


def _in_threads(compute: Callable[[str], T], names: Iterable[str]) -> Iterator[T]:
    """The results in order, as they come; hashing leaves Python's lock to the other threads."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(compute, names)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
