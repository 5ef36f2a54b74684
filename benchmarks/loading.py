"""Speed of loading weights from disk: `python -m benchmarks.loading --config configs/demo.py --components keyframes`.

For every component, alternately times loading the network onto the devices; reading its files; and hashing them, which
is a part of every load. The files are in the system's cache, and as much free memory as they need has been in use just
before. With `--cold` neither is so: the files are dropped from the cache, as far as Linux allows that, and reading
shows the speed of the disk; a virtual machine may have to fetch free memory from its host. `memory` is the growth of
the process's memory to its peak during a first load, divided by the bytes of the weights in the dtype of the devices:
on one CPU device, whose memory is the host's, 1 is the least. It runs on Linux only.
"""

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import jax

from benchmarks import table
from benchmarks.machine import describe_machine
from show1_jax.cascade.cascade import Cascade
from show1_jax.checkpoints.arrays import check_weights
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.errors import UserError

GB: Final = 1e9
HEADER: Final = (
    "| component | files GB | read s (median, min to max) | hash s | load s | load / read | load / hash | memory |"
)
CHUNK: Final = 2**24


def read(files: Sequence[Path]) -> None:
    """Read all bytes of the files, a chunk at a time."""
    buffer = bytearray(CHUNK)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def use_memory(num_bytes: int) -> None:
    """Allocate memory, write to each of its pages, and free it."""
    with mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)  # like the memory of large NumPy arrays
        for start in range(0, num_bytes, mmap.PAGESIZE):
            memory[start] = 1


def drop_from_cache(files: Sequence[Path]) -> None:
    """Drop the files from the system's cache, so that the next read is from disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident_bytes(field: str) -> int:
    """Return bytes of this process's memory: `VmRSS` is the present use, `VmHWM` the peak since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024


def reset_peak() -> None:
    """Reset the peak memory to the present use."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(cascade: Cascade, checkpoints: CheckpointSet, component: str, times: int, *, cold: bool) -> str:
    """Measure a component and return its line of the table."""
    folder = checkpoints.path(component) / component / "weights"
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)

    def timed(run: Callable[[], None]) -> float:
        if cold:
            drop_from_cache(files)
        else:
            use_memory(size + CHUNK)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    num_bytes = 0

    def load() -> None:
        nonlocal num_bytes
        network = checkpoints.load(component, cascade.spec.mesh, cascade.spec.dtype)
        leaves = jax.block_until_ready(jax.tree.leaves(network.weights))
        num_bytes = sum(leaf.nbytes for leaf in leaves)
        for leaf in leaves:
            leaf.delete()

    read(files)
    reset_peak()
    before = resident_bytes("VmRSS")
    seconds: dict[str, list[float]] = {"read": [], "hash": [], "load": []}
    load()
    memory = (resident_bytes("VmHWM") - before) / num_bytes
    for _ in range(times):
        seconds["load"].append(timed(load))
        seconds["read"].append(timed(lambda: read(files)))
        seconds["hash"].append(timed(lambda: check_weights(checkpoints.path(component), component)))
    cells = [table.spread(seconds[name], 1, 2) for name in ("read", "hash", "load")]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [f"{medians['load'] / medians[other]:.2f}" for other in ("read", "hash")]
    return table.row(component, f"{size / GB:.3f}", *cells, *ratios, f"{memory:.2f}")


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--components", metavar="A,B", help="components of its checkpoint; default: all")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="timed loads of every component")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the system's cache")
    parsed, overrides = parser.parse_known_args(arguments)
    if sys.platform != "linux":
        raise UserError("it needs Linux to measure memory and drop files; run it there")
    if parsed.times < 1:
        raise UserError(f"--times={parsed.times} must be at least 1")
    config = load_config(parsed.config, overrides)
    checkpoints = CheckpointSet.open(config.checkpoint)
    cascade = Cascade.of(checkpoints, config)
    print(f"{describe_machine('orbax-checkpoint')}, {cascade.spec.dtype}\n\n{table.head(HEADER)}", flush=True)
    for component in parsed.components.split(",") if parsed.components else checkpoints.manifest.components:
        print(measure(cascade, checkpoints, component, parsed.times, cold=parsed.cold), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.loading", lambda: _main(sys.argv[1:])))
