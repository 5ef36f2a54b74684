"""Work that is done ahead, in threads or processes, and handed over in order."""

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

Item = TypeVar("Item")
Result = TypeVar("Result")


def end_with_parent(*_: object) -> None:
    """In a worker process: end when the parent does, even if it was killed, and not when the job is asked to stop.

    A terminal and SLURM send their signals to all processes of a job; a parent that saves first still reads clips.
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
    """A process that ignores the signal with which an executor ends workers once one of them has died."""

    def terminate(self) -> None:
        self.kill()


class _Workers(SpawnContext):
    """Spawned, not forked: this process may have threads, JAX's among them."""

    Process = _Worker


@contextmanager
def pool(num_workers: int, *, threads: int) -> Iterator[Executor]:
    """So many processes, or with none of them, threads of this one. What is not yet begun at the end is dropped."""
    executor: Executor
    if num_workers:
        executor = ProcessPoolExecutor(num_workers, _Workers(), end_with_parent)
    else:
        executor = ThreadPoolExecutor(threads)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """The results for some items, in their order, at most `ahead` of them begun before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
