"""Folders that are there whole or not at all, and folders that one process alone writes."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from show1_jax.errors import UserError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when the block ends well, and of which nothing is left otherwise.

    It lies beside `out`, so that the last step is a rename.

    Raises:
        UserError: it cannot be written, or the disk is full.
    """
    temporary, replaced = (out.absolute().with_name(f".{out.name}.{secrets.token_hex(4)}") for _ in range(2))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            os.replace(out, replaced)
        os.replace(temporary, out)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:
        if line := disk_error(error):
            raise UserError(f"{out}: {line}, nothing was kept; choose another place with --out") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder, made if need be, that no other process can lock while the block lasts; left empty, it is removed.

    The lock ends with the process, however that ends. A file system that knows no locks goes without.

    Raises:
        UserError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is writing there; wait until it has ended") from None
        except OSError:
            pass  # the file system knows no locks
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)


def disk_error(error: Exception) -> str | None:
    """What a disk that does not take what is written means to a person; None for any other error.

    Orbax passes on what TensorStore says as any type; the operating system's words and number are in the text.
    """
    inner = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else inner and int(inner[1])
    if number in {errno.ENOSPC, errno.EDQUOT} or "No space left on device" in str(error):
        return "the disk is full"
    if number in {errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EFBIG, errno.EIO}:
        return f"cannot be written ({os.strerror(number)})"
    return None
