"""Functions are checked at run time: with arrays always, others in their first calls."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float, TypeCheckError

from show1_jax.ops.quantile import by_sorting
from tests.helpers import type_checks


def check(function: Any) -> Any:
    return type_checks.check(function, typechecker=beartype)


def of_array(x: Float[np.ndarray, "a a"] | None) -> str:
    return str(x)


def of_number(x: int) -> str:
    return str(x)


@dataclasses.dataclass
class Data:
    x: int


def test_shapes_are_checked_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type_checks, "MOST_CALLS", 0)
    with pytest.raises(TypeCheckError):
        check(of_array)(np.zeros((2, 3), np.float32))
    assert check(of_array)(None) == "None"


@pytest.mark.parametrize("function", [of_number, Data])
def test_types_are_checked_in_the_first_calls(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.setattr(type_checks, "MOST_CALLS", 2)
    monkeypatch.setattr(Data, "__init__", Data.__init__)  # restored after the test
    checked = check(function)
    checked(1)
    with pytest.raises(TypeCheckError):
        checked("one")
    checked("one")


def test_functions_of_this_project_are_checked() -> None:
    double: Any = np.zeros((1, 2, 2, 3))
    with pytest.raises(TypeCheckError):
        by_sorting(double, 0.5)
