"""Values shared by several processes, with simulated messages between them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.errors import UserError
from show1_jax.parallel import initialize_distributed, processes
from show1_jax.parallel.processes import from_first_process


def outcomes(compute: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the result or the exception of `from_first_process`, for the first of two processes and for the other."""
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


def test_all_processes_have_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(lambda: {"a": (1, None)}, monkeypatch) == [{"a": (1, None)}] * 2


def test_a_user_error_is_the_same_line_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in outcomes(failing(UserError("no such file; give another")), monkeypatch):
        assert type(error) is UserError
        assert str(error) == "no such file; give another"


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt(), SystemExit(1)])
def test_any_other_failure_stops_all_processes(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = outcomes(failing(failure), monkeypatch)
    assert first is failure
    assert type(other) is UserError
    assert str(other).startswith(f"the first process failed: {type(failure).__name__}")


def test_a_result_that_cannot_be_pickled_stops_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = outcomes(lambda: lambda: None, monkeypatch)
    assert not isinstance(first, UserError)
    assert str(other).startswith("the first process failed: ")


@pytest.mark.parametrize(
    ("address", "num_processes", "process_id", "message"),
    [
        ("node0", 2, 0, "--coordinator_address=node0 must be HOST:PORT, such as node0:1234"),
        ("node0:", 2, 0, "--coordinator_address=node0: must be HOST:PORT"),
        (":1234", 2, 0, "--coordinator_address=:1234 must be HOST:PORT"),
        ("node0:http", 2, 0, "must be HOST:PORT"),
        ("node0:0", 2, 0, "must be HOST:PORT"),
        ("node0:65536", 2, 0, "must be HOST:PORT"),
        ("node0:-1", 2, 0, "must be HOST:PORT"),
        ("node0:" + "1" * 5000, 2, 0, "must be HOST:PORT"),
        ("node0:\u0661\u0662", 2, 0, "must be HOST:PORT"),
        ("node0:1234", 2, 2, "--process_id=2 must be from 0 to --num_processes - 1, and --num_processes=2 from 1"),
        ("node0:1234", 2, -1, "--process_id=-1 must be"),
        ("node0:1234", 0, 0, "--num_processes=0 from 1"),
        ("node0:1234", -3, -5, "--num_processes=-3 from 1"),
        ("node0:1234", 10**9, 0, "--num_processes=1000000000 from 1 to 1000000"),
        ("node0:1234", None, 0, "need --coordinator_address, --num_processes and --process_id together"),
        (None, 2, 0, "need --coordinator_address"),
    ],
)
def test_invalid_addresses_and_numbers_of_processes_are_refused(
    address: str | None,
    num_processes: int | None,
    process_id: int | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("JAX was called"))
    with pytest.raises(UserError) as error:
        initialize_distributed(address, num_processes, process_id)
    assert message in str(error.value)


@pytest.mark.parametrize("failure", [RuntimeError("a\nb"), ValueError("a"), KeyError("SLURM_NODEID"), OSError(5, "a")])
def test_a_failure_of_jax_to_join_is_one_line(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match="cannot join the other processes: ") as error:
        initialize_distributed()
    assert "\n" not in str(error.value)
