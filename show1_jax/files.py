"""Paths that a user gives, files that others made, and folders that are whole or absent.

Files of others are not trusted: only regular files are opened (a FIFO or a device never ends), and JSON is bounded in
size and depth before anything looks at its values.
"""

import errno
import fcntl
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from show1_jax.errors import FileError, UserError, shown_name

MAX_JSON_BYTES: Final = 64 << 20
MAX_JSON_DEPTH: Final = 64
"""Nested lists and objects; the manifests and configs of real checkpoints have at most 6."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as a user means it: `~` is the home directory.

    Every path of a command line or a config becomes a `Path` here, and nowhere else.

    Args:
        path: on a file system. A `Path` made of a URL is still recognised, although it has one slash less.

    Raises:
        UserError: it is empty, a URL such as `gs://bucket/videos`, has `~` where there is no home directory, is too
            long, or lies in a folder that this user may not enter.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UserError(f"the path {text!r} is not a path; give a file or a folder")
    if _URL.match(text):
        raise UserError(
            f"{text}: buckets and URLs are not supported; give a path on a file system that all hosts see, such as a "
            "mounted bucket"
        )
    try:
        expanded = Path(text).expanduser()
        expanded.exists()  # later on this would be an error of the operating system
    except RuntimeError:
        raise UserError(f"{text}: there is no home directory for ~; give the whole path, or set HOME") from None
    except OSError as error:
        raise UserError(f"{shown_name(text)}: cannot be looked at ({error.strerror}); correct the path") from None
    return expanded


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, in binary.

    Raises:
        OSError: as `open`, and where it is no regular file (a folder, FIFO, socket or device).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a FIFO waits for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return io.BufferedReader(io.FileIO(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as `open_regular`, and for a file of more than `max_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))
    return content


def read_json(path: Path, remedy: str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value of a JSON file that somebody else may have written.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, as the end of a sentence, e.g. "download it again".
        max_bytes: a larger file is refused unread.

    Raises:
        FileNotFoundError: there is none (or, as `NotADirectoryError`, its folder is none).
        FileError: it cannot be read, is no JSON, too large or too deep, or has strings that are no Unicode.
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
        ValueError: in one line, why it is none: syntax, encoding, nesting, lone surrogates, a number of thousands of
            digits, a name twice in one object.
    """
    try:
        value = json.loads(text, object_pairs_hook=without_repeats)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_JSON_DEPTH} deep") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding}") from None
    check_json(value)
    return value


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, for `json.loads`: readers differ in which of two values of a name they take.

    Raises:
        ValueError: a name is there twice.
    """
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"the name {name[:40]!a} twice in one object")
        table[name] = value
    return table


def check_json(value: Any, depth: int = 0) -> None:
    """Refuse a parsed JSON value that is nested too deep, or has a text that is no Unicode.

    Raises:
        ValueError: in one line, which of them.
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
    """Put a whole file in its place, and make its folder; a failure leaves the file that was there before.

    Raises:
        UserError: it cannot be written, or the disk is full.
    """
    path = Path(path)
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


def check_target(
    out: Path, kind: str = "", is_ours: Callable[[Path], bool] | None = None, *, overwrite: bool = False
) -> None:
    """Refuse a place for a new folder where something is already, other than an empty folder.

    Args:
        out: the place.
        kind: name of the results that may be replaced there, e.g. "checkpoint".
        is_ours: says whether a folder is such a result; None: nothing is ever replaced.
        overwrite: replace such a result.

    Raises:
        UserError: it is there and `overwrite` is not set, it is no such result, or it cannot be read.
    """
    try:
        if _is_free(out):
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
    """Return whether nothing is there but an empty folder that a rename can replace: no mount point."""
    return not place.exists() or (place.is_dir() and not os.path.ismount(place) and not any(place.iterdir()))


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when the block ends well, and of which nothing is left otherwise.

    It lies beside `out`, so that the last step is a rename. `check_target` says beforehand whether `out` may be taken.

    Raises:
        UserError: it cannot be written, the disk is full, or `out` was made by another process meanwhile.
    """
    target = out.absolute()  # the working directory may be what is replaced
    temporary, replaced = (target.with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
    new_parents = list(itertools.takewhile(lambda parent: not os.path.exists(parent), target.parents))
    try:
        was_free = _is_free(target)
        temporary.mkdir(parents=True)
        yield temporary
        if was_free and not _is_free(target):
            raise UserError(f"{out}: another process has made it meanwhile, nothing was kept; choose another place")
        if os.path.lexists(target):
            os.replace(target, replaced)
        os.replace(temporary, target)
        shutil.rmtree(replaced, ignore_errors=True)
    except UserError:
        raise
    except Exception as error:
        if line := disk_error(error):
            raise UserError(f"{out}: {line}, nothing was kept; choose another place with --out") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # it is not empty, as when all went well
                parent.rmdir()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder, made if need be, that no other process can lock while the block lasts; left empty, it is removed.

    The lock ends with the process, however that ends. A file system that knows no locks goes without.

    Raises:
        UserError: another process has it.
    """
    descriptor = _lock(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def _lock(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{folder}: another process is writing there; wait until it has ended") from None
        except OSError:
            pass  # the file system knows no locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # its last user found it empty and removed it after we had opened it


def check_space(out: Path, needed: int, remedy: str = "free space or choose another place with --out") -> None:
    """Refuse a place on a disk with fewer than `needed` bytes free.

    Args:
        out: the place.
        needed: bytes.
        remedy: the advice that ends the line.

    Raises:
        UserError: says how many gigabytes are missing.
    """
    parent = next(folder for folder in out.absolute().parents if os.path.exists(folder))
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(f"{out}: needs {needed / 1e9:,.1f} GB, the disk has {free / 1e9:,.1f} GB free; {remedy}")


def disk_error(error: Exception) -> str | None:
    """What a disk that does not take what is written means to a person; None for any other error.

    Orbax passes on what TensorStore says as any type, and ArrayRecord raises a RuntimeError; the operating system's
    words or its number are in the text.
    """
    number = (isinstance(error, OSError) and error.errno) or _errno_in(str(error))
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.EIO}:
        return f"cannot be written ({os.strerror(number)})"
    return None


def _errno_in(text: str) -> int | None:
    if inner := re.search(r"os_error_code='(\d+)'", text):
        return int(inner[1])
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
    return next((number for number in numbers if os.strerror(number) in text), None)
