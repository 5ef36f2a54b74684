"""Clips that cannot be read: the counts that processes share, and the errors that they raise together."""

from collections.abc import Callable
from typing import Any

import pytest

from show1_jax.data.failures import MAX_NAMED, MIN_READ, Failures
from show1_jax.errors import UserError
from show1_jax.parallel import processes


def check_all(job: list[Failures], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the errors of `check` in each process of a job; the values that they exchange are collected first."""
    values: list[Any] = []

    def collect(value: Any) -> list[Any]:
        values.append(value)
        raise InterruptedError

    def outcome(check: Callable[[], None]) -> str:
        try:
            check()
        except (UserError, InterruptedError) as error:
            return str(error)
        return ""

    for exchange in (collect, lambda value: values):
        monkeypatch.setattr(processes, "from_all_processes", exchange)
        outcomes = [outcome(failures.check) for failures in job]
    return outcomes


def job_of(num: int, max_share: float = 0.1) -> list[Failures]:
    return [Failures(max_share) for _ in range(num)]


def test_all_stop_where_together_too_many_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process alone is above the allowed share, but only the share of the whole job is checked."""
    job = job_of(2)
    job[0].count([("a", "damaged")] * 10, 80)
    job[1].count([], 110)
    assert check_all(job, monkeypatch) == ["", ""]
    job[1].count([("b", "damaged")] * 15, 10)
    (problem,) = set(check_all(job, monkeypatch))
    assert problem.startswith("25 of 225 clips cannot be read, the first a (damaged): more than the share of 0.1")


def test_few_clips_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(2, max_share=0.0)
    for failures in job:
        failures.count([("a", "damaged")], MIN_READ // 2 - 2)
    assert check_all(job, monkeypatch) == ["", ""]
    for failures in job:
        failures.count([], 1)
    assert all(check_all(job, monkeypatch))


def test_all_stop_where_one_cannot_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(3)
    assert check_all(job, monkeypatch) == [""] * 3
    job[1].fatal_problem = "nothing can be read"
    assert check_all(job, monkeypatch) == ["nothing can be read"] * 3


def test_a_resumed_job_counts_what_was_saved_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(2, max_share=1.0)
    job[0].count([("a", "damaged")], 4)
    job[1].count([("a", "damaged"), ("b", "empty")], 3)
    check_all(job, monkeypatch)
    expected = {"num_read": 10, "num_failed": 3, "named": {"a": "damaged", "b": "empty"}}
    assert [failures.get_state() for failures in job] == [expected, expected]

    resumed = job_of(3, max_share=1.0)
    for failures in resumed:
        failures.set_state(expected)
        failures.count([("b", "empty")], 1)
    capsys.readouterr()
    check_all(resumed, monkeypatch)
    for failures in resumed:
        assert failures.get_state() == expected | {"num_read": 16, "num_failed": 6}
    assert expected["named"] == {"a": "damaged", "b": "empty"}
    resumed[2].count([("b", "empty"), ("c", "noise")], 0)
    assert capsys.readouterr().err == "data: c cannot be read (noise); it is skipped\n"


def test_only_the_first_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(2, max_share=1.0)
    for number, failures in enumerate(job):
        failures.count([(f"{number}.{video}", "damaged") for video in range(MAX_NAMED + 1)], 0)
        assert capsys.readouterr().err.count("\n") == MAX_NAMED
    check_all(job, monkeypatch)
    assert list(job[1].total.named) == [f"0.{video}" for video in range(MAX_NAMED)]
    job[0].count([("another", "damaged")], 0)
    assert capsys.readouterr().err == ""
