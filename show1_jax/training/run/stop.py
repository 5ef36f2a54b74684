"""Signals that stop a run: SIGTERM, a preemption notice, Ctrl-C. The run saves, prints a line and exits."""

import signal
from types import FrameType
from typing import Any, Final

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """A context manager that records stop signals during its block. A second signal has its usual effect.

    In a job of several processes, JAX's coordination service detects SIGTERM in any of them, and all stop after the
    same step.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        signals = _STOP_SIGNALS if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._record) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> signal.Signals | None:
        """Return the signal that stops the run before this step, or None; the same in every process."""
        if jax.process_count() > 1 and reached_preemption_sync_point(step):
            return signal.SIGTERM
        return self._received
