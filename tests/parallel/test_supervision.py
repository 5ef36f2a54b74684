"""Jobs of several processes in which one fails, is killed or falls silent: all end with one line, in time."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import BAD_INPUT, PROCESS_LOST, PROGRAM_ERROR, UserError
from show1_jax.parallel import supervision
from show1_jax.parallel.supervision import Heartbeats, Supervisor, _may_have_another_cause
from tests.helpers.processes import environment, free_address

ROOT = Path(__file__).parents[2]
TIMEOUT = 6
"""Seconds of silence after which a process is lost. The processes of this file compete for few cores."""
ATTENTION = 60
"""Seconds within which a process notices anything else, on a busy machine; about two on an idle one."""
JOB = """
import sys, time
from show1_jax.cli import run_command
from show1_jax.errors import UserError
from show1_jax.terminal import exit_process

address, process, num_processes, timeout, role = sys.argv[1:]

def work():
    from show1_jax.parallel import from_all_processes, initialize_distributed
    initialize_distributed(address, int(num_processes), int(process), int(timeout))
    from_all_processes(0)  # connects all with all
    print("joined", flush=True)
    if role == "user":
        raise UserError("no caption; write one")
    if role == "program":
        raise TypeError("a mistake")
    if role == "collective":
        raise RuntimeError("INTERNAL: the network of this process failed")
    if role == "late":
        time.sleep(1)
    if role in ("late", "done"):
        return
    for number in range(1_000_000):
        from_all_processes(number)  # as a training step does, it waits for all processes
        time.sleep(0.05)

exit_process(run_command("job", work))
"""


@dataclass(frozen=True)
class Scenario:
    """A job: the roles of its processes, and the signal that one of them gets once all have joined."""

    roles: tuple[str, ...]
    signal: int = 0
    process: int = 0


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit code, its lines on stderr, and seconds from the signal to the last line."""

    code: int
    lines: list[str]
    seconds: float


SCENARIOS = {
    "a user error": Scenario(("wait", "wait", "user")),
    "a user error in the first": Scenario(("user", "wait")),
    "a program error": Scenario(("wait", "program")),
    "a failed collective": Scenario(("wait", "collective")),
    "a killed process": Scenario(("wait", "wait", "wait"), signal.SIGKILL, 1),
    "the first is killed": Scenario(("wait", "wait"), signal.SIGKILL, 0),
    "the first is silent": Scenario(("wait", "wait"), signal.SIGSTOP, 0),
    "the first ends late": Scenario(("late", "done")),
}


class Job:
    """The processes of a scenario."""

    def __init__(self, name: str, folder: Path):
        self.scenario, self._folder = SCENARIOS[name], folder
        address, number = free_address(), len(self.scenario.roles)
        arguments = [[address, str(i), str(number), str(TIMEOUT), role] for i, role in enumerate(self.scenario.roles)]
        folder.mkdir()
        self._processes = [self._start(number, of_one) for number, of_one in enumerate(arguments)]

    def _start(self, number: int, arguments: list[str]) -> "subprocess.Popen[bytes]":
        with open(self._folder / f"{number}.out", "w") as out, open(self._folder / f"{number}.err", "w") as errors:
            command = [sys.executable, "-c", JOB, *arguments]
            return subprocess.Popen(command, cwd=ROOT, env=environment(1), stdout=out, stderr=errors)

    def send_signal(self) -> None:
        """Send the signal once all processes have joined."""
        for i, process in enumerate(self._processes):
            has_ended = False
            while "joined" not in (self._folder / f"{i}.out").read_text():
                assert not has_ended, (self._folder / f"{i}.err").read_text()
                has_ended = process.poll() is not None
                time.sleep(0.05)
        self._started = time.time()
        if self.scenario.signal:
            self._processes[self.scenario.process].send_signal(self.scenario.signal)

    def ends(self) -> list[Ended]:
        """Return the ends of the processes that did not get the signal."""
        ends = []
        for i, process in enumerate(self._processes):
            if not self.scenario.signal or i != self.scenario.process:
                code = process.wait(timeout=120)
                errors = self._folder / f"{i}.err"
                lines = errors.read_text().splitlines()
                lines = [line for line in lines if not line.startswith("waiting for the other processes")]  # if slow
                ends.append(Ended(code, lines, errors.stat().st_mtime - self._started))
        return ends

    def close(self) -> None:
        """End what is left."""
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """The ends of all jobs, which mostly wait, and so run at the same time."""
    folder = tmp_path_factory.mktemp("jobs")
    jobs = {name: Job(name, folder / name) for name in SCENARIOS}
    try:
        for job in jobs.values():
            job.send_signal()
        return {name: job.ends() for name, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.close()


def check(end: Ended, code: int, line: str, seconds: float) -> None:
    assert end.code == code, end.lines
    assert len(end.lines) == 1
    assert line in end.lines[0]
    assert end.seconds < seconds


def test_a_user_error_in_one_process_is_one_line_in_all(ends: dict[str, list[Ended]]) -> None:
    *others, failed = ends["a user error"]
    check(failed, BAD_INPUT, "job: no caption; write one", ATTENTION)
    for other in others:
        check(other, BAD_INPUT, "process 2 on ", ATTENTION)
        assert other.lines[0].endswith(" failed: no caption; write one")
    failed, other = ends["a user error in the first"]
    check(failed, BAD_INPUT, "job: no caption; write one", ATTENTION)
    check(other, BAD_INPUT, " failed: no caption; write one", ATTENTION)


def test_an_error_of_the_program_has_one_traceback(ends: dict[str, list[Ended]]) -> None:
    other, failed = ends["a program error"]
    check(other, PROGRAM_ERROR, " failed: TypeError: a mistake", ATTENTION)
    assert failed.code == PROGRAM_ERROR
    assert failed.lines[0] == "Traceback (most recent call last):"
    assert failed.lines.count("TypeError: a mistake") == 1


def test_a_failed_collective_is_no_lost_process(ends: dict[str, list[Ended]]) -> None:
    other, _ = ends["a failed collective"]
    check(other, PROGRAM_ERROR, " failed: RuntimeError: INTERNAL: the network of this process failed", ATTENTION)


def test_a_killed_process_is_lost_within_the_timeout(ends: dict[str, list[Ended]]) -> None:
    for end in ends["a killed process"]:
        check(end, PROCESS_LOST, "process 1 on ", TIMEOUT + ATTENTION)
        assert end.lines[0].endswith(f" is lost: silent for {TIMEOUT} s; run the same command again to resume")


def test_the_first_process_is_lost_without_pages_of_log(ends: dict[str, list[Ended]]) -> None:
    (end,) = ends["the first is killed"]
    check(end, PROCESS_LOST, "lost the first process, at 127.0.0.1:", ATTENTION)
    (end,) = ends["the first is silent"]
    check(end, PROCESS_LOST, f"is lost: silent for {TIMEOUT} s; run the same command again", TIMEOUT + ATTENTION)


def test_a_process_that_ends_early_waits_for_the_others(ends: dict[str, list[Ended]]) -> None:
    assert [(end.code, end.lines) for end in ends["the first ends late"]] == [(0, [])] * 2


class Store:
    """The key-value store of a job in which all others have read a failure."""

    def __init__(self) -> None:
        self.values = {"show1/read/1": ""}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


def test_an_exception_that_nothing_catches_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program of the user, the process would otherwise wait for the others at its end, and they for it."""

    def end(line: str, code: int) -> Any:
        raise SystemExit(code, line)

    monkeypatch.setattr(supervision, "end_process", end)
    monkeypatch.setattr(sys, "last_value", KeyError("seed"), raising=False)
    store = Store()
    supervisor = Supervisor(store, 0, 2, "localhost:1", TIMEOUT)
    supervisor._all_finished.set()  # if this fails, it does not wait
    with pytest.raises(SystemExit) as ended:
        supervisor.finish()
    code, line = ended.value.args
    assert code == PROGRAM_ERROR
    assert line.endswith(" failed: KeyError: 'seed'")
    assert json.loads(store.values["show1/failure/0"]) == {"line": line, "code": code, "process": 0}


class Beating(Store):
    """The store of a job of three, whose second process sends heartbeats, and whose third one may."""

    def __init__(self, third: list[str]) -> None:
        super().__init__()
        self.number, self.third = 0, third
        self.values |= {"show1/read/2": "", "show1/alive/0": "1 on h"}

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self.number += 1
        self.values["show1/alive/1"] = f"{self.number} on h"
        self.values["show1/alive/2"] = self.third[min(self.number, len(self.third)) - 1]
        return super().key_value_dir_get(key)


@pytest.mark.parametrize(
    ("third", "seconds"),
    [
        (["1 on h", "2 on h", "3 on h"], 0.15),
        (["1 on h", "finished on h"], 0.15),
        (["1 on h", "2 on h"], 1.1),  # the second may have been on its way when the process was lost
        (["1 on h"], 1.1),
    ],
)
def test_a_failed_collective_waits_for_proof_that_all_are_alive(third: list[str], seconds: float) -> None:
    """Or else for as long as a silent process may take to be found."""
    supervisor = Supervisor(Beating(third), 0, 3, "localhost:1", 0.5)
    began = time.monotonic()
    line = supervisor._tell_others(jax.errors.JaxRuntimeError("INTERNAL: failed"), "a collective failed", PROGRAM_ERROR)
    assert seconds <= time.monotonic() - began < seconds + 0.9  # the shorter times differ from the longer ones
    assert line.endswith(" failed: a collective failed")


@given(st.lists(st.floats(0.1, 4.9), min_size=1, max_size=20), st.integers(0, 2), st.booleans())
def test_only_silent_processes_are_lost(pauses: list[float], silent: int, finished: bool) -> None:
    heartbeats, now = Heartbeats(3, 10, 0.0), 0.0
    for number, pause in enumerate(pauses):
        now += pause
        beats = dict.fromkeys(range(3), f"{number} on h")
        beats[silent] = "finished on h" if finished else "0 on h"
        lost = heartbeats.lost(beats, now)
        assert lost == ([silent] if not finished and now - pauses[0] > 10 else [])


def test_a_process_that_was_suspended_blames_nobody() -> None:
    heartbeats = Heartbeats(2, 10, 0.0)
    assert heartbeats.lost({0: "1", 1: "1"}, 1.0) == []
    assert heartbeats.lost({0: "2", 1: "1"}, 500.0) == []
    assert heartbeats.lost({0: "3", 1: "1"}, 504.0) == []
    assert heartbeats.lost({0: "4", 1: "1"}, 508.0) == []
    assert heartbeats.lost({0: "5", 1: "1"}, 511.0) == [1]


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: Gloo AllReduce failed"), True),
        (jax.errors.JaxRuntimeError("closed"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes."), False),
        (ValueError("a batch of 3"), False),
        (UserError("CAPTIONS: no such file; write one"), False),
    ],
)
def test_errors_of_collective_operations_may_have_another_cause(error: Exception, may: bool) -> None:
    assert _may_have_another_cause(error) == may
    told = UserError("step 5 was not saved")
    told.__cause__ = error
    assert _may_have_another_cause(told) == may
