"""Agreement of the processes of a job on a step before which all stop, once one of them was asked to.

JAX has a service for this, which `initialize_distributed` turns off: its call keeps Python's lock while it waits for
the other processes, and behind the relay (`parallel.relay`) their answers need that lock, so that it waits forever. It
also misses what a process was asked before the first step of a resumed run.
"""

import contextlib
import itertools
import threading
import time
from typing import Any, Final

import jax
from jax._src import distributed

from show1_jax.terminal import BACKGROUND

_PERIOD_SECONDS: Final = 0.25
_WAIT_SECONDS: Final = 0.02
_NO_MORE_STEPS: Final = 1 << 62
_NUMBERS: Final = itertools.count()


def stop_agreement() -> "StopAgreement | None":
    """Return an agreement with the other processes of the job, or None if there are none.

    All processes must call this equally often, and in the same order.
    """
    if jax.process_count() == 1:
        return None
    client, name = distributed.global_state.client, str(next(_NUMBERS))
    return StopAgreement(client, jax.process_index(), jax.process_count(), name)


class StopAgreement:
    """Lets all processes of a job stop before the same step, for the same reason.

    A process may be some steps ahead of another one, and may wait for it in a collective operation. So each tells the
    others the step that it has reached, from a thread, and begins no other one until all have; they stop before the
    step after the last of these. A step that a process has begun can thus end in all of them.

    Args:
        client: client of JAX's coordination service.
        process: number of this process.
        num_processes: number of processes. All must call `reason_to_stop` before every step.
        name: the same for all processes, and another one for every agreement.
    """

    def __init__(self, client: Any, process: int, num_processes: int, name: str):
        self._client, self._process, self._num_processes = client, process, num_processes
        self._key = f"show1/stop/{name}"
        self._asked: int | None = None
        self._step = -1
        self._agreed: tuple[int, int] | None = None
        self._agreeing, self._closed = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Begin to watch for a process that is asked to stop."""
        threading.Thread(target=self._watch, name=f"{BACKGROUND}: stop agreement", daemon=True).start()

    def close(self) -> None:
        """Tell the others that no step follows, so that they need not wait for this process."""
        self._closed.set()
        self._tell_step(_NO_MORE_STEPS)

    def ask(self, reason: int) -> None:
        """Ask all processes to stop. May be called by a signal handler.

        Args:
            reason: a number that all processes get; if several ask, all get the same one.
        """
        self._asked = reason

    def reason_to_stop(self, step: int) -> int | None:
        """Return the reason to stop before a step, or None: the same in every process.

        Waits for the other processes while all agree.

        Args:
            step: number of the step that would begin next; from 0, and larger than at the last call.
        """
        with self._agreeing:
            self._step = step
            if self._agreed is None:
                return None
            last_step, reason = self._agreed
            return reason if step > last_step else None

    def _watch(self) -> None:
        """Wait until a process is asked to stop, and agree."""
        while not self._closed.wait(_PERIOD_SECONDS):
            if self._asked is not None:
                self._tell("reasons/0", self._asked)
            if reasons := self._told("reasons"):
                with self._agreeing:
                    self._agreed = self._last_step(), reasons[0]
                return

    def _last_step(self) -> int:
        """Tell the step that this process has reached, and return the last one of all, once all have told theirs."""
        while True:
            self._tell_step(self._step)
            if len(steps := self._told("steps")) == self._num_processes:
                return max(steps)
            time.sleep(_WAIT_SECONDS)

    def _tell_step(self, step: int) -> None:
        self._tell(f"steps/{self._process}", step)

    def _tell(self, name: str, value: int) -> None:
        """Tell all processes a value, unless there was one."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{self._key}/{name}", str(value))

    def _told(self, folder: str) -> list[int]:
        """Return the values that were told with names in a folder; after an error of the network, none."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return [int(value) for _, value in self._client.key_value_dir_get(f"{self._key}/{folder}")]
        return []
