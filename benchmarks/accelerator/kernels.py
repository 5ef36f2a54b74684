"""The time of a program by kind of kernel, from JAX's profiler."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jax

KINDS: Final = (
    ("attention", "sdpa|flash|fmha|attention"),
    ("conv", "conv(?!ert)|implicit|fprop|dgrad|wgrad"),
    ("matmul", "nvjet|gemm|cublas|cutlass|splitk|matmul|dot_|dot$"),
    ("transpose", "transpose"),
    ("copy", "memcpy|memset|copy"),
    ("reduce", "reduce|softmax|sort"),
    ("concat", "concat"),
    ("fusion", "fusion|loop|wrapped|triton"),
)
"""Kinds of kernel with a pattern of their names, in lower case; the first that is found counts."""
_NUM_RUNS: Final = 2


@dataclass
class KernelTimes:
    """Kernels of a program's runs on the first device.

    Attributes:
        num_runs: number of runs.
        by_kind: nanoseconds by kind.
        by_name: nanoseconds by name of the operation and of the kernel.
        counts: number of kernels, by the same names.
        span: nanoseconds from the first kernel's start to the last one's end.
    """

    num_runs: int
    by_kind: Counter[str] = field(default_factory=Counter)
    by_name: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    span: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return milliseconds of a run by kind, all kernels together, and the gaps between them."""
        kinds = [kind for kind, _ in KINDS] + ["other"]
        milliseconds = {kind: self.by_kind[kind] / 1e6 / self.num_runs for kind in kinds}
        busy = sum(self.by_kind.values())
        return milliseconds | {
            "busy": busy / 1e6 / self.num_runs,
            "gaps": max(self.span - busy, 0.0) / 1e6 / self.num_runs,
            "kernels": sum(self.counts.values()) // self.num_runs,
        }

    def listing(self, most: int = 200) -> str:
        """Return the kernels with the most time, one a line: milliseconds of a run, number, names."""
        lines = [
            f"{time / 1e6 / self.num_runs:9.3f} ms {self.counts[name] // self.num_runs:5d} x {name}"
            for name, time in self.by_name.most_common(most)
        ]
        return "\n".join(lines) + "\n"


def profile(run: Callable[[], Any]) -> KernelTimes:
    """Run a compiled program a few times under the profiler and return the times of its kernels."""
    times, start, end = KernelTimes(_NUM_RUNS), float("inf"), 0.0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_NUM_RUNS):
                jax.block_until_ready(run())
        for path in Path(folder).rglob("*.xplane.pb"):
            for event, operation in _kernel_events(jax.profiler.ProfileData.from_file(str(path))):
                name = re.sub(r"[.\d]+$", "", operation)
                name = name if event.name.startswith(name) else f"{name} {event.name}"
                times.by_kind[kind_of_kernel(event.name, operation)] += event.duration_ns
                times.by_name[name] += event.duration_ns
                times.counts[name] += 1
                start, end = min(start, event.start_ns), max(end, event.start_ns + event.duration_ns)
    times.span = max(end - start, 0.0)
    return times


def kind_of_kernel(kernel: str, operation: str) -> str:
    """Return the kind of a kernel by its own name, or else by that of the operation it belongs to."""
    for name in (kernel, operation):
        for kind, pattern in KINDS:
            if re.search(pattern, name.lower()):
                return kind
    return "other"


def _kernel_events(data: Any) -> Iterator[tuple[Any, str]]:
    """Yield the kernels of the first device, each with the name of its operation in the compiled program."""
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    # Streams of GPUs, and the operations of TPUs; their other lines repeat the same time by module or by name scope.
    # CPUs have no device: there, the threads that run operations.
    for plane in devices[:1] or data.planes:
        for line in plane.lines:
            if devices and not line.name.startswith(("Stream", "XLA Ops")):
                continue
            for event in line.events:
                facts = dict(event.stats)
                if devices or "hlo_op" in facts:
                    yield event, str(facts.get("hlo_op", event.name))
