"""The worker: one thread that owns the cascade and samples the jobs of all users, one after the other."""

import contextlib
import dataclasses
import sys
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Literal, Protocol, runtime_checkable

from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.config_file import Config
from show1_jax.errors import UserError, error_line
from show1_jax.runtime import memory_errors
from show1_jax.sampling.job import MEMORY_ADVICE, OpenedWeights, open_weights, sample_videos
from show1_jax.sampling.progress import Observer
from show1_jax.terminal import BACKGROUND
from show1_jax.web.estimate import Pace
from show1_jax.web.jobs import Job, JobView, StopSampling
from show1_jax.web.requests import Limits, Task

Status = Literal["starting", "ready", "failed", "closed"]
_MAX_REMEMBERED: Final = 256
"""Ended jobs that are remembered, so that a page that is reloaded finds them."""


@runtime_checkable
class Sampler(Protocol):
    """The cascade as the worker uses it, from one thread."""

    def prepare(self, on_part: Callable[[str], None]) -> None:
        """Load and compile what a job needs; `on_part` is called with each part's name, and may raise to end this."""

    def spec(self, task: Task) -> CascadeSpec:
        """Return the spec that a task is sampled with."""

    def sample(self, task: Task, observer: Observer) -> None:
        """Sample the videos of a task; see `show1_jax.sampling.job.sample_videos`."""

    def close(self) -> None:
        """Remove the networks from the devices."""


class CascadeSampler:
    """The cascade of a config, whose networks stay on the devices between tasks if they fit.

    Args:
        config: settings of the page.
        checkpoints: the config's checkpoints.
    """

    def __init__(self, config: Config, checkpoints: CheckpointSet):
        self._config, self._checkpoints = config, checkpoints
        self._stack = contextlib.ExitStack()
        self._opened: OpenedWeights | None = None

    def prepare(self, on_part: Callable[[str], None]) -> None:
        """Open the weights, compile all programs and load all networks that fit."""
        cascade = self._open().cascade
        with memory_errors(MEMORY_ADVICE):
            cascade.prepare(batch_size=cascade.spec.mesh.shape["data"], on_part=on_part)

    def spec(self, task: Task) -> CascadeSpec:
        """Return the spec that a task is sampled with."""
        return self._open().cascade.with_config(task.request.settings(task.config)).spec

    def sample(self, task: Task, observer: Observer) -> None:
        """Sample the videos of a task."""
        sample_videos(task.config, task.request, self._open(), observer)

    def close(self) -> None:
        """Remove the networks from the devices."""
        self._stack.close()

    def _open(self) -> OpenedWeights:
        if self._opened is None:
            self._opened = open_weights(self._config, self._checkpoints)
            self._stack.enter_context(self._opened.cascade)
        return self._opened


@dataclasses.dataclass(frozen=True)
class Health:
    """The state of a worker.

    Attributes:
        status: state of the thread; failed: the weights cannot be loaded.
        loaded: networks are loaded and compiled.
        part: part of the cascade that is loaded and compiled now.
        waiting: number of jobs that wait.
        running: number of jobs that run, 0 or 1.
        problem: line that says why it failed.
    """

    status: Status = "starting"
    loaded: bool = False
    part: str = ""
    waiting: int = 0
    running: int = 0
    problem: str | None = None


class _Interrupted(Exception):  # noqa: N818 - no error
    """Raised to end the preparation: a job waits, or the worker is closed."""


class Worker:
    """A thread that samples jobs in their order. Its methods can be called from all threads.

    Args:
        sampler: the cascade.
        limits: limits of the page.
    """

    def __init__(self, sampler: Sampler, limits: Limits):
        self._sampler, self._limits = sampler, limits
        self._pace = Pace()
        self._condition = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._running: Job | None = None
        self._health = Health()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"{BACKGROUND} worker", daemon=True)

    def start(self) -> None:
        """Start the thread, which loads and compiles at once."""
        self._thread.start()

    def submit(self, task: Task) -> Job:
        """Add a job to the queue.

        Raises:
            UserError: too many wait already, or the worker has failed or was closed.
        """
        with self._condition:
            if self._health.problem is not None:
                raise UserError(self._health.problem)
            if self._is_closed:
                raise UserError("the server is being stopped; try again later")
            if len(self._waiting) >= self._limits.waiting:
                raise UserError(f"{len(self._waiting)} requests are waiting already; try again in some minutes")
            job = Job(task, self._pace)
            self._waiting.append(job)
            self._jobs[job.id] = job
            self._forget()
            self._condition.notify_all()
            return job

    def stop(self, name: str) -> None:
        """Stop a job: one that waits at once, one that runs after its step."""
        with self._condition:
            job = self._jobs.get(name)
            if job is None:
                return
            job.stop()
            if job in self._waiting:
                self._waiting.remove(job)
                job.end("stopped")

    def view(self, name: object) -> JobView | None:
        """Return the state of a job; None if there is no job of this name, or it is forgotten."""
        with self._condition:
            job = self._jobs.get(name) if isinstance(name, str) else None
            if job is None:
                return None
            view = job.view()
            if job in self._waiting:
                view = dataclasses.replace(view, place=self._waiting.index(job) + 1)
            return view

    def task(self, name: object) -> Task | None:
        """Return the task of a job; None if there is no job of this name, or it is forgotten."""
        with self._condition:
            job = self._jobs.get(name) if isinstance(name, str) else None
            return None if job is None else job.task

    def health(self) -> Health:
        """Return the state of the worker."""
        with self._condition:
            waiting, running = len(self._waiting), int(self._running is not None)
            return dataclasses.replace(self._health, waiting=waiting, running=running)

    def close(self, timeout: float) -> bool:
        """Stop all jobs, and wait for the thread.

        Returns:
            True if the thread has ended within `timeout` seconds.
        """
        with self._condition:
            self._is_closed = True
            while self._waiting:
                self._waiting.popleft().end("stopped")
            if self._running is not None:
                self._running.stop()
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._prepare()
            while (job := self._next()) is not None:
                self._sample(job)
                with self._condition:
                    self._running = None
        finally:
            with contextlib.suppress(Exception):
                self._sampler.close()
            self._set(status="closed")

    def _prepare(self) -> None:
        def on_part(name: str) -> None:
            self._set(part=name)
            if self._waiting or self._is_closed:
                raise _Interrupted

        try:
            self._sampler.prepare(on_part)
            self._set(status="ready", loaded=True, part="")
        except _Interrupted:
            self._set(status="ready", part="")
        except UserError as error:
            self._fail(str(error))
        except Exception:
            traceback.print_exc()
            self._fail("the weights cannot be loaded; the terminal of the server has the reason")

    def _fail(self, problem: str) -> None:
        print(f"web: {problem}", file=sys.stderr, flush=True)
        with self._condition:
            self._set(status="failed", part="", problem=problem)
            while self._waiting:
                self._waiting.popleft().end("failed", problem)

    def _next(self) -> Job | None:
        """Return the next job as soon as there is one; None: the worker is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _sample(self, job: Job) -> None:
        try:
            job.start(self._sampler.spec(job.task))
            self._sampler.sample(job.task, job)
        except StopSampling:
            job.end("stopped")
        except (UserError, OSError) as error:
            job.end("failed", error_line(error))
        except Exception:
            traceback.print_exc()
            job.end("failed", "this is an error of the program; the terminal of the server has its details")
        else:
            job.end("done")
            self._set(loaded=True)

    def _set(self, **values: object) -> None:
        with self._condition:
            self._health = dataclasses.replace(self._health, **values)  # type: ignore[arg-type]

    def _forget(self) -> None:
        """Forget the oldest jobs that have ended, if there are many."""
        ended = [name for name, job in self._jobs.items() if job.view().has_ended]
        for name in ended[: max(0, len(self._jobs) - _MAX_REMEMBERED)]:
            del self._jobs[name]
