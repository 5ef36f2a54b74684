"""Work that is done ahead in threads or processes, with results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def end_with_parent(*_: object) -> None:
    """End this worker process when its parent ends, even if it was killed, but not on a signal to stop the job.

    A terminal and SLURM signal all processes of a job. The parent may still read clips before it saves.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


class _Worker(SpawnProcess):
    """A worker whose `terminate` kills it, since workers ignore SIGTERM; executors terminate the others if one dies."""

    def terminate(self) -> None:
        self.kill()


class _Workers(SpawnContext):
    """A context that spawns workers and does not fork them: this process may have threads, such as those of JAX."""

    Process = _Worker


@contextmanager
def pool(num_workers: int, *, threads: int) -> Iterator[Executor]:
    """Run a pool of `num_workers` processes, or of `threads` threads if that is 0, while the block lasts.

    Tasks that have not started at the end of the block are cancelled.
    """
    executor: Executor
    if num_workers:
        executor = ProcessPoolExecutor(num_workers, _Workers(), end_with_parent)
    else:
        executor = ThreadPoolExecutor(threads)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def map_in_order(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], ahead: int
) -> Iterator[Result]:
    """Yield the results of tasks in their order; at most `ahead` tasks are submitted before their result is needed."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(executor.submit(function, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
