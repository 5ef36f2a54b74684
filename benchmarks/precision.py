"""The effect of bfloat16: `python -m benchmarks.precision --config configs/demo.py`.

Samples a few prompts in float32. Then samples every stage in bfloat16, with its text encoder, from the float32 videos
of the earlier stages and the same noise, and finally the whole cascade in bfloat16. Prints the PSNR against float32, in
decibels of 8-bit frames, over all videos and of the worst one; below 45 it fails. The weights must be trained: random
ones amplify any difference.
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
"""Least PSNR of the worst video of any row, in dB: a root mean square error of 1.4 of 255 levels."""


def measure_pairs(config: Config) -> Iterator[tuple[str, HostVideo, HostVideo]]:
    """Yield the name of the stage in bfloat16, its videos, and those of float32, each as soon as they are sampled."""
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
    yield "all stages", whole[STAGES[-1]], videos[STAGES[-1]]


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parsed, overrides = parser.parse_known_args(arguments)
    config = load_config(parsed.config, overrides)
    enable_compilation_cache(config.compilation_cache)
    print(f"{describe_machine()}, {len(PROMPTS)} videos\n")
    print(table.head("| in bfloat16 | PSNR against float32, worst video |"), flush=True)
    too_far = []
    for name, rounded, exact in measure_pairs(config):
        print(table.row(name, psnr_cell(rounded, exact)), flush=True)
        if worst_psnr(rounded, exact) < MIN_PSNR:
            too_far.append(name)
    if too_far:
        raise UserError(f"a video is less than {MIN_PSNR} dB from float32: {', '.join(too_far)}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.precision", lambda: _main(sys.argv[1:])))
