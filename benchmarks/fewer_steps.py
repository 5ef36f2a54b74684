"""The effect of fewer steps: `python -m benchmarks.fewer_steps --config configs/demo.py --stage superres_pixel`.

Samples a few prompts with the first number of --steps in that stage, then with each of the others, from the same seeds
and the same videos of the earlier stages. Prints the distance of the stage's frames and of the final frames from the
first: PSNR in decibels of 8-bit frames, over all videos and of the worst one. The weights must be trained: random ones
amplify any difference.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.videos import PROMPTS, psnr_cell, sample
from show1_jax.cascade.cascade import Cascade
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError
from show1_jax.runtime import enable_compilation_cache

LAST_STAGE: Final = STAGES[-1]


def with_steps(cascade: Cascade, stage: Stage, num_steps: int) -> Cascade:
    """Return the same cascade with another number of steps in one stage."""
    changed: dict[str, Any] = {stage: dataclasses.replace(cascade.spec.config.stage(stage), num_steps=num_steps)}
    return cascade.with_config(dataclasses.replace(cascade.spec.config, **changed))


def measure_rows(cascade: Cascade, stage: Stage, steps: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the table, each as soon as it is measured."""
    before, after = STAGES[: STAGES.index(stage)], STAGES[STAGES.index(stage) :]
    given = sample(cascade, PROMPTS, before)[0] if before else {}
    reference, _ = sample(with_steps(cascade, stage, steps[0]), PROMPTS, after, given)
    yield table.row(str(steps[0]), "reference", "reference")
    for count in steps[1:]:
        result, _ = sample(with_steps(cascade, stage, count), PROMPTS, after, given)
        yield table.row(str(count), *(psnr_cell(result[name], reference[name]) for name in (stage, LAST_STAGE)))


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.fewer_steps", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--stage", default="superres_pixel", choices=STAGES)
    parser.add_argument("--steps", default="125,50,25", metavar="N,N", help="the others are compared with the first")
    parsed, overrides = parser.parse_known_args(arguments)
    try:
        steps = [int(count) for count in parsed.steps.split(",")]
    except ValueError:
        raise UserError(f"--steps={parsed.steps} must be numbers, separated by commas") from None
    config = load_config(parsed.config, overrides)
    enable_compilation_cache(config.compilation_cache)
    cascade = Cascade.load(config.checkpoint, config)
    print(f"{describe_machine()}, {cascade.spec.dtype}, {len(PROMPTS)} videos\n")
    print(table.head(f"| steps | {parsed.stage}: PSNR, worst video | final: PSNR, worst video |"), flush=True)
    for row in measure_rows(cascade, parsed.stage, steps):
        print(row, flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.fewer_steps", lambda: _main(sys.argv[1:])))
