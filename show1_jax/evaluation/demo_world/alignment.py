"""Do the demo's videos show what their prompts say?

  python -m show1_jax.evaluation.alignment --config configs/demo.py --out outputs/alignment

Samples prompts of the synthetic world's grammar and measures every video by plain image analysis: see
`show1_jax.evaluation.demo_world.measure`. DIR then has report.md, the table; report.json, every prompt with what was
measured and what is right; and failures/, pictures of videos in which something is wrong.
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
from show1_jax.evaluation.demo_world.report import FAILURES, REPORT, Answer, Question, Report
from show1_jax.files import user_path
from show1_jax.media.frames import from_uint8, to_uint8
from show1_jax.progress import Bar

MakeVideos = Callable[[Sequence[Question]], Float32[np.ndarray, "b t h w 3"]]

MEASURED_STAGES: Final = ("interpolation", "superres_pixel", "superres_latent")
"""The stages whose videos have all frames."""


@dataclass(frozen=True)
class Kind:
    """Which prompts are drawn, from a world that no training sees: one of its own seed."""

    world_seed: int
    num_things: int
    held_out: bool | None


KINDS: Final = {
    "one": Kind(2**32, num_things=1, held_out=None),
    "held_out": Kind(2**32 + 1, num_things=1, held_out=True),
    "two": Kind(2**32 + 2, num_things=2, held_out=None),
}


def ask(kind: str, index: int, seed: int) -> Question:
    """The prompt of an index; its video's seed is `seed + index`."""
    chosen = KINDS[kind]
    placed = scene_from_index(index, chosen.world_seed, held_out=chosen.held_out, num_things=chosen.num_things)
    return Question(kind, index, placed, seed + index)


def evaluate(questions: Sequence[Question], make_videos: MakeVideos, batch_size: int, report: Report) -> str:
    """Make and measure the videos of all questions, batch by batch; returns the table.

    The last batch is filled up, so that nothing is compiled for its size.
    """
    seconds: list[float] = []
    table = ""
    with Bar("measuring", len(questions), unit=" videos") as bar:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            began = time.perf_counter()
            filled = make_videos([*batch, *[batch[-1]] * (batch_size - len(batch))])
            seconds.append((time.perf_counter() - began) / batch_size)
            videos = to_uint8(filled[: len(batch)])
            measured = [measure(video) for video in videos]
            answers = [
                Answer(question, found, judge(found, question.placed.scene))
                for question, found in zip(batch, measured, strict=True)
            ]
            report.add(answers, videos)
            table = report.write(_costs(seconds))
            bar.update(len(batch))
    return table


def sampled(config: Config, stage: Stage) -> MakeVideos:
    """Videos that the cascade samples, up to a stage. JAX is imported once it is known to be needed."""
    from show1_jax.cascade.cascade import Cascade
    from show1_jax.runtime import enable_compilation_cache, memory_errors

    enable_compilation_cache(config.compilation_cache)
    cascade = Cascade.load(config.checkpoint, config)
    stages = (*stages_before(stage), stage)
    cascade.spec.check(stages)

    def make(questions: Sequence[Question]) -> Float32[np.ndarray, "b t h w 3"]:
        prompts, seeds = [question.prompt for question in questions], [question.seed for question in questions]
        with memory_errors("take a smaller --batch_size"):
            return cascade.sample(prompts, seeds, stages=stages)[stage]

    return make


def drawn(config: Config, stage: Stage) -> MakeVideos:
    """Return the videos that the cascade should make: the world's own pictures, in a stage's size."""
    height, width = STAGE_TABLE[stage].size(config, (config.keyframes.height, config.keyframes.width))
    times = np.arange(config.num_frames) / config.output.fps
    return lambda questions: from_uint8(np.stack([render(asked.placed, times, height, width) for asked in questions]))


def enlarged(make_videos: MakeVideos, height: int, width: int) -> MakeVideos:
    """The same videos, enlarged bilinearly."""
    import jax.numpy as jnp

    from show1_jax.cascade.resize import resize_bilinear

    return lambda questions: np.asarray(resize_bilinear(jnp.asarray(make_videos(questions)), height, width))


def _costs(seconds: Sequence[float]) -> dict[str, float]:
    """The first batch waits for the compiler: where there are more, the time is theirs."""
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
    add("--kinds", default=",".join(KINDS), metavar="A,B", help=f"of prompts; default: {', '.join(KINDS)}")
    add("--num_prompts", type=int, default=200, metavar="N", help="of each kind; default 200")
    add("--first", type=int, default=0, metavar="I", help="index of the first prompt; default 0")
    add("--seed", type=int, default=0, help="prompt I is sampled with SEED + I; default 0")
    add("--batch_size", type=int, default=8, metavar="N", help="videos that are sampled together; default 8")
    add("--stage", default=MEASURED_STAGES[-1], help=f"that is measured: {', '.join(MEASURED_STAGES)} (the default)")
    add("--upscale", choices=["bilinear"], help="enlarge the stage's videos to the last stage's size before measuring")
    add("--truth", action="store_true", help="measure the world's own pictures: the measuring's own errors")
    add("--out", type=user_path, required=True, metavar="DIR", help="where the report is written")
    add("--overwrite", action="store_true", help="replace the report in DIR")
    return parser


def _check(parsed: argparse.Namespace) -> None:
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
    _check(parsed)
    config = load_config(parsed.config, overrides)
    config = dataclasses.replace(config, checkpoint=parsed.checkpoint or config.checkpoint)
    kinds = list(dict.fromkeys(parsed.kinds.split(",")))
    indices = range(parsed.first, parsed.first + parsed.num_prompts)
    questions = [ask(kind, index, parsed.seed) for kind in kinds for index in indices]
    make_videos = (drawn if parsed.truth else sampled)(config, parsed.stage)
    if parsed.upscale:
        make_videos = enlarged(make_videos, config.superres_latent.height, config.superres_latent.width)
    shutil.rmtree(parsed.out / FAILURES, ignore_errors=True)
    asked = {name: value for name, value in vars(parsed).items() if name not in ("out", "overwrite")}
    report = Report(parsed.out, kinds, asked | {"checkpoint": config.checkpoint, "overrides": overrides})
    print(evaluate(questions, make_videos, parsed.batch_size, report))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns its exit code."""
    return run_command("alignment", lambda: _main(arguments))
