"""Progress of a sampling run: a bar for each stage, and the time that each took."""

import time
from collections.abc import Sequence
from typing import TypedDict

from show1_jax.progress import Bar


class StageTime(TypedDict):
    """Seconds that a stage took, and of these until its first step was done: loading and compiling."""

    seconds: float
    first_step: float


class StageBars:
    """A bar for each stage when its turn comes, and the time that each took.

    Attributes:
        times: of the finished stages.
    """

    def __init__(self, stages: Sequence[str], *, shown: bool = True):
        self.times: dict[str, StageTime] = {}
        self._coming = list(stages)
        self._shown = shown
        self._first_step: float | None = None
        self._bar = self._next()

    def step(self, stage: str, done: int, total: int) -> None:
        """Show that a stage has done some of its steps."""
        if self._first_step is None:
            self._first_step = time.monotonic() - self._start
        self._bar.total = total
        self._bar.update(done - self._bar.done)

    def finish(self, stage: str) -> None:
        """Close a stage's bar and open the next one's."""
        seconds = time.monotonic() - self._start
        first_step = seconds if self._first_step is None else self._first_step
        self.times[stage] = {"seconds": round(seconds, 3), "first_step": round(first_step, 3)}
        self.close()
        self._bar = self._next()

    def close(self) -> None:
        """Close the bar of a stage that did not finish."""
        self._bar.close()

    def _next(self) -> Bar:
        """Show the next stage's bar; after the last stage, none."""
        shown = self._shown and bool(self._coming)
        name = self._coming.pop(0).replace("_", " ") if self._coming else ""
        self._start = time.monotonic()
        self._first_step = None
        return Bar(name, waiting="loading and compiling", shown=shown)
