"""Speed of sampling: `python -m benchmarks.sampling --config configs/demo.py --whole`.

For every stage, with random weights, prints the seconds that its denoising step takes to trace, to
compile, and to fetch from the persistent cache; the median step with its minimum and maximum; its operations and their
rate; and the floor. The floor is the time that the operations or the bytes (weights and inputs, read once) need at the
rates that one large matrix product and one large sum reach on this device, measured at the start. `program GB` is the
compiler's figure, which is unreliable for bfloat16 on CPUs. `peak GB` is the most memory that the process has used on a
device so far. --whole also samples two videos with the whole cascade sequentially: the first compiles, the second does
not.
"""

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.random_cascade import random_cascade
from benchmarks.videos import PROMPTS, sample
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.programs import as_sampled, denoising_step, trace_with_formats
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.networks import random_network
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.errors import UserError
from show1_jax.runtime import enable_compilation_cache, weight_formats
from show1_jax.training.flops import count_flops

GB = 1e9
HEADER: Final = (
    "| stage | sample | GFLOP | trace s | compile s | from cache s | step ms (median, min to max) | GFLOP/s | floor ms "
    "| times floor | program GB | peak GB |"
)


class Rates(NamedTuple):
    """Rates that the device reaches: operations a second in a matrix product, bytes a second in a sum."""

    flops: float
    bandwidth: float

    def floor(self, flops: float, num_bytes: float) -> float:
        """Return the least seconds that these operations and bytes need."""
        return max(flops / self.flops, num_bytes / self.bandwidth)


@dataclass(frozen=True)
class Step:
    """A stage's compiled denoising step on the devices, with its sizes and the seconds of its preparation."""

    run: Callable[[], Any]
    sample: tuple[int, ...]
    flops: float
    num_bytes: int
    program_bytes: int
    trace_seconds: float
    compile_seconds: float
    fetch_seconds: float


def measure_rates(dtype: Any) -> Rates:
    """Measure the rates of the first device: the best of 8 runs of each operation."""
    side, length = (1024, 2**26) if jax.default_backend() == "cpu" else (8192, 2**28)
    # Random numbers: with equal ones, some GPUs need less power and reach a rate that networks cannot.
    square = jnp.asarray(np.random.default_rng(0).standard_normal((side, side), np.float32), dtype)
    line = jnp.ones(length, jnp.float32)
    product, total = jax.jit(jnp.matmul), jax.jit(jnp.sum)
    return Rates(
        2 * side**3 / min(timed(lambda: product(square, square), 8)),
        line.nbytes / min(timed(lambda: total(line), 8)),
    )


def timed(run: Callable[[], Any], times: int) -> list[float]:
    """Return the seconds of `times` runs, after one run that is not timed."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds


def prepare(spec: CascadeSpec, stage: Stage, batch_size: int, *, fetch: bool = True) -> Step:
    """Trace a stage's step, compile it, fetch it from a cache that is empty at first, and draw its arguments.

    As in sampling, the compiler chooses the layouts of the weights. Without `fetch`, the step is compiled once, with
    the compilation cache that is in use.
    """
    program = denoising_step(spec, stage, batch_size)
    others = jax.tree.map(draw, program.arguments[1:])
    program = program._replace(arguments=(program.weights, *others))
    with _fresh_cache() if fetch else contextlib.nullcontext():
        traced, trace_seconds = _timed_once(lambda: trace_with_formats(spec, program))
        compiled, compile_seconds = _timed_once(lambda: traced.lower().compile())
        fetch_seconds = trace_seconds
        if fetch:
            jax.clear_caches()
            compiled, fetch_seconds = _timed_once(lambda: trace_with_formats(spec, program).lower().compile())
    formats = weight_formats(compiled)
    network = random_network(spec.manifest.component(stage), spec.mesh, spec.dtype, formats=formats)
    arguments = (network.weights, *others)
    memory = compiled.memory_analysis()
    return Step(
        run=lambda: compiled(*arguments),
        sample=program.arguments[1].sample.shape,
        flops=count_flops(traced.jaxpr.jaxpr),
        num_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(arguments)),
        program_bytes=memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes,
        trace_seconds=trace_seconds,
        compile_seconds=compile_seconds,
        fetch_seconds=fetch_seconds - trace_seconds,
    )


def draw(leaf: Any) -> Any:
    """Return Gaussian values in place of a shape, zeros if they are integers, and any other leaf unchanged."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
    drawn = np.random.default_rng(0).standard_normal(leaf.shape, np.float32)
    return jax.device_put(drawn.astype(leaf.dtype), leaf.sharding)


@contextlib.contextmanager
def _fresh_cache() -> Iterator[None]:
    """Use an empty persistent cache of compiled programs while the block lasts."""
    before = jax.config.values["jax_compilation_cache_dir"]
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        reset_cache()  # JAX opens a cache once, and would continue to use the previous folder
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            reset_cache()


def _timed_once(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def measure_stage(spec: CascadeSpec, stage: Stage, rates: Rates, batch_size: int, num_steps: int) -> str:
    """Measure a stage and return its line of the table."""
    with as_sampled(spec):
        step = prepare(spec, stage, batch_size)
        seconds = timed(step.run, num_steps)
    median = statistics.median(seconds)
    num_devices = spec.mesh.size
    floor = rates.floor(step.flops / num_devices, step.num_bytes / num_devices)
    cells = [
        stage,
        "x".join(map(str, step.sample)),
        f"{step.flops / 1e9:.1f}",
        f"{step.trace_seconds:.1f}",
        f"{step.compile_seconds:.1f}",
        f"{step.fetch_seconds:.1f}",
        table.spread(seconds, 1e3, 1),
        f"{step.flops / median / 1e9:.1f}",
        f"{1e3 * floor:.1f}",
        f"{median / floor:.1f}",
        f"{step.program_bytes / GB:.2f}",
        peak_gb(),
    ]
    return table.row(*cells)


def peak_gb() -> str:
    """Return the most memory that this process has used on its first device so far, in GB."""
    statistics_of = jax.local_devices()[0].memory_stats() or {}
    peak = statistics_of.get("peak_bytes_in_use")
    return "not known" if peak is None else f"{peak / GB:.2f}"


def measure_cascade(cascade: Cascade, stages: Sequence[Stage], batch_size: int) -> str:
    """Return a table of the seconds of two runs: the first compiles, or fetches from the cache."""
    first, second = (sample(cascade, [PROMPTS[0]] * batch_size, stages)[1] for _ in range(2))
    rows = [table.row(name, f"{seconds:.1f}", f"{second[name]:.1f}") for name, seconds in first.items()]
    return "\n".join([table.head("| stage | first s | second s |"), *rows])


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B")
    parser.add_argument("--batch_size", type=int, default=1, metavar="N", help="videos that are sampled together")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps of every stage")
    parser.add_argument("--whole", action="store_true", help="sample two videos as well")
    parsed, overrides = parser.parse_known_args(arguments)
    for name in ("batch_size", "steps"):
        if (value := getattr(parsed, name)) < 1:
            raise UserError(f"--{name}={value} must be at least 1")
    config, stages = load_config(parsed.config, overrides), CascadeConfig.parse_stages(parsed.stages)
    cascade = random_cascade(config)
    rates = measure_rates(cascade.spec.dtype)
    print(
        f"{describe_machine()}, {cascade.spec.dtype}: {rates.flops / 1e9:.0f} GFLOP/s, "
        f"{rates.bandwidth / GB:.1f} GB/s\n"
    )
    print(table.head(HEADER), flush=True)
    for stage in stages:
        print(measure_stage(cascade.spec, stage, rates, parsed.batch_size, parsed.steps), flush=True)
    if parsed.whole:
        enable_compilation_cache(config.compilation_cache)
        print(f"\n{measure_cascade(cascade, stages, parsed.batch_size)}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.sampling", lambda: _main(sys.argv[1:])))
