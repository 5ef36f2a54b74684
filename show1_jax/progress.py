"""The progress of a run, a bar for each stage."""

import sys
import time
from collections.abc import Sequence
from typing import NoReturn, TypedDict

from tqdm import tqdm

from show1_jax.sampling_config import Stage

_WAITING = "{desc}: loading and compiling"
_RUNNING = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]"
_LOG_INTERVAL = 30


class StageTime(TypedDict):
    """Seconds that a stage took, and of these until its first step was done: loading and compiling."""

    seconds: float
    first_step: float


def refresh_seconds() -> float:
    """Seconds between two states of a bar on stderr: few where it is no terminal, for they stay in a log."""
    return 0.1 if sys.stderr.isatty() else _LOG_INTERVAL


class StageBars:
    """A bar on stderr for each stage when its turn comes, and the time that each took.

    The time left is told by the steps after the first, which waits for the compiler. Where stderr is no terminal, a
    bar is printed every half minute only.

    Attributes:
        times: of the finished stages.
    """

    def __init__(self, stages: Sequence[Stage], *, shown: bool = True):
        self.times: dict[Stage, StageTime] = {}
        self._coming = list(stages)
        self._shown = shown
        self._first_step: float | None = None
        self._open()

    def step(self, stage: Stage, done: int, total: int) -> None:
        """Show that a stage has done some of its steps."""
        if self._first_step is None:
            self._first_step = time.monotonic() - self._start
            self._bar.bar_format = _RUNNING
            self._bar.total, self._bar.initial = total, done
            self._bar.n = self._bar.last_print_n = done
            self._bar.unpause()
            self._bar.refresh()
        else:
            self._bar.update(done - self._bar.n)

    def finish(self, stage: Stage) -> None:
        """Close a stage's bar and open the next one's."""
        seconds = time.monotonic() - self._start
        first_step = seconds if self._first_step is None else self._first_step
        self.times[stage] = {"seconds": round(seconds, 3), "first_step": round(first_step, 3)}
        self._bar.close()
        self._open()

    def close(self) -> None:
        """Remove the bar of a stage that did not finish."""
        self._bar.leave = False
        self._bar.close()

    def _open(self) -> None:
        """The next stage's bar; after the last stage, none."""
        name = self._coming.pop(0).replace("_", " ") if self._coming else None
        self._start = time.monotonic()
        self._first_step = None
        self._bar: tqdm[NoReturn] = tqdm(
            desc=name,
            file=sys.stderr,
            bar_format=_WAITING,
            mininterval=refresh_seconds(),
            disable=name is None or not self._shown,
        )
