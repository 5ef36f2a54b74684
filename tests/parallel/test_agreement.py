"""Processes that stop before the same step after any of them was asked to, wherever the others are."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.parallel import agreement
from show1_jax.parallel.agreement import StopAgreement, stop_agreement
from tests.helpers.processes import environment, free_address

ROOT = Path(__file__).parents[2]
JOB = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, it would be ignored
from show1_jax.parallel import from_all_processes, initialize_distributed
from show1_jax.terminal import exit_process
from show1_jax.training.run.stop import StopSignal

address, process, first_step, seconds = sys.argv[1:]
initialize_distributed(address, 2, int(process), 10)
from_all_processes(0)
stop = StopSignal()
stop.start_early()
print("joined", flush=True)
time.sleep(float(seconds))  # as if it opened its data
with stop:
    for step in itertools.count(int(first_step)):
        if number := stop.requested(step):
            print(step, int(number), flush=True)
            break
        time.sleep(0.001)
exit_process(0)
"""


@pytest.fixture(autouse=True)
def polling_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_POLL_SECONDS", 0.01)


class Store:
    """The key-value store of a job.

    Attributes:
        values: what was set, by key.
        errors: number of the next calls that end with an error of the network.
    """

    def __init__(self, seed: int = 0, failing: float = 0.0):
        self.values, self.errors = dict[str, str](), 0
        self._lock, self._random, self._failing = threading.Lock(), random.Random(seed), failing

    def key_value_set(self, key: str, value: str) -> None:
        with self._lock:
            self._fail()
            if key in self.values:
                raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: key {key}")
            self.values[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self._lock:
            self._fail()
            return [item for item in self.values.items() if item[0].startswith(f"{folder}/")]

    def _fail(self) -> None:
        if self.errors > 0 or self._random.random() < self._failing:
            self.errors -= 1
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: no answer")


class Collective:
    """A step that lasts until all processes have begun it; a process may begin the next one meanwhile, as in JAX."""

    def __init__(self, num_processes: int):
        self._begun, self._changed = [0] * num_processes, threading.Condition()

    def begin(self, process: int) -> None:
        with self._changed:
            self._begun[process] += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._begun[process] - min(self._begun) <= 1, timeout=60)


def run_job(
    asked: Sequence[tuple[int, int]], num_processes: int, num_steps: int, store: Store, first: int
) -> list[int]:
    """Return the step before which each process stopped, or `num_steps`.

    Args:
        asked: processes that are asked, each when it has reached a step.
        num_processes: number of processes, which are threads here.
        num_steps: steps that a process does if it is not stopped.
        store: the store through which they agree.
        first: number of the first step.
    """
    collective = Collective(num_processes)

    def work(process: int) -> int:
        ours = StopAgreement(store, process, num_processes, "test")
        ours.start()
        try:
            for step in range(first, first + num_steps):
                if (process, step - first) in asked:
                    ours.ask(7)
                if (reason := ours.reason_to_stop(step)) is not None:
                    assert reason == 7
                    return step - first
                time.sleep(0.001 * (process + 1))
                collective.begin(process)
            return num_steps
        finally:
            ours.close()

    with ThreadPoolExecutor(num_processes) as pool:
        return list(pool.map(work, range(num_processes)))


@settings(max_examples=10, deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 200)), min_size=1, max_size=3),
    failing=st.sampled_from([0.0, 0.3]),
    first=st.sampled_from([0, 1000]),
    seed=st.integers(0, 1000),
)
def test_all_processes_stop_before_the_same_step(
    asked: list[tuple[int, int]], failing: float, first: int, seed: int
) -> None:
    stopped = run_job(asked, 3, 5000, Store(seed, failing), first)
    assert min(step for _, step in asked) <= stopped[0] < 5000
    assert len(set(stopped)) == 1


@pytest.mark.parametrize("errors", [0, 3])
def test_nobody_waits_for_a_process_that_has_ended(errors: int) -> None:
    store = Store()
    ended, other = (StopAgreement(store, process, 2, "test") for process in range(2))
    for one in (ended, other):
        assert one.reason_to_stop(5) is None
    store.errors = errors
    ended.close()
    other.start()
    other.ask(7)
    while "show1/stop/test/reasons/0" not in store.values or "show1/stop/test/steps/1" not in store.values:
        time.sleep(0.01)
    assert other.reason_to_stop(6) is None
    other.close()
    assert store.values["show1/stop/test/steps/1"] == "5"


def test_a_process_that_has_published_its_step_waits_for_the_others() -> None:
    store = Store()
    first, other = (StopAgreement(store, process, 2, "test") for process in range(2))
    assert first.reason_to_stop(8) is None
    assert other.reason_to_stop(5) is None
    first.start()
    first.ask(7)
    while "show1/stop/test/steps/0" not in store.values:
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.reason_to_stop, 9)
        time.sleep(0.1)
        assert not waiting.done()
        other.start()
        assert waiting.result(timeout=60) == 7
    assert [other.reason_to_stop(step) for step in (6, 7, 8, 9)] == [None, None, None, 7]
    first.close()
    other.close()


def test_processes_that_have_not_joined_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="JAX found 2 processes, which must join each other; add --distributed"):
        stop_agreement()


def test_nobody_stops_unasked() -> None:
    assert run_job([], 2, 300, Store(), 0) == [300, 300]


@pytest.mark.parametrize(
    ("number", "first_step", "seconds"),
    [(signal.SIGTERM, 100, 0.0), (signal.SIGINT, 0, 0.0), (signal.SIGTERM, 100, 3.0)],
    ids=["SIGTERM in steps", "Ctrl-C in steps", "SIGTERM before the first step"],
)
def test_a_signal_to_one_process_stops_both(number: signal.Signals, first_step: int, seconds: float) -> None:
    """Their steps are so short that some begin while they agree."""
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(process), str(first_step), str(seconds)],
            cwd=ROOT,
            env=environment(1),
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert any(line == "joined\n" for line in process.stdout)  # after a line of Gloo
        processes[1].send_signal(number)
        ends = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    assert ends[0] == ends[1]
    assert (int(ends[0][0]) == first_step) == (seconds > 0)
    assert int(ends[0][1]) == number
