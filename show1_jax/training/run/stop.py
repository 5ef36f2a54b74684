"""Being asked to stop: SIGTERM, a preemption notice, Ctrl-C. The run saves, says so and leaves."""

import signal
from types import FrameType
from typing import Any, Final

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Notices the signals while its block lasts. A second one takes effect at once, as without it.

    In a job of several processes JAX's coordination service notices SIGTERM in any of them, and all stop after the
    same step.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        signals = _SIGNALS if jax.process_count() == 1 else ()
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> signal.Signals | None:
        """The signal that asks to stop before this step, if one does; the same in every process."""
        if jax.process_count() > 1 and reached_preemption_sync_point(step):
            return signal.SIGTERM
        return self._received
