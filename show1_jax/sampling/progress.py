"""Progress of sampling: a bar for each stage, and the time of each; or an observer that is told instead."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypedDict

from show1_jax.config.sampling import Stage
from show1_jax.progress import Bar


class Observer:
    """Methods that `show1_jax.sampling.job.sample_videos` calls while it samples; here they do nothing.

    An exception of a method ends the sampling: no file is half-written, and the results of finished stages stay.

    Attributes:
        shows_bars: also show progress bars on stderr.
    """

    shows_bars = True

    def on_videos(self, directories: Sequence[Path], rounds: Sequence[Sequence[Path]]) -> None:
        """Take the directories of all videos; called before sampling.

        Args:
            directories: the directories.
            rounds: those of the videos that are not finished already, in the groups that are sampled one after the
                other. A stage is sampled for all videos of a group before the next stage.
        """

    def on_step(self, directories: Sequence[Path], stage: Stage, done: int, total: int) -> None:
        """Take the number of finished steps of a stage, and their total, for the videos of a batch."""

    def on_stage(self, directories: Sequence[Path], stage: Stage) -> None:
        """Take a stage whose files are written, for the videos of a batch."""


class StageTime(TypedDict):
    """Seconds of a whole stage, and of its loading, compiling and first step."""

    seconds: float
    first_step: float


class StageBars:
    """Progress bars of the stages, one after the other, and the time of each stage of each batch.

    Attributes:
        times: for every batch, the seconds of its finished stages.

    Args:
        stages: stages that run.
        num_batches: number of batches.
        sampled: those of the stages whose networks run; the others have no bar. By default all.
        shown: False to show no bars.
    """

    def __init__(
        self,
        stages: Sequence[str],
        num_batches: int = 1,
        *,
        sampled: Collection[str] | None = None,
        shown: bool = True,
    ):
        self.times: list[dict[str, StageTime]] = [{} for _ in range(num_batches)]
        self._coming = list(stages)
        self._shown = shown
        self._sampled = stages if sampled is None else sampled
        self._first_step: float | None = None
        self._start = time.monotonic()
        self._bar = self._next()

    def step(self, stage: str, done: int, total: int, batch: int = 0) -> None:
        """Show that a stage of a batch has done `done` of `total` steps; the batches of a stage share a bar."""
        if self._first_step is None:
            self._first_step = time.monotonic() - self._start
        self._bar.total = total * len(self.times)
        self._bar.update(batch * total + done - self._bar.done)

    def finish(self, stage: str, batch: int = 0) -> None:
        """Record the time of a batch; after the last batch, close the stage's bar and open that of the next stage."""
        now = time.monotonic()
        seconds = now - self._start
        first_step = seconds if self._first_step is None else self._first_step
        self.times[batch][stage] = {"seconds": round(seconds, 3), "first_step": round(first_step, 3)}
        self._start, self._first_step = now, None
        if batch == len(self.times) - 1:
            self.close()
            self._bar = self._next()

    def close(self) -> None:
        """Close the bar of a stage that did not finish."""
        self._bar.close()

    def _next(self) -> Bar:
        """Return the bar of the next stage; a hidden one if its networks do not run, and after the last stage."""
        stage = self._coming.pop(0) if self._coming else ""
        shown = self._shown and stage in self._sampled
        return Bar(stage.replace("_", " "), waiting="loading and compiling", shown=shown)
