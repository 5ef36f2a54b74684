"""The progress of a training run, as one bar."""

import sys
from collections.abc import MutableMapping
from typing import Any

from tqdm import tqdm

from show1_jax.progress import refresh_seconds

_COMPILING = "{desc}: compiling [{elapsed}]"
_RUNNING = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{speed}{postfix}]"


class TrainingBar:
    """A bar on stderr with steps and frames a second, time left, the loss, and the share of time waiting for data.

    Until the first step is through, it says that it compiles; speeds and times are of the steps after it. Where stderr
    is no terminal, there is a line every half minute instead.
    """

    def __init__(self, total: int, start: int = 0, *, frames_per_step: int, shown: bool = True):
        """Show the bar.

        Args:
            total: the run's last step.
            start: steps that are done already.
            frames_per_step: frames of video in a batch.
            shown: false in all processes but the first.
        """
        self._is_compiling = True
        self._bar = _Bar(
            frames_per_step,
            desc="training",
            total=total,
            initial=start,
            file=sys.stderr if sys.stderr.isatty() else _Lines(),
            bar_format=_COMPILING,
            mininterval=refresh_seconds(),
            miniters=1,
            disable=not shown,
        )

    def step_started(self) -> None:
        """One more step is compiled and on its way."""
        if not self._is_compiling:
            self._bar.update()
            return
        self._is_compiling = False
        if not self._bar.disable:
            self._bar.bar_format = _RUNNING
            self._bar.initial += 1
            self._bar.n = self._bar.last_print_n = self._bar.initial
            self._bar.unpause()
            self._bar.refresh()

    def update(self, step: int, *, loss: float, data_wait_share: float) -> None:
        """Show new figures from now on.

        Args:
            step: steps done.
            loss: mean of the last steps.
            data_wait_share: share of their time that went into waiting for data, from 0 to 1.
        """
        self._bar.n = step
        self._bar.set_postfix_str(f"loss {loss:.4g}, {data_wait_share:.0%} waiting for data", refresh=False)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class _Bar(tqdm):
    """A bar that also knows frames a second."""

    def __init__(self, frames_per_step: int, **options: Any):
        self._frames_per_step = frames_per_step
        super().__init__(**options)

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """What `bar_format` may show."""
        values = super().format_dict
        steps, elapsed = values["n"] - values["initial"], values["elapsed"]
        rate = values["rate"] or (steps / elapsed if elapsed else 0)
        speed = f", {rate:.3g} steps/s, {rate * self._frames_per_step:.3g} frames/s"
        values["speed"] = speed if rate else ""
        return values


class _Lines:
    """Takes what a bar writes and puts every state of it on a line of its own."""

    def write(self, text: str) -> None:
        """Write a state of the bar; bars also write what clears a line."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing waits to be written."""
