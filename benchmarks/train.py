"""Speed of training: `python -m benchmarks.train --config configs/demo.py --stages keyframes,superres_pixel`.

For every stage and variant, on the synthetic world, prints the seconds to trace and to compile; the median step with
its minimum and maximum; frames a second; the share of time waiting for data; model FLOP/s and, if the device's peak is
known, utilisation; and the compiler's figure of the program's memory, which is unreliable for bfloat16 on CPUs. The
variants run alternately, a few steps each, so that a slow minute of the machine slows all of them.
"""

import argparse
import dataclasses
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import table
from benchmarks.machine import describe_machine
from show1_jax.cli import load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.settings import Remat
from show1_jax.config.training import check_stage
from show1_jax.errors import UserError
from show1_jax.runtime import exact_float32
from show1_jax.sampling.job import make_random_checkpoint
from show1_jax.training.flops import model_flops, peak_flops
from show1_jax.training.plan import make_plan
from show1_jax.training.run.training_run import TrainingRun

ROUND = 3
"""Steps that a variant runs before the next variant runs."""
HEADER = (
    "| stage | precision | remat | clips x frames | trace s | compile s | step ms (median, min to max) | frames/s "
    "| waiting for data | model GFLOP/s | utilisation | program GB |"
)


@dataclass
class Variant:
    """One way to train a stage, with its measurements."""

    run: TrainingRun
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    program_bytes: int = 0
    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def compile(self) -> None:
        """Trace and compile the step, both timed, and run it once, untimed."""
        run, batch = self.run, self.run.next_batch()
        jitted: Any = run.compiled_step
        with jax.set_mesh(run.mesh):
            start = time.perf_counter()
            lowered = jitted.lower(run.state, run.inputs.frozen, batch)
            self.trace_seconds = time.perf_counter() - start
            start = time.perf_counter()
            memory = lowered.compile().memory_analysis()
            self.compile_seconds = time.perf_counter() - start
        self.program_bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        self.step()
        self.steps.clear()
        self.waits.clear()

    def step(self) -> None:
        """Run one step, timed with its data."""
        start = time.perf_counter()
        batch = self.run.next_batch()
        self.waits.append(time.perf_counter() - start)
        jax.block_until_ready(self.run.train_step(batch))
        self.steps.append(time.perf_counter() - start)

    def row(self) -> str:
        """Return the variant's line of the table."""
        plan, median = self.run.plan, statistics.median(self.steps)
        flops = model_flops(plan, self.run.model) / median
        peak = peak_flops(jax.devices()[0])
        batch_size, num_frames = plan.training.batch_size, plan.spec.num_frames
        cells = [
            plan.stage,
            str(plan.dtype),
            plan.training.remat,
            f"{batch_size} x {num_frames} of {plan.spec.width}x{plan.spec.height}",
            f"{self.trace_seconds:.1f}",
            f"{self.compile_seconds:.1f}",
            table.spread(self.steps, 1e3, 0),
            f"{batch_size * num_frames / median:.1f}",
            f"{sum(self.waits) / sum(self.steps):.1%}",
            f"{flops / 1e9:.1f}",
            f"{flops / peak / self.run.mesh.size:.1%}" if peak else "peak not known",
            f"{self.program_bytes / 1e9:.2f}",
        ]
        return table.row(*cells)


def measure(config: Config, stages: Sequence[str], remats: Sequence[Remat], batch_size: int, steps: int) -> None:
    """Print a table row for every stage and variant."""
    print(f"{describe_machine('optax')}\n\n{table.head(HEADER)}", flush=True)
    for stage in stages:
        with tempfile.TemporaryDirectory() as folder:
            variants = [_variant(config, stage, remat, batch_size, Path(folder) / remat) for remat in remats]
            with exact_float32(variants[0].run.plan.dtype):
                for variant in variants:
                    variant.compile()
                for _ in range(0, steps, ROUND):
                    for variant in variants:
                        for _ in range(ROUND):
                            variant.step()
                for variant in variants:
                    print(variant.row(), flush=True)
                    variant.run.close()
            del variants, variant
            gc.collect()


def with_training(config: Config, stage: str, remat: Remat, batch_size: int) -> Config:
    """Return a config that trains a stage on the synthetic world, with one microbatch."""
    train = config.train
    data = dataclasses.replace(train.data, name="synthetic", num_validation=1)
    own = dataclasses.replace(train.stage(stage), remat=remat, batch_size=batch_size, num_microbatches=1)  # type: ignore[arg-type]
    changed: dict[str, Any] = {"data": data, stage: own}
    return dataclasses.replace(config, train=dataclasses.replace(train, **changed))


def _variant(config: Config, stage: str, remat: Remat, batch_size: int, workdir: Path) -> Variant:
    plan = make_plan(with_training(config, stage, remat, batch_size), check_stage(stage), jax.devices()[0].platform)
    return Variant(TrainingRun.open(plan, workdir))


def _main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True)
    parser.add_argument("--stages", type=lambda text: text.split(","), default=["keyframes"], metavar="A,B")
    parser.add_argument("--remat", type=lambda text: text.split(","), default=["none", "dots", "full"], metavar="A,B")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15, help="timed steps of every variant")
    parsed = parser.parse_args(arguments)
    if parsed.steps < 1:
        raise UserError(f"--steps={parsed.steps} must be at least 1")
    config = load_config(parsed.config)
    make_random_checkpoint(config)
    jnp.zeros(()).block_until_ready()  # starts the backend, so that no variant's time includes it
    measure(config, parsed.stages, parsed.remat, parsed.batch_size, parsed.steps)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.train", lambda: _main(sys.argv[1:])))
