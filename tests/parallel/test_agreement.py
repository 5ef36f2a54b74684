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

from show1_jax.parallel.agreement import StopAgreement
from tests.helpers.processes import environment, free_address

ROOT = Path(__file__).parents[2]
JOB = """
import itertools, sys, time
from show1_jax.parallel import from_all_processes, initialize_distributed
from show1_jax.terminal import exit_process
from show1_jax.training.run.stop import StopSignal

address, process, first_step = sys.argv[1:]
initialize_distributed(address, 2, int(process), 10)
from_all_processes(0)
with StopSignal() as stop:
    print("joined", flush=True)
    for step in itertools.count(int(first_step)):
        if number := stop.requested(step):
            print(step, int(number), flush=True)
            break
        time.sleep(0.001)
exit_process(0)
"""


class Store:
    """The key-value store of a job; some of its answers are errors."""

    def __init__(self, seed: int, failing: float = 0.0):
        self._values, self._lock = dict[str, str](), threading.Lock()
        self._random, self._failing = random.Random(seed), failing

    def key_value_set(self, key: str, value: str) -> None:
        with self._lock:
            if key in self._values or self._random.random() < self._failing:
                raise jax.errors.JaxRuntimeError("ALREADY_EXISTS, or UNAVAILABLE")
            self._values[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self._lock:
            if self._random.random() < self._failing:
                raise jax.errors.JaxRuntimeError("UNAVAILABLE")
            return [item for item in self._values.items() if item[0].startswith(f"{folder}/")]


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
        agreement = StopAgreement(store, process, num_processes, "test")
        agreement.start()
        try:
            for step in range(first, first + num_steps):
                if (process, step - first) in asked:
                    agreement.ask(7)
                if (reason := agreement.reason_to_stop(step)) is not None:
                    assert reason == 7
                    return step - first
                time.sleep(0.001 * (process + 1))
                collective.begin(process)
            return num_steps
        finally:
            agreement.close()

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


@pytest.mark.parametrize("asked_at", [0, 30, 59])
def test_a_job_that_ends_meanwhile_waits_for_nobody(asked_at: int) -> None:
    """The others may have no step left when they hear of it."""
    stopped = run_job([(0, asked_at)], 3, 60, Store(0), 0)
    assert len(set(stopped)) == 1


def test_nobody_stops_unasked() -> None:
    assert run_job([], 2, 300, Store(0), 0) == [300, 300]


@pytest.mark.parametrize(("number", "first_step"), [(signal.SIGTERM, 100), (signal.SIGINT, 0)])
def test_a_signal_to_one_process_stops_both(number: signal.Signals, first_step: int) -> None:
    """Their steps are so short that some begin while they agree."""
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, address, str(process), str(first_step)],
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
            assert process.stdout.readline() == "joined\n" or process.stdout.readline() == "joined\n"  # after Gloo's
        processes[1].send_signal(number)
        ends = [process.communicate(timeout=120)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    assert ends[0] == ends[1]
    assert int(ends[0][0]) > first_step
    assert int(ends[0][1]) == number
