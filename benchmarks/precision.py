"""What bfloat16 changes: `python -m benchmarks.precision --config configs/demo.py`.

Samples a few prompts in float32, then every stage in bfloat16, text encoder included, from what float32 made before it
and the same noise, and at last the whole cascade in bfloat16. Prints how far the frames are apart: PSNR in decibels of
8-bit frames, over all videos and of the worst one; below 45 it fails. Weights must be trained: random ones amplify
anything.
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.videos import PROMPTS, psnr_cell, sample, worst_psnr
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.runtime import enable_compilation_cache

MIN_PSNR: Final = 45.0
"""Decibels that the worst video of any row must have: a root mean square of 1.4 of 255 levels."""


def measure_pairs(config: Config) -> Iterator[tuple[str, HostVideo, HostVideo]]:
    """What is in bfloat16, what it made, and what float32 made, as they are known."""
    exact, rounded = (
        Cascade.load(config.checkpoint, dataclasses.replace(config, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    videos, _ = sample(exact, PROMPTS, STAGES)
    for stage in STAGES:
        before = {name: videos[name] for name in STAGES[: STAGES.index(stage)]}
        result, _ = sample(rounded, PROMPTS, [stage], before)
        yield stage, result[stage], videos[stage]
    whole, _ = sample(rounded, PROMPTS, STAGES)
    yield "all, one after the other", whole[STAGES[-1]], videos[STAGES[-1]]


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parsed, overrides = parser.parse_known_args(arguments)
    config = load_config(parsed.config, overrides)
    enable_compilation_cache(config.compilation_cache)
    print(f"{describe_machine()}, {len(PROMPTS)} videos\n")
    print(table.head("| in bfloat16 | PSNR against float32, worst video |"), flush=True)
    far = []
    for name, rounded, exact in measure_pairs(config):
        print(table.row(name, psnr_cell(rounded, exact)), flush=True)
        if worst_psnr(rounded, exact) < MIN_PSNR:
            far.append(name)
    if far:
        raise UserError(f"a video is less than {MIN_PSNR} dB from float32: {', '.join(far)}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.precision", lambda: _main(sys.argv[1:])))
