"""Supervision of the processes of a job: if one of them fails or is lost, all end with one line, within a stated time.

A process that waits for another one in a collective operation cannot be interrupted, so threads watch, and end the
process. They exchange messages through the key-value store of JAX's coordination service, which is in the first
process; a training step does not wait for them. JAX's own heartbeats are slower than these, because JAX aborts a
process from C++, with pages of log.
"""

import atexit
import contextlib
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final

import jax
from jax._src import distributed
from jax._src.lib import _jax

from show1_jax.errors import PROCESS_LOST, PROGRAM_ERROR, error_line
from show1_jax.parallel.relay import Relay
from show1_jax.terminal import BACKGROUND, end_process, on_failure

JAX_TIMEOUTS: Final = 4
"""JAX's own timeout of heartbeats as a multiple of ours; it sends the next one after half of that time."""
_ALIVE: Final = "show1/alive"
_FAILURE: Final = "show1/failure"
_READ: Final = "show1/read"
_FINISHED: Final = "finished"
_PERIOD_SECONDS: Final = 2.0
_SHORTEST_WAIT_SECONDS: Final = 0.02
_GRACE_SECONDS: Final = 0.5
_PROOF_PERIODS: Final = 3
"""In that many periods of heartbeats, a process that is alive sends at least two."""
_LAST_WORDS_SECONDS: Final = 5.0
_MAX_LINE: Final = 500
_XLA_STATUS: Final = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): "
)
_REMEDY: Final = "run the same command again to resume"


class Heartbeats:
    """Finds the processes that are silent.

    Args:
        num_processes: number of processes.
        timeout: seconds of silence after which a process is lost.
        now: the time, in seconds.
    """

    def __init__(self, num_processes: int, timeout: float, now: float):
        self._timeout, self._checked = timeout, now
        self._last = dict.fromkeys(range(num_processes), ("", now))

    def lost(self, beats: Mapping[int, str], now: float) -> list[int]:
        """Return the numbers of the lost processes.

        Args:
            beats: the newest message of every process that has sent one; a process that is alive changes it.
            now: the time, in seconds.
        """
        paused = now - self._checked > self._timeout / 2  # this process was suspended, and has read nothing meanwhile
        self._checked = now
        for process, (beat, _) in self._last.items():
            new = beats.get(process, "")
            if paused or new != beat or new.startswith(_FINISHED):
                self._last[process] = (new, now)
        return [process for process, (_, since) in self._last.items() if now - since > self._timeout]


class Supervisor:
    """Watches the processes of a job from threads of this one.

    Args:
        client: client of JAX's coordination service.
        process: number of this process.
        num_processes: number of processes.
        address: address of the first process, for errors.
        timeout: seconds of silence after which a process is lost.
    """

    def __init__(self, client: Any, process: int, num_processes: int, address: str, timeout: float):
        self._client, self._process, self._num_processes = client, process, num_processes
        self._address, self._timeout = address, timeout
        self._period = min(_PERIOD_SECONDS, timeout / 10)
        self._heartbeats = Heartbeats(num_processes, timeout, time.monotonic())
        self._answered = time.monotonic()
        self._ending = threading.Lock()
        self._is_failing, self._told = False, threading.Event()
        self._finishing, self._all_finished = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start to watch, until all processes finish."""
        watches = (self._exchange,) if self._process == 0 else (self._exchange, self._watch_answers)
        for watch in watches:
            threading.Thread(target=watch, name=f"{BACKGROUND}: {watch.__name__}", daemon=True).start()
        on_failure(self.fail)
        atexit.register(self.finish)

    def finish(self) -> None:
        """Wait until all processes finish. If one fails meanwhile, this one ends as well.

        An exception that no command has caught, in a program of the user, is a failure.
        """
        error = getattr(sys, "last_value", None)  # Python has printed it
        if error is not None and not hasattr(sys, "ps1"):  # an interactive Python goes on after an error
            line = f"{type(error).__name__}: {error_line(error)}"
            end_process(self._tell_others(error, line, PROGRAM_ERROR), PROGRAM_ERROR)
        self._finishing.set()
        self._all_finished.wait()

    def fail(self, error: BaseException, line: str, code: int) -> None:
        """Tell the other processes that this one fails. After an error of the program, end with its traceback.

        An error of JAX can be the consequence of another process's end. Then the threads end this process first.

        Args:
            error: the exception.
            line: the line that this process prints.
            code: exit code.
        """
        line = self._tell_others(error, line, code)
        if code == PROGRAM_ERROR:
            traceback.print_exception(error)
            end_process(line, code)

    def _tell_others(self, error: BaseException, line: str, code: int) -> str:
        """Tell the other processes that this one fails, and return the line that they print."""
        if _may_have_another_cause(error):
            self._wait_for_the_cause()
        with self._ending:
            self._is_failing = True
        line = f"process {self._process} on {socket.gethostname()} failed: {line}"[:_MAX_LINE]
        threading.Thread(target=self._tell, args=(line, code), daemon=True).start()
        self._told.wait(_LAST_WORDS_SECONDS)
        return line

    def _wait_for_the_cause(self) -> None:
        """Wait until a lost process is found, which ends this one, or until all others have proved to be alive.

        A process that is lost may have sent a heartbeat that is still on its way, so each other one must send two. If
        several processes have an error, each waits equally long, so that the first one is reported.
        """
        began, seen = time.monotonic(), dict[int, set[str]]()
        while (waited := time.monotonic() - began) < self._timeout + 2 * self._period + _GRACE_SECONDS:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                for process, beat in self._beats().items():
                    seen.setdefault(process, set()).add(beat)
            alive = [process for process, beats in seen.items() if len(beats) > 2 or _is_finished(beats)]
            if waited > _PROOF_PERIODS * self._period and len({*alive, self._process}) == self._num_processes:
                return
            time.sleep(self._period / 2)

    def lose_first(self) -> None:
        """End this process, since the connection to the first one was closed."""
        time.sleep(_GRACE_SECONDS)  # this process may just be ending, after a line of the first one
        self._told.set()
        if not self._is_failing and not self._all_finished.is_set():
            end_process(f"lost the first process, at {self._address}; {_REMEDY}", PROCESS_LOST)

    def _tell(self, line: str, code: int) -> None:
        """Tell all processes that this one fails; they would otherwise see a closed connection first."""
        self._publish(line, code, self._process)
        self._mark_read()
        self._wait_for_readers({self._process})
        self._told.set()

    def _exchange(self) -> None:
        """Send heartbeats; read failures, and in the first process the heartbeats of the others."""
        host, number, wait = socket.gethostname(), 0, _SHORTEST_WAIT_SECONDS
        while not self._all_finished.is_set():
            finishing, number = self._finishing.is_set(), number + 1
            beat = f"{_FINISHED if finishing else number} on {host}"
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # `_watch_answers` counts the seconds
                self._client.key_value_set(f"{_ALIVE}/{self._process}", beat, allow_overwrite=True)
                for _, failure in self._client.key_value_dir_get(_FAILURE):
                    self._end_after(json.loads(failure))
                if self._process == 0 or finishing:
                    self._read_heartbeats()
                self._answered = time.monotonic()
            if finishing:
                time.sleep(wait)
                wait = min(2 * wait, self._period)
            else:
                self._finishing.wait(self._period)

    def _read_heartbeats(self) -> None:
        beats = self._beats()
        if sum(beat.startswith(_FINISHED) for beat in beats.values()) == self._num_processes:
            self._all_finished.set()
        elif self._process == 0:
            for process in self._heartbeats.lost(beats, time.monotonic()):
                host = beats.get(process, "").partition(" on ")[2] or "an unknown host"
                line = f"process {process} on {host} is lost: silent for {self._timeout:g} s; {_REMEDY}"
                self._publish(line, PROCESS_LOST, process)  # this process reads it as well

    def _beats(self) -> dict[int, str]:
        """Return the newest heartbeat of each process that has sent one."""
        return {int(key.rpartition("/")[2]): beat for key, beat in self._client.key_value_dir_get(_ALIVE)}

    def _watch_answers(self) -> None:
        """End this process if the first one does not answer."""
        checked = time.monotonic()
        while not self._all_finished.wait(self._period):
            now = time.monotonic()
            if now - checked > self._timeout / 2:  # this process was suspended
                self._answered = now
            checked = now
            if now - self._answered > self._timeout:
                where = f"the first process, at {self._address},"
                end_process(f"{where} is lost: silent for {self._timeout:g} s; {_REMEDY}", PROCESS_LOST)

    def _publish(self, line: str, code: int, process: int) -> None:
        """Tell all processes a failure, unless there was an earlier one."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            message = {"line": line, "code": code, "process": process}
            self._client.key_value_set(f"{_FAILURE}/0", json.dumps(message))

    def _end_after(self, failure: Mapping[str, Any]) -> None:
        """End this process after the failure of another one, unless it fails itself."""
        with self._ending:
            if not self._is_failing:
                self._mark_read()
                if self._process == 0:  # it has the service
                    self._wait_for_readers({failure["process"]})
                end_process(failure["line"], failure["code"])

    def _mark_read(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_READ}/{self._process}", "", allow_overwrite=True)

    def _wait_for_readers(self, ended: Set[int]) -> None:
        """Wait for a few seconds until all processes but those that ended have read the failure."""
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while time.monotonic() < deadline:
                readers = {int(key.rpartition("/")[2]) for key, _ in self._client.key_value_dir_get(_READ)}
                if len(readers | ended) == self._num_processes:
                    return
                time.sleep(_SHORTEST_WAIT_SECONDS)


@contextlib.contextmanager
def supervised(timeout: float) -> Iterator[Callable[[], None]]:
    """Supervise the processes of a job that a block joins with `jax.distributed.initialize`.

    Args:
        timeout: seconds of silence after which a process is lost.

    Yields:
        A function to call before the process is ended within the block.
    """
    create, relays, addresses = _jax.get_distributed_runtime_client, [], [""]

    def create_behind_relay(address: str, process: int, *arguments: Any, **options: Any) -> Any:
        addresses.append(address)
        if process != 0:
            relays.append(Relay(address, lambda: supervisor.lose_first()))
            address = relays[0].target
        return create(address, process, *arguments, **options)

    def close() -> None:
        for relay in relays:
            relay.close()

    try:
        _jax.get_distributed_runtime_client = create_behind_relay
        yield close
    except BaseException:
        close()
        raise
    finally:
        _jax.get_distributed_runtime_client = create
    state = distributed.global_state
    if state.client is None or state.num_processes == 1:
        return
    supervisor = Supervisor(state.client, state.process_id, state.num_processes, addresses[-1], timeout)
    supervisor.start()
    for relay in relays:
        relay.joined()


def _is_finished(beats: Set[str]) -> bool:
    return any(beat.startswith(_FINISHED) for beat in beats)


def _may_have_another_cause(error: BaseException | None) -> bool:
    """Return whether an exception may come from a collective operation, which fails when another process ends."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return "RESOURCE_EXHAUSTED" not in str(error)
        if _XLA_STATUS.match(str(error)):  # XLA's errors have other classes as well
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
