"""Paths from the user, untrusted files, and folders that are written completely or not at all.

Paths that `storage_path` returns may be in a bucket. The functions that accept a `BucketPath` say so.

Files are not trusted. Only regular files are opened, since reading a FIFO or a device may never end. The size and depth
of JSON are checked before its values are used.
"""

import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from show1_jax.buckets.lease import leased_folder
from show1_jax.buckets.path import BucketPath, parse_url
from show1_jax.buckets.upload import LARGER_DISK, FolderKind, check_upload_target, uploaded_folder
from show1_jax.errors import FileError, UserError, disk_errors, shown_name

MAX_JSON_BYTES: Final = 64 << 20
MAX_JSON_DEPTH: Final = 64
"""Levels of nested lists and objects; the manifests and configs of real checkpoints have at most 6."""
_HASHED_BYTES: Final = 1 << 20
"""Between two parts a thread waits for Python's global lock; the parts of `hashlib.file_digest` are too small."""
_URL: Final = re.compile(r"[\s'\"]*([A-Za-z][A-Za-z0-9+.-]+:/|(gs|s3):)", re.IGNORECASE)
"""The beginning of a URL, also after blanks or quotation marks, or without slashes, which no bucket has."""
_VARIABLE: Final = re.compile(r"\$([A-Za-z_]\w*|\{\w+\})[^/]*")
"""The part of a path with a variable that no shell has replaced, as in a config or in single quotes."""


def storage_path(path: str | os.PathLike[str]) -> Path:
    """Return the path that the user gave, which may be in a bucket: then it is a `BucketPath`.

    Raises:
        UserError: as `user_path`; or it is a URL with a variable, or not of a bucket that is supported.
    """
    if isinstance(path, BucketPath):
        return path
    text = os.fspath(path)
    if not _URL.match(text):
        return user_path(path)
    if match := _VARIABLE.search(text):
        raise _has_variable(text, match[0])
    try:
        found = parse_url(text)
    except ValueError as error:
        raise UserError(f"{shown_name(text)}: {error}; correct the path") from None
    if found is None:
        raise UserError(
            f"{shown_name(text)}: not a URL that is supported; a bucket is gs://BUCKET/FOLDER or s3://BUCKET/FOLDER, "
            "all others are mounted first"
        )
    return found


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return the path on a file system that the user gave, with `~` expanded to the home directory.

    Every path of a command line or a config is converted to a `Path` by this function or `storage_path` alone.

    Args:
        path: path on a file system. A `Path` of a URL is still recognised, although it has one slash less.

    Raises:
        UserError: the path is empty, is a URL such as `gs://bucket/videos`, has `~` without a home directory, has a
            variable such as `$HOME` and no folder has this name, is too long, or is in a folder that this user may not
            enter.
    """
    text = str(path) if isinstance(path, BucketPath) else os.fspath(path)
    if not text or "\0" in text:
        raise UserError(f"the path {text!r} is not a path; give a file or a folder")
    if _URL.match(text):
        raise UserError(
            f"{shown_name(text)}: buckets and URLs are not supported here; mount the bucket on all hosts and give the "
            "path there (docs/cloud.md)"
        )
    try:
        if re.match("~(/|$)", text) and not os.path.isabs(os.environ.get("HOME", "/")):
            raise RuntimeError("HOME is empty or relative")
        expanded = Path(text).expanduser()
        expanded.exists()  # otherwise the operating system would report a bad path later
        match = _VARIABLE.search(str(expanded))
        if match and not os.path.lexists(str(expanded)[: match.end()]):
            raise _has_variable(text, match[0])
    except RuntimeError:
        raise UserError(f"{text}: there is no home directory for ~; give the whole path, or set HOME") from None
    except OSError as error:
        raise UserError(f"{shown_name(text)}: cannot be accessed ({error.strerror}); correct the path") from None
    return expanded


def check_utf8_path(folder: Path) -> None:
    """Refuse a folder whose path ArrayRecord and Orbax cannot open.

    Raises:
        UserError: the whole path is not UTF-8.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UserError(f"the path {str(folder)!a} is not UTF-8; rename the folder") from None


def _has_variable(text: str, part: str) -> UserError:
    return UserError(f"{shown_name(text)}: no shell has replaced the variable in {part}; give the whole path")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, in binary; it may be an object in a bucket.

    Raises:
        OSError: as `open`, and if it is not a regular file (but a folder, FIFO, socket or device).
    """
    if isinstance(path, BucketPath):
        return path.reader()
    descriptor = os.open(
        path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    )  # not blocking: a FIFO would wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return io.BufferedReader(io.FileIO(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file, or of an object in a bucket.

    Raises:
        OSError: as `open_regular`, and if the file has more than `max_bytes`.
    """
    if isinstance(path, BucketPath):
        return path.read_bounded(max_bytes)
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))
    return content


def size_and_sha256(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the hexadecimal SHA-256 of a regular file, or of an object in a bucket.

    Raises:
        OSError: as `open_regular`.
    """
    digest, part, size = hashlib.sha256(), memoryview(bytearray(_HASHED_BYTES)), 0
    with open_regular(path) as file:
        while num_bytes := file.readinto(part):
            digest.update(part[:num_bytes])
            size += num_bytes
    return size, digest.hexdigest()


def read_json(path: Path, remedy: str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value of an untrusted JSON file.

    Args:
        path: path of the file.
        remedy: advice for a damaged file, as the end of a sentence, e.g. "download it again".
        max_bytes: size in bytes above which the file is refused without being read.

    Raises:
        FileNotFoundError: the file does not exist.
        NotADirectoryError: the file's folder is not a folder.
        FileError: the file cannot be read, is not JSON, is too large or nested too deep, or has strings that are not
            valid Unicode.
    """
    try:
        return parse_json(read_bounded(path, max_bytes))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", remedy) from None
    except ValueError as error:
        raise FileError(f"{path}: not valid JSON ({error})", remedy) from None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: one line with the reason: syntax, encoding, nesting, lone surrogates, a number of thousands of
            digits, a name twice in one object.
    """
    try:
        value = json.loads(text, object_pairs_hook=reject_repeated_names)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding}") from None
    check_json(value)
    return value


def reject_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object for `json.loads`, and refuse repeated names: readers differ in which value they use.

    Args:
        pairs: names and values of the object, in their order in the file.

    Raises:
        ValueError: a name occurs twice.
    """
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"the name {name[:40]!a} twice in one object")
        table[name] = value
    return table


def check_json(value: Any, depth: int = 0) -> None:
    """Refuse a parsed JSON value that is nested too deep, or has a string that is not valid Unicode.

    Args:
        value: value to check.
        depth: nesting depth of the value, at most `MAX_JSON_DEPTH`.

    Raises:
        ValueError: one line with the reason.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{value[:40]!a} is not valid Unicode")
    elif isinstance(value, list | dict):
        if depth >= MAX_JSON_DEPTH:
            raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep")
        for item in value:
            check_json(item, depth + 1)
        for item in value.values() if isinstance(value, Mapping) else ():
            check_json(item, depth + 1)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file completely or not at all, and create its folder; on failure an older file stays unchanged.

    Args:
        path: the file; it may be an object in a bucket.
        data: its new content.

    Raises:
        UserError: the file cannot be written, or the disk is full.
    """
    if isinstance(path, str):
        path = storage_path(path) if _URL.match(path) else Path(path)
    if isinstance(path, BucketPath):
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): make room, or choose another place") from error


def check_writable(path: Path, remedy: str = "choose another place with --out") -> None:
    """Refuse a folder that cannot be written, or cannot be made; no file is left there.

    Args:
        path: the folder; it may be in a bucket.
        remedy: advice, as the end of the line.

    Raises:
        UserError: it cannot be written, or the disk is full.
    """
    if isinstance(path, BucketPath):
        probe = path / f".{secrets.token_hex(4)}"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
        return
    folder = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error.strerror}); {remedy}") from error


def check_target(
    out: Path,
    kind: str = "",
    is_ours: Callable[[Path], bool] | None = None,
    *,
    overwrite: bool = False,
    uploaded: FolderKind | None = None,
) -> None:
    """Refuse a path for a new folder if it exists already, unless it is an empty folder.

    Args:
        out: path of the new folder.
        kind: name of the results that may be replaced, e.g. "checkpoint".
        is_ours: returns true if a folder is such a result; None: never replace anything.
        overwrite: replace such a result.
        uploaded: kind of a folder that may be in a bucket, where `check_upload_target` decides; None: it may not.

    Raises:
        UserError: the path exists and `overwrite` is not set, it is not such a result, or it cannot be read.
    """
    if isinstance(out, BucketPath):
        if uploaded is None:
            raise _needs_a_file_system(out)
        check_upload_target(out, uploaded, overwrite=overwrite)
        return
    try:
        place = Path(os.path.realpath(out))
        if os.path.islink(place):
            raise UserError(f"{out}: the link leads in a circle; choose another place with --out")
        if _is_free(place):
            return
        is_replaceable = overwrite and is_ours is not None and out.is_dir() and is_ours(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror}); choose another place with --out") from None
    if is_ours is None:
        raise UserError(f"{out}: exists; choose another place with --out, or remove it")
    if not overwrite:
        raise UserError(f"{out}: exists; choose another place, or replace it with --overwrite")
    if not is_replaceable:
        raise UserError(f"{out}: is no {kind}, so it is not overwritten; choose another place")


def _is_free(place: Path) -> bool:
    """Return whether a path does not exist, or is an empty folder that a rename can replace: no mount point."""
    return not place.exists() or (place.is_dir() and not os.path.ismount(place) and not any(place.iterdir()))


@contextmanager
def new_folder(out: Path, kind: FolderKind | None = None) -> Iterator[Path]:
    """Create a temporary folder that becomes `out` if the block succeeds, and is removed if it fails.

    Call `check_target` first to check that `out` may be created or replaced. The temporary folder is in the parent
    folder of `out`, so that the last step is a rename. For a folder in a bucket it is in the system's folder for
    temporary files, and uploaded at the end; if that fails, it is kept.

    Args:
        out: the folder.
        kind: its kind, for a folder that may be in a bucket.

    Yields:
        The temporary folder.

    Raises:
        UserError: the folder cannot be written, the disk is full, another process has created `out` meanwhile, or the
            bucket does not answer.
    """
    if isinstance(out, BucketPath):
        if kind is None:
            raise _needs_a_file_system(out)
        with uploaded_folder(out, kind) as folder:
            yield folder
        return
    # What a link leads to becomes the folder. The current working directory may be the replaced one.
    target = Path(os.path.realpath(out))
    temporary, replaced = (target.with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
    new_parents = list(itertools.takewhile(lambda parent: not os.path.exists(parent), target.parents))
    try:
        was_free = _is_free(target)
        with disk_errors(f"{out}", "choose another place with --out"):
            temporary.mkdir(parents=True)
            yield temporary
            if was_free and not _is_free(target):
                raise UserError(f"{out}: another process has made it meanwhile, nothing was kept; choose another place")
            if os.path.lexists(target):
                os.replace(target, replaced)
            os.replace(temporary, target)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # it is not empty, as after success
                parent.rmdir()


def _needs_a_file_system(out: BucketPath) -> UserError:
    return UserError(f"{out}: it is written to a file system first; make it there, then copy it to the bucket")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock a folder while the block lasts, so that no other process can lock it.

    The folder is created if it does not exist, and removed if it is empty at the end. The lock ends with the process,
    also if the process is killed. On a file system without locks the folder is not locked. In a bucket, the lock is a
    lease, see `show1_jax.buckets.lease`.

    Raises:
        UserError: another process has locked the folder.
    """
    if isinstance(folder, BucketPath):
        with leased_folder(folder):
            yield
        return
    descriptor = _lock_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def _lock_folder(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{folder}: another process is writing there; wait until it has ended") from None
        except OSError:
            pass  # the file system has no locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # another process removed the empty folder after this one had opened it


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder that this process may see; it may be in a bucket."""
    return path.is_dir() if isinstance(path, BucketPath) else os.path.isdir(path)


def is_present(path: Path) -> bool:
    """Return whether a path exists and this process may see it; it may be in a bucket."""
    return path.exists() if isinstance(path, BucketPath) else os.path.exists(path)


@contextmanager
def local_files(path: Path) -> Iterator[Path]:
    """Yield a local path with the content of `path`: itself, or a temporary copy of an object or a folder in a bucket.

    If there is no such object or folder, the local path does not exist. Subfolders are not copied.
    """
    if not isinstance(path, BucketPath):
        yield path
        return
    names = [""] if path.is_file() else [name for name in path.names() if "/" not in name]
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / path.name
        for name in names:
            write_bytes(local / name, (path / name).read_bytes())
        yield local


def check_space(out: Path, needed: int, remedy: str = "free space or choose another place with --out") -> None:
    """Refuse a path on a disk with fewer than `needed` free bytes.

    Args:
        out: path to write to. For one in a bucket, the system's folder for temporary files is checked, see
            `new_folder`.
        needed: required space in bytes.
        remedy: advice at the end of the error, for a path that is not in a bucket.

    Raises:
        UserError: the disk is too full; the line has the required and the free gigabytes.
    """
    if isinstance(out, BucketPath):
        out, remedy = Path(tempfile.gettempdir(), out.name), LARGER_DISK
    parent = next(folder for folder in out.absolute().parents if os.path.exists(folder))
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(f"{out}: needs {needed / 1e9:,.1f} GB, the disk has {free / 1e9:,.1f} GB free; {remedy}")
