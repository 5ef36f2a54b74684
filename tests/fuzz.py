"""Damaged and hostile files for everything that reads files: `python -m tests.fuzz --inputs 20000 --seed 0`.

An input is a mutation of a valid file, a function of the seed, the kind of file and a number. A reader may read it or
refuse it in one line. Anything else is a finding, printed and kept as a file: another exception, a line break in the
refusal, more than `MAX_SECONDS`, more than `MAX_GROWTH` of memory, or an attempt to run a program or open a connection.
"""

import argparse
import collections
import itertools
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

MAX_SECONDS: Final = 10.0
MAX_GROWTH: Final = 1 << 30
START_SECONDS: Final = 120.0
_FORBIDDEN: Final = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")


@dataclass(frozen=True)
class Outcome:
    """What became of an input: "read", "refused", or the finding."""

    kind: str
    number: int
    outcome: str
    seconds: float = 0.0
    growth: int = -1

    @property
    def is_finding(self) -> bool:
        return self.outcome not in ("read", "refused")

    @property
    def is_answer(self) -> bool:
        """Whether the process that read the input is still there."""
        return self.growth >= 0


def fuzz(kinds: Sequence[str], num_inputs: int, seed: int, keep: Path | None = None) -> list[Outcome]:
    """Give every kind its share of the inputs; another process reads them, and is replaced where it hangs or dies.

    Args:
        kinds: of `tests.fuzz_kinds`.
        num_inputs: of all kinds together.
        seed: of the mutations.
        keep: folder for the inputs of findings.
    """
    coming = [
        (kind, number)
        for index, kind in enumerate(kinds)
        for number in range(len(range(index, num_inputs, len(kinds))))
    ]
    outcomes: list[Outcome] = []
    with tqdm(total=num_inputs, desc="fuzz", unit=" inputs", disable=None) as bar:
        while len(outcomes) < len(coming):
            for outcome in _read_all(coming[len(outcomes) :], seed, keep):
                outcomes.append(outcome)
                if outcome.is_finding:
                    tqdm.write(f"{outcome.kind} {outcome.number}: {outcome.outcome}", file=sys.stderr)
                bar.update()
    return outcomes


def _read_all(inputs: Sequence[tuple[str, int]], seed: int, keep: Path | None) -> Iterator[Outcome]:
    """The outcomes of inputs up to the last or to the first at which their process hangs or dies."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_work, args=(theirs, inputs, seed, Path(folder), keep))
        process.start()
        theirs.close()
        kind = ""
        for name, number in inputs:
            try:
                patience = MAX_SECONDS if name == kind else START_SECONDS
                message = ours.recv() if ours.poll(patience) else Outcome(name, number, f"hangs for {patience:g} s")
            except EOFError:
                message = Outcome(name, number, "the process died")
            yield message
            if not message.is_answer:
                break
            kind = name
        process.kill()
        process.join()


def _work(
    connection: multiprocessing.connection.Connection,
    inputs: Sequence[tuple[str, int]],
    seed: int,
    scratch: Path,
    keep: Path | None,
) -> None:
    """Read mutated inputs one after the other; what is printed meanwhile is of no interest."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tests.helpers.fuzz_kinds import KINDS

    attempts = _watched()
    silence, stderr = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(silence, 1)
    for name, group in itertools.groupby(inputs, key=lambda each: each[0]):
        os.dup2(stderr, 2)
        kind, folder = KINDS[name], scratch / name
        folder.mkdir()
        kind.make(folder)
        path = folder / kind.file
        valid = path.read_bytes()
        kind.read(folder)  # or this kind's description is out of date: a traceback, and a process that died
        os.dup2(silence, 2)
        attempts.clear()
        for _, number in group:
            data = kind.mutate(valid, random.Random(zlib.crc32(f"{seed} {name} {number}".encode())))
            path.write_bytes(data)
            outcome = _measured(kind, folder, name, number, attempts)
            if keep is not None and outcome.is_finding:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name}-{number}{path.suffix}").write_bytes(data)
            connection.send(outcome)
        shutil.rmtree(folder, ignore_errors=True)


def _measured(kind: Any, folder: Path, name: str, number: int, attempts: list[str]) -> Outcome:
    before, started = _reset_peak(), time.monotonic()
    outcome = _outcome(kind, folder)
    seconds, growth = time.monotonic() - started, _memory("VmHWM") - before
    if attempts:
        outcome = f"attempts {attempts.pop()}"
    elif growth > MAX_GROWTH:
        outcome = f"takes {growth / 1e9:.1f} GB"
    elif seconds > MAX_SECONDS:
        outcome = f"takes {seconds:.0f} s"
    return Outcome(name, number, outcome, seconds, growth)


def _outcome(kind: Any, folder: Path) -> str:
    from show1_jax.data.failures import VideoError
    from show1_jax.errors import UserError

    try:
        kind.read(folder)
    except (UserError, VideoError) as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"says {str(error)!r}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {reason} ({Path(last.filename).name}:{last.lineno})"
    return "read"


def _watched() -> list[str]:
    """Attempts to leave the process, from now on."""
    attempts: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            attempts.append(f"{event}{arguments[:1]}")

    sys.addaudithook(note)
    return attempts


def _reset_peak() -> int:
    """Forget this process's peak of memory (Linux); returns its memory in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each kind: its inputs, what became of them, and the most time and memory of one."""
    lines = [f"{'kind':<28}{'inputs':>8}{'read':>8}{'refused':>9}{'findings':>10}{'slowest':>10}{'memory':>10}"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        counts = collections.Counter("finding" if each.is_finding else each.outcome for each in of_kind)
        slowest, growth = max(each.seconds for each in of_kind), max(each.growth for each in of_kind)
        counted = f"{len(of_kind):>8}{counts['read']:>8}{counts['refused']:>9}{counts['finding']:>10}"
        lines.append(f"{kind:<28}{counted}{slowest:>8.2f} s{growth / 1e6:>7.0f} MB")
    return "\n".join(lines)


def main() -> int:
    """Run the command line; returns 1 if anything was found."""
    from tests.helpers.fuzz_kinds import KINDS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parsed = parser.parse_args()
    outcomes = fuzz(parsed.kinds, parsed.inputs, parsed.seed, parsed.keep)
    print(summary(outcomes))
    return int(any(outcome.is_finding for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
