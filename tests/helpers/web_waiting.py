"""Waiting for the jobs of a worker, for tests."""

import time
from collections.abc import Callable
from typing import Any

from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.web.jobs import JobView
from show1_jax.web.requests import Task
from show1_jax.web.worker import Worker


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)
    return value


def ended(worker: Worker, name: str) -> JobView:
    def view() -> JobView | None:
        found = worker.view(name)
        assert found is not None
        return found if found.has_ended else None

    found = until(view)
    assert isinstance(found, JobView)
    return found


def directories(task: Task) -> list[RunDirectory]:
    return [RunDirectory.of(task.config.out, prompt) for prompt in task.request.prompts]
