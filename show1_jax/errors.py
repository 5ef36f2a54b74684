"""The exceptions that a user sees, and values of others in their lines."""

import reprlib
from typing import Any, Final

BAD_INPUT: Final = 2
"""The exit code of a command that ends in one of them."""

_MAX_SHOWN: Final = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do.

    Command lines print it as it is and leave with exit code 2; library users may catch it.
    """


class FileError(UserError):
    """A file that is not what it should be.

    Attributes:
        problem: the line without what to do about it.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem


def shown(value: Any) -> str:
    """Return a value of unknown size and origin as it stands in a line: short, and on one line."""
    text = _SHORT.repr(value)  # of nested lists it may still be long
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def shown_name(name: str) -> str:
    """Return a name as it is, or as `shown` where it is long or would break the line."""
    return name if len(name) <= _MAX_SHOWN and name.isprintable() else shown(name)
