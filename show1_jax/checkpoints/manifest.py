"""`manifest.json`: the components of a checkpoint, and the hashes of its files and of the manifest itself."""

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

from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.path import BucketPath
from show1_jax.buckets.upload import FolderKind
from show1_jax.config.settings import Settings
from show1_jax.errors import FileError, UserError
from show1_jax.files import is_folder, read_json, size_and_sha256
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.parallel.processes import from_all_processes

FileResult = TypeVar("FileResult")

FORMAT_VERSION = 3
_READ_VERSIONS: Final = (2, 3)
"""Version 3 records sampling settings."""
MANIFEST = "manifest.json"
CARD: Final = "README.md"
LICENCE_FILES: Final = ("LICENSE", "LICENSE.md")
_BESIDE: Final = frozenset({CARD, CONTACT_SHEET, *LICENCE_FILES, ".gitattributes"})
"""Files beside the components that are no part of a checkpoint: a user, or the hub, may add and edit them."""
SNAPSHOTS: Final = "snapshots"
"""Folder of the hub's cache with a folder for each commit of a repository."""
HUB_PREFIX: Final = "hub:"
"""Beginning of the name of a checkpoint in a repository of the hub."""
_DOWNLOAD_STATE: Final = ".cache/"
"""Folder that `hf download --local-dir` adds."""
TRAINING = "training"
"""The second folder of a training run's step; the first is its component's."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Component(Settings):
    """The record of one component: everything except its weights. Every field is JSON.

    Attributes:
      kind: kind of network, see `show1_jax.checkpoints.networks.network_kinds`.
      architecture: the fields of this package's architecture dataclass of that kind.
      dtype: dtype of the stored weights, e.g. "float16"; "mixed" if the released file mixes dtypes and they were kept.
      schedulers: the released scheduler configurations, verbatim, by role (`scheduler`, `image_noising_scheduler`).
      config: the component's released `config.json`, verbatim.
      provenance: origin of the weights: source, revision, file hashes, licence, tool version.
      sampling: the recorded sampling settings of a stage's network, see `show1_jax.checkpoints.recorded_settings`;
        empty for other networks, and in checkpoints of version 2.
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
    """The components by name, and the size and SHA-256 of every file by relative path."""

    components: dict[str, Component]
    files: dict[str, dict[str, Any]]
    format_version: int = FORMAT_VERSION

    def component(self, name: str) -> Component:
        """Return the component of that name; if there is none, a UserError lists the components."""
        if name not in self.components:
            raise UserError(
                f"the checkpoint has no component {name!r}, only {', '.join(self.components) or 'none'}; "
                "convert it as well: `python -m convert --help`"
            )
        return self.components[name]

    def digest(self, name: str) -> str:
        """Return a hash that identifies a component: of its kind, architecture, schedulers and file hashes."""
        component = self.component(name)
        files = {path: file["sha256"] for path, file in self.files.items() if path.startswith(f"{name}/")}
        return _json_digest([component.kind, component.architecture, component.schedulers, files])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """Build from the fields of a `manifest.json`.

        Raises:
            UserError: a field is missing or has the wrong type; the line names it.
        """
        components, files = (_json_object(name, values.get(name)) for name in ("components", "files"))
        for name in components:
            _require_valid(name.isidentifier(), f"{name!r} is not the name of a component")
        for name, file in files.items():
            relative = PurePosixPath(name)
            is_inside = not relative.is_absolute() and ".." not in relative.parts
            _require_valid(is_inside, f"files: {name!r} is outside the checkpoint")
            size, digest = (_json_object(f"files: {name}", file).get(key) for key in ("size", "sha256"))
            _require_valid(type(size) is int and size >= 0, f"files: {name}: size={size!r} is not a number of bytes")
            _require_valid(
                isinstance(digest, str) and _SHA256.fullmatch(digest) is not None,
                f"files: {name}: sha256={digest!r} is not a SHA-256",
            )
        return cls({name: _component(name, fields) for name, fields in components.items()}, dict(files))

    def to_bytes(self) -> bytes:
        """Return the content of `manifest.json`, with the hash of itself."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        text = json.dumps(values | {"sha256": _json_digest(values)}, indent=1)
        return f"{text}\n".encode()

    def write(self, checkpoint: Path) -> None:
        """Write `manifest.json` of a checkpoint that is being made."""
        (checkpoint / MANIFEST).write_bytes(self.to_bytes())
        _sync_to_disk(checkpoint / MANIFEST)


def _component(name: str, fields: Any) -> Component:
    try:
        return Component.from_dict(fields)
    except UserError as error:
        raise UserError(f"components: {name}: {error}") from None


def _json_object(name: str, value: Any) -> Mapping[str, Any]:
    _require_valid(isinstance(value, Mapping), f"{name} is no JSON object")
    assert isinstance(value, Mapping)
    return value


def _require_valid(condition: bool, problem: str) -> None:
    if not condition:
        raise UserError(problem)


class CheckpointError(FileError):
    """A checkpoint that is damaged, or that does not fit the network."""

    def __init__(self, checkpoint: Path, problem: str, remedy: str = ""):
        if checkpoint.parent.name == SNAPSHOTS:
            remedy = remedy or f"remove {checkpoint.parent.parent}, and run this again: it is downloaded again"
        is_step = is_folder(checkpoint / TRAINING)
        super().__init__(problem, remedy or ("use an earlier step" if is_step else "convert again"))


def read_manifest(checkpoint: Path) -> Manifest:
    """Read a checkpoint's `manifest.json`.

    Raises:
      UserError: `checkpoint` is missing or not a checkpoint (the line contains the command that makes one), or is
        damaged or of another format version.
    """
    path = checkpoint / MANIFEST
    try:
        values = read_json(path, "")
        version, digest = values["format_version"], values.pop("sha256", None)
        if type(version) is int and version not in _READ_VERSIONS:
            readable = " and ".join(map(str, _READ_VERSIONS))
            problem = f"{checkpoint}: format version {version}, this program reads {readable}"
            raise CheckpointError(checkpoint, problem)
        if type(version) is not int or digest != _json_digest(values):
            raise CheckpointError(checkpoint, f"{path}: damaged (its hash of itself differs)")
        return Manifest.from_json(values)
    except (FileNotFoundError, NotADirectoryError):
        remedy = f"make one with `python -m convert --out {checkpoint}`"
        begun = ", or its upload has not ended" if isinstance(checkpoint, BucketPath) else ""
        raise CheckpointError(checkpoint, f"{checkpoint}: no checkpoint{begun}", remedy) from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(checkpoint, f"{path}: damaged (no manifest of a checkpoint)") from None
    except (CheckpointError, BucketError):
        raise
    except UserError as error:
        problem = error.problem if isinstance(error, FileError) else f"{path}: damaged ({error})"
        raise CheckpointError(checkpoint, problem) from None


def _recorded_files(checkpoint: Path) -> dict[str, tuple[int, str]]:
    return {name: (file["size"], file["sha256"]) for name, file in read_manifest(checkpoint).files.items()}


CHECKPOINT: Final = FolderKind("checkpoint", MANIFEST, _recorded_files, "python -m convert upload", _BESIDE)
"""Checkpoints as folders that are uploaded to a bucket."""


def check_sizes(checkpoint: Path, component: str) -> None:
    """Check for missing and truncated files of a component, without reading them.

    Raises:
      UserError: a file is missing or truncated; the first one is named.
    """
    manifest = read_manifest(checkpoint)
    manifest.component(component)
    sizes = {name: file["size"] for name, file in manifest.files.items() if name.startswith(f"{component}/")}
    if isinstance(checkpoint, BucketPath):
        own = checkpoint
        has_sizes = list(_in_threads(lambda name: (own / name).has_size(sizes[name]), sizes))
    else:
        has_sizes = [_has_size(checkpoint / name, size) for name, size in sizes.items()]
    for name, has_size in zip(sizes, has_sizes, strict=True):
        if not has_size:
            raise CheckpointError(checkpoint, f"{checkpoint / name}: missing or truncated")


def _has_size(path: Path, size: int) -> bool:
    return os.path.isfile(path) and path.stat().st_size == size


class HashCheck:
    """A comparison of the SHA-256 of files with the manifest, in threads, while the caller reads the files.

    As a context manager, it gives up the files that are not yet hashed if the block raises.

    Args:
      checkpoint: the checkpoint's directory.
      folder: relative path of the folder, e.g. "keyframes/weights", or of one file; empty: the whole checkpoint.
      together: each process hashes its share of the files; otherwise the calling process hashes all of them.

    Raises:
      UserError: `checkpoint` is missing or not a checkpoint, or is damaged or of another format version.
    """

    def __init__(self, checkpoint: Path, folder: str = "", *, together: bool = False) -> None:
        self._checkpoint = checkpoint
        self._together = together
        files = read_manifest(checkpoint).files
        is_inside = {name: not folder or f"{name}/".startswith(f"{folder}/") for name in files}
        sizes = {name: file["size"] for name, file in files.items() if is_inside[name]}
        own = files_to_hash(sizes) if together else sizes
        self._pool = ThreadPoolExecutor()
        self._same = {name: self._pool.submit(_matches_record, checkpoint / name, files[name]) for name in own}
        self._pool.shutdown(wait=False)

    def __enter__(self) -> "HashCheck":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def finish(self) -> None:
        """Wait for the hashes; with `together`, all processes must call this at the same point.

        Raises:
          UserError: files are missing or changed, or a bucket does not answer; with `together`, it is raised in all
            processes.
        """
        failure = ""
        try:
            wrong = [name for name, is_same in self._same.items() if not is_same.result()]
        except BucketError as error:
            wrong, failure = [], str(error)
        if self._together:
            parts = from_all_processes((wrong, failure))
            wrong = [name for names, _ in parts for name in names]
            failure = next((line for _, line in parts if line), "")
        if failure:
            raise BucketError(failure)
        if wrong:
            listed = ", ".join(sorted(wrong)[:5]) + (", ..." if len(wrong) > 5 else "")
            raise CheckpointError(self._checkpoint, f"{self._checkpoint}: missing or changed: {listed}")


def check_hashes(checkpoint: Path, folder: str = "", *, together: bool = False) -> None:
    """Compare the SHA-256 of the files of a checkpoint, or of one folder of it, with the manifest; see `HashCheck`.

    Args:
      checkpoint: the checkpoint's directory.
      folder: relative path of the folder or of one file; empty: the whole checkpoint.
      together: all processes call this at the same point, and each hashes its share of the files.

    Raises:
      UserError: files are missing or changed; with `together`, it is raised in all processes.
    """
    with HashCheck(checkpoint, folder, together=together) as check:
        check.finish()


def verify_files(checkpoint: Path, progress: Callable[[int], object] = lambda size: None) -> None:
    """Compare all files of a checkpoint with the manifest; `progress` is called with the bytes of each hashed file.

    Raises:
      UserError: files are missing, changed or not in the manifest; the line names all of them.
    """
    recorded = read_manifest(checkpoint).files
    present = set(file_names(checkpoint))
    problems = [f"missing {name}" for name in sorted(recorded.keys() - present)]
    problems += [f"extra {name}" for name in sorted(present - recorded.keys())]
    common = sorted(recorded.keys() & present)
    same = _in_threads(lambda name: _matches_record(checkpoint / name, recorded[name]), common)
    for name, is_same in zip(common, same, strict=True):
        problems += [] if is_same else [f"changed {name}"]
        progress(recorded[name]["size"])
    if problems:
        raise CheckpointError(checkpoint, f"{checkpoint}: damaged: {', '.join(problems)}")


def file_names(checkpoint: Path) -> list[str]:
    """Return the relative paths of a checkpoint's files, except its manifest, its card and other files beside it."""
    if isinstance(checkpoint, BucketPath):
        names = checkpoint.names()
    else:
        paths = (path for path in checkpoint.rglob("*") if os.path.isfile(path))
        names = [path.relative_to(checkpoint).as_posix() for path in paths]
    return sorted(
        name for name in names if name not in _BESIDE and name != MANIFEST and not name.startswith(_DOWNLOAD_STATE)
    )


def describe_files(checkpoint: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Flush files to the disk; return their size and SHA-256 by relative path, in the form of `Manifest.files`."""

    def describe(name: str) -> dict[str, Any]:
        path = checkpoint / name
        _sync_to_disk(path)
        size, digest = size_and_sha256(path)
        return {"size": size, "sha256": digest}

    names = list(names)
    return dict(zip(names, _in_threads(describe, names), strict=True))


def files_to_hash(sizes: Mapping[str, int]) -> list[str]:
    """Return this process's share of the files that all processes hash together."""
    largest_first = sorted(sizes, key=lambda name: (-sizes[name], name))
    return largest_first[jax.process_index() :: jax.process_count()]


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a regular file, or of an object in a bucket."""
    return size_and_sha256(path)[1]


def _sync_to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk: it must survive a power failure after it is hashed or renamed."""
    if isinstance(path, BucketPath):
        return  # an object exists once it is stored durably
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _matches_record(path: Path, recorded: Mapping[str, Any]) -> bool:
    try:
        if isinstance(path, BucketPath):
            return size_and_sha256(path) == (recorded["size"], recorded["sha256"])
        return path.stat().st_size == recorded["size"] and sha256(path) == recorded["sha256"]
    except OSError:
        return False


def _in_threads(compute: Callable[[str], FileResult], names: Iterable[str]) -> Iterator[FileResult]:
    """Yield the results for these names in order; threads help because hashing releases Python's global lock."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(compute, names)


def _json_digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
