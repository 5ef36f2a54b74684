"""Signals that stop a run: SIGTERM, a preemption notice, Ctrl-C. The run saves, prints a line and exits."""

import signal
from types import FrameType
from typing import Any, Final

from show1_jax.parallel.agreement import stop_agreement

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """A context manager that records stop signals during its block. A second signal has its usual effect.

    In a job of several processes, all stop before the same step when any of them gets a signal.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._has_started = False
        self._before: dict[signal.Signals, Any] = {}
        self._agreement = stop_agreement()

    def start_early(self) -> None:
        """Begin to record now, not at the start of the block, if there are several processes.

        The others would wait for a process that a signal ends while all prepare the run.
        """
        if self._agreement is not None:
            self._start()

    def __enter__(self) -> "StopSignal":
        if not self._has_started:
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()
        if self._agreement is not None:
            self._agreement.close()

    def _start(self) -> None:
        self._has_started = True
        # A shell lets a command in the background ignore Ctrl-C.
        heeded = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._record) for number in heeded}
        if self._agreement is not None:
            self._agreement.start()

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._agreement is None:
            self._received = signal.Signals(number)
        else:
            self._agreement.ask(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> signal.Signals | None:
        """Return the signal that stops the run before this step, or None; the same in every process."""
        if self._agreement is None:
            return self._received
        number = self._agreement.reason_to_stop(step)
        return None if number is None else signal.Signals(number)
