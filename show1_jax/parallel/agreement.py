"""Agreement of the processes of a job on a step before which all stop, once one of them was asked to.

JAX has a service for this, which `initialize_distributed` turns off. Its `reached_preemption_sync_point` holds the GIL
while it waits for a mutex that another thread keeps during an RPC; the answer passes through the relay's Python threads
(`parallel.relay`), which need the GIL, so that all wait forever. It also ignores a signal that came before a resumed
run's first step.
"""

import itertools
import threading
import time
from typing import Any, Final

import jax
from jax._src import distributed

from show1_jax.errors import UserError
from show1_jax.terminal import BACKGROUND

_POLL_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 0.02
_NO_MORE_STEPS: Final = 1 << 62
"""Larger than any step."""
_NUMBERS: Final = itertools.count()


def stop_agreement() -> "StopAgreement | None":
    """Return an agreement with the other processes of the job, or None if there are none.

    All processes must call this equally often, and in the same order.

    Raises:
        UserError: the processes have not joined each other.
    """
    if jax.process_count() == 1:
        return None
    client = distributed.global_state.client
    if client is None:
        raise UserError(f"JAX found {jax.process_count()} processes, which must join each other; add --distributed")
    return StopAgreement(client, jax.process_index(), jax.process_count(), name=str(next(_NUMBERS)))


class StopAgreement:
    """Lets all processes of a job stop before the same step, for the same reason.

    Once one is asked, each publishes the newest step that it has begun, and begins no other one until all have. They
    stop before the step after the largest of these. So no process waits for another one in a step that only it has
    begun. A thread publishes, because a process may be in a collective operation of a step, an evaluation or a save
    that cannot end before others have begun more steps.

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
        self._agreed: tuple[int, int] | None = None  # the last step, and the reason
        self._agreeing = threading.Lock()  # no step begins while the thread holds it
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to watch for a process that is asked to stop."""
        threading.Thread(target=self._watch, name=f"{BACKGROUND}: stop agreement", daemon=True).start()

    def close(self) -> None:
        """Publish that this process begins no step any more, so that the others need not wait for it."""
        self._closed.set()
        self._publish_step(_NO_MORE_STEPS)

    def ask(self, reason: int) -> None:
        """Ask all processes to stop. May be called by a signal handler.

        Args:
            reason: a number that all processes get; if several ask, all get the same one.
        """
        self._asked = reason

    def reason_to_stop(self, step: int) -> int | None:
        """Return the reason to stop before a step, or None: the same in every process.

        Waits if the processes are just agreeing.

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
        while not self._closed.wait(_POLL_SECONDS):
            if self._asked is not None:
                self._publish("reasons/0", self._asked)
            if reasons := self._published("reasons"):
                with self._agreeing:
                    self._publish_step(self._step)
                    self._agreed = self._last_step(), reasons[0]
                return

    def _last_step(self) -> int:
        """Return the last step that any process has begun, once all have published theirs."""
        wait = _SHORTEST_WAIT_SECONDS
        while len(steps := self._published("steps")) < self._num_processes:
            time.sleep(wait)
            wait = min(2 * wait, _POLL_SECONDS)  # the first process answers all others
        return max(steps)

    def _publish_step(self, step: int) -> None:
        """Publish the step of this process, unless it has published one. Tries again until it succeeds.

        If the service is gone, the supervision ends the process.
        """
        while not self._publish(f"steps/{self._process}", step):
            time.sleep(_POLL_SECONDS)

    def _publish(self, name: str, value: int) -> bool:
        """Publish a value, unless there is one under its name; returns False after an error of the network."""
        try:
            self._client.key_value_set(f"{self._key}/{name}", str(value))
        except jax.errors.JaxRuntimeError as error:
            return "ALREADY_EXISTS" in str(error)
        return True

    def _published(self, folder: str) -> list[int]:
        """Return the values with names in a folder; after an error of the network, none."""
        try:
            return [int(value) for _, value in self._client.key_value_dir_get(f"{self._key}/{folder}")]
        except jax.errors.JaxRuntimeError:
            return []
