"""Progress of sampling: a bar for each stage, and the time of each."""

import time
from collections.abc import Sequence
from typing import TypedDict

from show1_jax.progress import Bar


class StageTime(TypedDict):
    """Seconds of a whole stage, and of its loading, compiling and first step."""

    seconds: float
    first_step: float


class StageBars:
    """Progress bars of the stages, one after the other, and the time of each stage.

    Attributes:
        times: seconds of the finished stages.
    """

    def __init__(self, stages: Sequence[str], *, shown: bool = True):
        self.times: dict[str, StageTime] = {}
        self._coming = list(stages)
        self._shown = shown
        self._first_step: float | None = None
        self._bar = self._next()

    def step(self, stage: str, done: int, total: int) -> None:
        """Show that a stage has done `done` of `total` steps."""
        if self._first_step is None:
            self._first_step = time.monotonic() - self._start
        self._bar.total = total
        self._bar.update(done - self._bar.done)

    def finish(self, stage: str) -> None:
        """Close a stage's bar and open the bar of the next stage."""
        seconds = time.monotonic() - self._start
        first_step = seconds if self._first_step is None else self._first_step
        self.times[stage] = {"seconds": round(seconds, 3), "first_step": round(first_step, 3)}
        self.close()
        self._bar = self._next()

    def close(self) -> None:
        """Close the bar of a stage that did not finish."""
        self._bar.close()

    def _next(self) -> Bar:
        """Return the bar of the next stage; after the last stage, a hidden one."""
        shown = self._shown and bool(self._coming)
        name = self._coming.pop(0).replace("_", " ") if self._coming else ""
        self._start = time.monotonic()
        self._first_step = None
        return Bar(name, waiting="loading and compiling", shown=shown)
