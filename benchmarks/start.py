"""Time of a first and a second start, and of many videos: `python -m benchmarks.start --config configs/demo.py`.

Runs `sample.py` twice, each time in a new process, with a compilation cache that is empty at first; then once more for
--videos videos. Prints the seconds of the whole process, the seconds before `sample.py`, those of tracing, lowering and
compiling (or fetching from the cache), and the numbers of programs that were fetched from the cache and compiled.
Programs are compiled in several threads, so that the seconds of these parts may overlap. Last, it prints the seconds
for many videos in one command, relative to as many second starts.
"""

import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import table
from benchmarks.machine import describe_machine
from show1_jax.cli import ArgumentParser, run_command
from show1_jax.errors import UserError

PARTS: Final = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling or fetching": "/jax/core/compile/backend_compile_duration",
}
ASKED: Final = "/jax/compilation_cache/compile_requests_use_cache"
FETCHED: Final = "/jax/compilation_cache/cache_hits"
SAMPLE: Final = Path(__file__).resolve().parents[1] / "sample.py"


def count_programs(run: Callable[[], None]) -> dict[str, float]:
    """Run a function and return JAX's seconds of each part of compiling, and the numbers of programs."""
    import jax

    seconds, counts = Counter[str](), Counter[str]()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: seconds.update({event: duration_secs})
    )
    jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
    run()
    found: dict[str, float] = {part: seconds[event] for part, event in PARTS.items()}
    return found | {"fetched": counts[FETCHED], "compiled": counts[ASKED] - counts[FETCHED]}


def sample_and_count(report: Path, arguments: Sequence[str]) -> None:
    """Run `sample.py` in this process and write JAX's times and numbers of its programs to `report`."""

    def sample() -> None:
        sys.argv = [str(SAMPLE), *arguments]
        try:
            runpy.run_path(str(SAMPLE), run_name="__main__")
        except SystemExit as exit_:
            if exit_.code:
                raise

    start = time.perf_counter()
    found = count_programs(sample)
    report.write_text(json.dumps(found | {"sample.py": time.perf_counter() - start}))


def measure_start(folder: Path, name: str, arguments: Sequence[str]) -> tuple[float, list[str]]:
    """Run `sample.py` in a new process; return the seconds of the process, and the cells of its line in the table."""
    report = folder / f"{name}.json"
    own = [f"--out={folder / name}", f"--config.compilation_cache={folder / 'compiled'}"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.start", "--report", str(report), *arguments, *own]
    if subprocess.run(command, check=False).returncode:
        raise UserError("sample.py failed; its message is above")
    whole, found = time.perf_counter() - began, json.loads(report.read_text())
    cells = [whole, whole - found["sample.py"], *(found[part] for part in PARTS)]
    return whole, [name, *(f"{seconds:.1f}" for seconds in cells), str(found["fetched"]), str(found["compiled"])]


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; other flags are sample.py's")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="sample in this process, and write the counts there"
    )
    parser.add_argument("--videos", type=int, default=8, metavar="N", help="videos of the last command")
    parsed, rest = parser.parse_known_args(arguments)
    rest = ["--config", parsed.config, *rest]
    if parsed.report:
        sample_and_count(parsed.report, rest)
        return
    if parsed.videos < 1:
        raise UserError(f"--videos={parsed.videos} must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        _, first = measure_start(Path(folder), "first", rest)
        alone, second = measure_start(Path(folder), "second", rest)
        together, many = measure_start(
            Path(folder), f"{parsed.videos} videos", [*rest, f"--videos_per_prompt={parsed.videos}"]
        )
    columns = ["start", "seconds", "before sample.py", *PARTS, "programs fetched", "compiled"]
    lines = [table.row(*cells) for cells in (first, second, many)]
    print("\n".join([describe_machine(), "", table.head(table.row(*columns)), *lines]))
    print(f"\n{parsed.videos} videos in one command: {together / (parsed.videos * alone):.2f} of as many commands")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.start", lambda: _main(sys.argv[1:])))
