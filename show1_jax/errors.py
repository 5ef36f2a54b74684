"""Exceptions whose text is shown to the user, and short forms of untrusted values for these texts."""

import errno
import os
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

BAD_INPUT: Final = 2
"""Exit code of a command that ends with a `UserError`."""
PROCESS_LOST: Final = 75
"""Exit code of a command whose job lost a process; the same command resumes (EX_TEMPFAIL of BSD's sysexits.h)."""
PROGRAM_ERROR: Final = 1
"""Exit code of a command that ends with a traceback."""

_MAX_SHOWN: Final = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class UserError(Exception):
    """Bad input: one line that states the problem and the remedy.

    Command lines print the line unchanged and exit with code 2; library users may catch the exception.

    Example:
        >>> from show1_jax import UserError, load_config
        >>> try:
        ...     load_config("configs/demo.py", ["--config.keyframes.num_stebs=20"])
        ... except UserError as error:
        ...     print(error)
        there is no setting --config.keyframes.num_stebs; did you mean --config.keyframes.num_steps?
    """


class FileError(UserError):
    """A file with invalid content.

    Attributes:
        problem: the line without the remedy.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem


def shown(value: Any) -> str:
    """Return a value of unknown size and origin as short text on one line, for an error."""
    text = _SHORT.repr(value)  # it may still be long for nested lists
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def shown_name(name: str) -> str:
    """Return a name unchanged, or as `shown` if it is long or not printable."""
    return name if len(name) <= _MAX_SHOWN and name.isprintable() else shown(name)


def error_line(error: BaseException) -> str:
    """Return the text of an exception on one line; an error of the operating system names the file."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and error.filename is None and not _has_working_directory():
        return "the working directory was removed; change to another one"
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror}; check the path, its permissions and the disk"
    return " ".join(text.split()) or type(error).__name__


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


@contextmanager
def disk_errors(place: str, remedy: str) -> Iterator[None]:
    """Raise an error of the disk in the block as one line, see `disk_error`.

    Args:
        place: the folder that is written, which is removed if the block fails.
        remedy: advice, as the end of the line.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if line := disk_error(error):
            raise UserError(f"{place}: {line}, nothing was kept; {remedy}") from error
        raise


def disk_error(error: Exception) -> str | None:
    """Return a description of a write error for the user: a full disk, or the operating system's reason.

    The class of the error does not matter: Orbax raises errors of TensorStore as exceptions of any class, and
    ArrayRecord raises a RuntimeError. The operating system's message or error number is in their text.

    Args:
        error: exception from writing a file.

    Returns:
        The description, without the path; None if the error has another cause.
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
