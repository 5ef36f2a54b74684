"""Types and shapes at run time, checked by jaxtyping and beartype where that finds something in reasonable time."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, Final, get_args

import jaxtyping

MOST_CALLS: Final = 1000
"""Calls of a function without arrays that are checked; some functions are called millions of times."""
_check = jaxtyping.jaxtyped


def install() -> None:
    """Replace jaxtyping's decorator in modules that are imported from now on."""
    setattr(jaxtyping, "jaxtyped", check)  # noqa: B010, mypy knows its own type


def check(function: Any = None, **settings: Any) -> Any:
    """Return a function or class as jaxtyping decorates it, with fewer checks.

    Calls of functions without arrays in their annotations are checked until `MOST_CALLS`. A function inside another one
    is not checked: it would be decorated anew at every call of the outer one, which takes milliseconds.
    """
    if function is None:
        return functools.partial(check, **settings)
    if inspect.isclass(function):
        if not dataclasses.is_dataclass(function):
            return function
        init = function.__init__
        checked: Any = _check(function, **settings)
        checked.__init__ = _first_calls(checked.__init__, init)
        return checked
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    return _first_calls(_check(function, **settings), function)


def _first_calls(checked: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose first calls are checked, or, if it has arrays in its annotations, all of them."""
    if checked is function or any(map(_has_array, getattr(function, "__annotations__", {}).values())):
        return checked
    calls = itertools.count()

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (checked if next(calls) < MOST_CALLS else function)(*args, **kwargs)

    return called


def _has_array(annotation: Any) -> bool:
    is_array = inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or isinstance(annotation, str) or any(map(_has_array, get_args(annotation)))
