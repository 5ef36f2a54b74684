"""Do the demo's videos agree with their prompts?

  python -m show1_jax.evaluation.alignment --config configs/demo.py --out outputs/alignment

Samples prompts of the synthetic world's grammar and measures every video by plain image analysis: see
`show1_jax.evaluation.demo_world.measure`. DIR then contains report.md, the table; report.json, every prompt with its
measurement and the correct attributes; and failures/, pictures of videos with a wrong attribute.
"""

import argparse
import dataclasses
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from show1_jax.cascade.stages import STAGE_TABLE, stages_before
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import Stage
from show1_jax.data.synthetic.world import render, scene_from_index
from show1_jax.errors import UserError
from show1_jax.evaluation.demo_world.measure import judge, measure
from show1_jax.evaluation.demo_world.report import FAILURES, REPORT, EvalCase, EvalResult, Report
from show1_jax.files import user_path
from show1_jax.media.frames import from_uint8, to_uint8
from show1_jax.progress import Bar

MakeVideos = Callable[[Sequence[EvalCase]], Float32[np.ndarray, "b t h w 3"]]

MEASURED_STAGES: Final = ("interpolation", "superres_pixel", "superres_latent")
"""The stages whose videos have all frames of a clip."""


@dataclass(frozen=True)
class Kind:
    """A kind of evaluation prompts, drawn from a world whose seed is never used in training.

    Attributes:
        world_seed: seed of the world.
        num_things: number of things in a scene.
        held_out: True if the first thing is held out of training; None for any things; see `scene_from_index`.
        same_color: share of the scenes whose things have one colour; see `scene_from_index`.
    """

    world_seed: int
    num_things: int
    held_out: bool | None
    same_color: float = 0.0


KINDS: Final = {
    "one": Kind(2**32, num_things=1, held_out=None),
    "held_out": Kind(2**32 + 1, num_things=1, held_out=True),
    "two": Kind(2**32 + 2, num_things=2, held_out=None),
    "same_color": Kind(2**32 + 3, num_things=2, held_out=None, same_color=1.0),
}


def make_case(kind: str, index: int, seed: int) -> EvalCase:
    """Return the evaluation case of an index; its video's seed is `seed + index`."""
    chosen = KINDS[kind]
    placed = scene_from_index(
        index,
        chosen.world_seed,
        held_out=chosen.held_out,
        num_things=chosen.num_things,
        same_color=chosen.same_color,
    )
    return EvalCase(kind, index, placed, seed + index)


def evaluate(cases: Sequence[EvalCase], make_videos: MakeVideos, batch_size: int, report: Report) -> str:
    """Make and measure the videos of all cases, batch by batch, and return the report's table.

    The last batch is filled up to `batch_size`, so that nothing is compiled for a smaller size.

    Args:
        cases: the prompts with their scenes and seeds.
        make_videos: returns the videos of a batch of cases, in [-1, 1].
        batch_size: number of videos that are made together.
        report: the report to write.
    """
    seconds: list[float] = []
    table = ""
    with Bar("measuring", len(cases), unit=" videos") as bar:
        for start in range(0, len(cases), batch_size):
            batch = cases[start : start + batch_size]
            began = time.perf_counter()
            filled = make_videos([*batch, *[batch[-1]] * (batch_size - len(batch))])
            seconds.append((time.perf_counter() - began) / batch_size)
            videos = to_uint8(filled[: len(batch)])
            measured = [measure(video) for video in videos]
            results = [
                EvalResult(case, found, judge(found, case.placed.scene))
                for case, found in zip(batch, measured, strict=True)
            ]
            report.add(results, videos)
            table = report.write(_costs(seconds))
            bar.update(len(batch))
    return table


def cascade_videos(config: Config, stage: Stage) -> MakeVideos:
    """Return a function that samples videos with the cascade, up to a stage; JAX is imported only here."""
    from show1_jax.cascade.cascade import Cascade
    from show1_jax.runtime import enable_compilation_cache, memory_errors

    enable_compilation_cache(config.compilation_cache)
    cascade = Cascade.load(config.checkpoint, config, adapters=config.adapter)
    stages = (*stages_before(stage), stage)
    cascade.spec.check(stages)

    def make(cases: Sequence[EvalCase]) -> Float32[np.ndarray, "b t h w 3"]:
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        with memory_errors("use a smaller --batch_size"):
            return cascade.sample(prompts, seeds, stages=stages)[stage]

    return make


def true_videos(config: Config, stage: Stage) -> MakeVideos:
    """Return a function that renders the true videos, the cascade's ideal output, at the size of a stage."""
    height, width = STAGE_TABLE[stage].size(config, config.keyframes.size)
    times = np.arange(config.num_frames) / config.output.fps
    return lambda cases: from_uint8(np.stack([render(case.placed, times, height, width) for case in cases]))


def upscaled_videos(make_videos: MakeVideos, height: int, width: int) -> MakeVideos:
    """Return a function that makes the same videos, enlarged bilinearly to `height` x `width`."""
    import jax.numpy as jnp

    from show1_jax.cascade.resize import resize_bilinear

    return lambda cases: np.asarray(resize_bilinear(jnp.asarray(make_videos(cases)), height, width))


def _costs(seconds: Sequence[float]) -> dict[str, float]:
    """Return time and memory by name; the first batch includes compilation, so it counts only if it is the only one."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds per video": statistics.mean(seconds[1:] or seconds),
        "peak memory of the process in GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / 1e9,
    }


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m show1_jax.evaluation.alignment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Settings are changed as in sample.py: --config.SETTING=VALUE.",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="settings")
    add("--checkpoint", metavar="A,B", help="checkpoints or training runs; default: the config's")
    add("--kinds", default=",".join(KINDS), metavar="A,B", help=f"kinds of prompts; default: {', '.join(KINDS)}")
    add("--num_prompts", type=int, default=200, metavar="N", help="number of prompts of each kind; default 200")
    add("--first", type=int, default=0, metavar="I", help="index of the first prompt; default 0")
    add("--seed", type=int, default=0, help="prompt I is sampled with SEED + I; default 0")
    add("--batch_size", type=int, default=8, metavar="N", help="videos that are sampled together; default 8")
    add("--stage", default=MEASURED_STAGES[-1], help=f"stage to measure: {', '.join(MEASURED_STAGES)} (the default)")
    add("--upscale", choices=["bilinear"], help="enlarge the stage's videos to the last stage's size before measuring")
    add("--truth", action="store_true", help="measure the world's true videos: the errors of the measurement")
    add("--out", type=user_path, required=True, metavar="DIR", help="folder of the report")
    add("--overwrite", action="store_true", help="replace the report in DIR")
    return parser


def _check_arguments(parsed: argparse.Namespace) -> None:
    for name, least in (("num_prompts", 1), ("batch_size", 1), ("first", 0), ("seed", 0)):
        if (value := getattr(parsed, name)) < least:
            raise UserError(f"--{name}={value} must be at least {least}")
    if (last := parsed.seed + parsed.first + parsed.num_prompts - 1) > MAX_SEED:
        raise UserError(f"the last prompt's seed, {last}, is above {MAX_SEED}; lower --seed or --first")
    if parsed.stage not in MEASURED_STAGES:
        raise UserError(f"--stage={parsed.stage}: choose one of {', '.join(MEASURED_STAGES)}")
    if unknown := [kind for kind in parsed.kinds.split(",") if kind not in KINDS]:
        raise UserError(f"--kinds: there is no {', '.join(map(repr, unknown))}; choose from {', '.join(KINDS)}")
    if (parsed.out / REPORT).exists() and not parsed.overwrite:
        raise UserError(f"{parsed.out}: there is a report; replace it with --overwrite, or choose another --out")


def _main(arguments: Sequence[str]) -> None:
    parsed, overrides = _parser().parse_known_args(arguments)
    _check_arguments(parsed)
    config = load_config(parsed.config, overrides)
    config = dataclasses.replace(config, checkpoint=parsed.checkpoint or config.checkpoint)
    kinds = list(dict.fromkeys(parsed.kinds.split(",")))
    indices = range(parsed.first, parsed.first + parsed.num_prompts)
    cases = [make_case(kind, index, parsed.seed) for kind in kinds for index in indices]
    make_videos = (true_videos if parsed.truth else cascade_videos)(config, parsed.stage)
    if parsed.upscale:
        make_videos = upscaled_videos(make_videos, config.superres_latent.height, config.superres_latent.width)
    shutil.rmtree(parsed.out / FAILURES, ignore_errors=True)
    settings = {name: value for name, value in vars(parsed).items() if name not in ("out", "overwrite")}
    report = Report(parsed.out, kinds, settings | {"checkpoint": config.checkpoint, "overrides": overrides})
    print(evaluate(cases, make_videos, parsed.batch_size, report))


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    return run_command("alignment", lambda: _main(arguments))
