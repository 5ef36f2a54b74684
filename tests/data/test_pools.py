"""Worker processes: they ignore the signals that stop a job, and end when they are no longer needed."""

import os
import signal
import time
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool

import pytest

from show1_jax.data.pools import map_in_order, pool


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die(_: int) -> None:
    os._exit(1)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def workers(executor: Executor) -> set[int]:
    """Return the ids of two processes, which work at the same time."""
    return set(executor.map(process_id, [0.5, 0.5]))


def test_workers_live_on_when_the_job_is_asked_to_stop() -> None:
    with pool(2, threads=0) as executor:
        found = workers(executor)
        for number in (signal.SIGINT, signal.SIGTERM):
            for worker in found:
                os.kill(worker, number)
        assert set(map_in_order(executor, process_id, [0.1] * 4, 2)) <= found
    assert not any(is_running(worker) for worker in found)


def test_all_end_when_one_died() -> None:
    with pool(2, threads=0) as executor:
        found = workers(executor)
        with pytest.raises(BrokenProcessPool):
            list(map_in_order(executor, die, [0], 1))
    assert not any(is_running(worker) for worker in found)
