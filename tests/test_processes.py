"""What several processes agree on, with the messages between them played by hand."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.errors import UserError
from show1_jax.parallel import processes
from show1_jax.parallel.processes import from_first_process


def outcomes(compute: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `from_first_process` gives or raises in the first of two processes, and in the other one."""
    messages: list[Any] = []
    sent: list[Any] = []

    def broadcast(value: Any) -> Any:
        if jax.process_index() == 0:
            messages.append(np.copy(value))
            sent.append(messages[-1])
            return value
        return sent.pop(0)

    def outcome() -> Any:
        try:
            return from_first_process(compute)
        except BaseException as error:
            return error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "broadcast_one_to_all", broadcast)
    results = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        results.append(outcome())
    assert len(messages) == 2
    assert not sent
    return results


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_result_is_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(lambda: {"a": (1, None)}, monkeypatch) == [{"a": (1, None)}] * 2


def test_bad_input_is_the_same_line_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in outcomes(failing(UserError("no such file; give another")), monkeypatch):
        assert type(error) is UserError
        assert str(error) == "no such file; give another"


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt(), SystemExit(1)])
def test_any_other_failure_stops_all(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = outcomes(failing(failure), monkeypatch)
    assert first is failure
    assert type(other) is UserError
    assert str(other).startswith(f"the first process failed: {type(failure).__name__}")


def test_a_result_that_cannot_be_sent_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = outcomes(lambda: lambda: None, monkeypatch)
    assert not isinstance(first, UserError)
    assert str(other).startswith("the first process failed: ")
