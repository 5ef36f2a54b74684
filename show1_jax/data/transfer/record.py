"""`files.json`: size and SHA-256 of every file of a dataset or a text cache, written last."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from show1_jax.errors import UserError
from show1_jax.files import parse_json, read_bounded, size_and_sha256, write_bytes
from show1_jax.progress import Bar

RECORD: Final = "files.json"
UPLOAD: Final = "python -m show1_jax.data upload"
_FORMAT: Final = "show1_jax.files.v1"
_MAX_BYTES: Final = 64 << 20
_NAME: Final = re.compile(r"(?!\.)[\w.-]{1,120}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class StoredFile(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


FileTable = dict[str, StoredFile]
"""Files of a folder by name; there are no subfolders."""


def describe(folder: Path) -> FileTable:
    """Return the sizes and hashes of the files in a local folder, without hidden files and `files.json`.

    Raises:
        UserError: a file cannot be read.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    paths = [path for path in paths if path.name != RECORD]
    found = FileTable()
    try:
        total = sum(path.stat().st_size for path in paths)
        with (
            Bar("hashing files", total, unit="B", leave=False) as bar,
            ThreadPoolExecutor() as pool,  # hashing releases Python's global lock
        ):
            for path, (size, sha256) in zip(paths, pool.map(size_and_sha256, paths), strict=True):
                found[path.name] = StoredFile(size, sha256)
                bar.update(size)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None
    return found


def write_record(folder: Path) -> None:
    """Write the `files.json` of a local folder."""
    write_bytes(folder / RECORD, to_bytes(describe(folder)))


def to_bytes(files: FileTable) -> bytes:
    """Return the content of a `files.json`."""
    table = {name: file._asdict() for name, file in files.items()}
    return (json.dumps({"format": _FORMAT, "files": table}, indent=1) + "\n").encode()


def read_record(folder: Path, remedy: str = f"upload the folder again with `{UPLOAD}`") -> tuple[bytes, FileTable]:
    """Read the `files.json` of a folder, which may be in a bucket.

    Args:
        folder: the folder.
        remedy: advice if it is damaged, as the end of the line.

    Returns:
        Its content, and the files.

    Raises:
        UserError: it is missing or damaged, or a bucket does not answer.
    """
    try:
        content = read_bounded(folder / RECORD, _MAX_BYTES)
        return content, _parse(content)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no dataset or text cache there, or its upload has not ended ({RECORD} is missing); upload it "
            f"with `{UPLOAD}`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RECORD}: damaged ({error}); {remedy}") from None


def _parse(content: bytes) -> FileTable:
    """Return the files of an untrusted `files.json`.

    Raises:
        ValueError: it is not one.
    """
    values = parse_json(content)
    if not isinstance(values, Mapping) or values.keys() != {"format", "files"} or values["format"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}")
    files: Any = values["files"]
    if not isinstance(files, Mapping) or not files:
        raise ValueError("it has no files")
    return {name: _parse_file(name, file) for name, file in files.items()}


def _parse_file(name: str, file: Any) -> StoredFile:
    if not _NAME.fullmatch(name) or name == RECORD:
        raise ValueError(f"{name[:40]!r} is not the name of a file")
    if not isinstance(file, Mapping) or file.keys() != {"size", "sha256"}:
        raise ValueError(f"{name} has no size and sha256")
    size, sha256 = file["size"], file["sha256"]
    if type(size) is not int or not 0 <= size < 1 << 50:
        raise ValueError(f"the size of {name} is no number of bytes")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"the sha256 of {name} is none")
    return StoredFile(size, sha256)
