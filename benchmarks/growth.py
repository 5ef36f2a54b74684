"""Growth of a step with its input: `python -m benchmarks.growth --config configs/demo.py`.

Runs every stage's denoising step, with random weights, at the size of the config and with twice the frames, twice the
height and width, and twice the videos. Prints the counted operations, the measured time and the compiler's memory of
each variant, with their ratio to the first. The variants of a stage run alternately. If the time grows less than the
operations, the device was not fully used; if it grows more, some part grows faster than the work.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from typing import Final

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.random_cascade import described_spec
from benchmarks.sampling import GB, Step, prepare, timed
from show1_jax.cascade.programs import as_sampled
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.errors import UserError

HEADER: Final = "| stage | grown | sample | GFLOP counted | step ms (median, min to max) | program GB |"
VARIANTS: Final = ("", "frames x2", "sides x2", "batch x2")
"""Variants of a step; the table gives the ratio to the first one in brackets."""


def grow(config: Config, grown: str) -> Config:
    """Return the settings of a variant; the size of the batch is not a setting."""
    keyframes, pixel, latent = config.keyframes, config.superres_pixel, config.superres_latent
    if grown == "frames x2":
        return dataclasses.replace(
            config,
            keyframes=dataclasses.replace(keyframes, num_frames=2 * keyframes.num_frames),
            superres_pixel=dataclasses.replace(pixel, window=2 * pixel.window, stride=2 * pixel.stride),
        )
    if grown == "sides x2":
        return dataclasses.replace(
            config,
            keyframes=dataclasses.replace(keyframes, height=2 * keyframes.height, width=2 * keyframes.width),
            superres_latent=dataclasses.replace(latent, height=2 * latent.height, width=2 * latent.width),
        )
    return config


def measure_growth(config: Config, stage: Stage, num_steps: int) -> str:
    """Measure the variants of a stage and return their lines of the table."""
    steps: dict[str, Step] = {}
    for grown in VARIANTS:
        spec = described_spec(grow(config, grown))
        with as_sampled(spec):
            steps[grown] = prepare(spec, stage, batch_size=2 if grown == "batch x2" else 1)
    seconds: dict[str, list[float]] = {grown: [] for grown in VARIANTS}
    for _ in range(num_steps):
        for grown, step in steps.items():
            seconds[grown] += timed(step.run, 1)
    first, median = steps[""], statistics.median(seconds[""])
    rows = []
    for grown, step in steps.items():
        times = statistics.median(seconds[grown]) / median
        cells = [
            f"{step.flops / 1e9:.2f} ({step.flops / first.flops:.2f})",
            f"{table.spread(seconds[grown], 1e3, 1)} ({times:.2f})",
            f"{step.program_bytes / GB:.3f} ({step.program_bytes / first.program_bytes:.2f})",
        ]
        rows.append(table.row(stage, grown, "x".join(map(str, step.sample)), *cells))
    return "\n".join(rows)


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps of every variant")
    parsed, overrides = parser.parse_known_args(arguments)
    if parsed.steps < 1:
        raise UserError(f"--steps={parsed.steps} must be at least 1")
    config = load_config(parsed.config, overrides)
    print(f"{describe_machine()}\n\n{table.head(HEADER)}", flush=True)
    for stage in CascadeConfig.parse_stages(parsed.stages):
        print(measure_growth(config, stage, parsed.steps), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.growth", lambda: _main(sys.argv[1:])))
