"""Pixels or latents, for the keyframes and for the last stage (the paper's Table 3), on the demo's world.

  python -m benchmarks.pixel_or_latent --pixel runs/pixel_keyframes --latent runs/latent_keyframes

configs/latent_keyframes.py has the commands that train the two keyframe networks, and the reasons why they are
comparable. Both sample the same prompts with the same seeds, guidance and number of steps. Keyframes of the latent
network are decoded and averaged to the size of the others; all later stages are the demo's. A high-resolution stage in
latents is the demo's last one. In pixels there is none of that size: the frames of pixel super-resolution are enlarged
bilinearly. Prints a table: how many videos show everything that their prompt asks for, by
`show1_jax.evaluation.demo_world`, and the seconds of keyframes and of the last stage.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import jax.numpy as jnp
import numpy as np
from einops import reduce

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.videos import sample
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cascade.resize import resize_bilinear
from show1_jax.cli import ArgumentParser, load_config, number_between, run_command
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.evaluation.demo_world.alignment import make_case
from show1_jax.evaluation.demo_world.measure import Verdict, judge, measure
from show1_jax.evaluation.demo_world.report import EvalCase
from show1_jax.media.frames import to_uint8
from show1_jax.runtime import enable_compilation_cache

KINDS: Final = ("one", "two")
LAST: Final = STAGES[-1]
HEADER: Final = (
    "| keyframes | last stage | everything right: one, two | count | colour | shape | motion | size | "
    "seconds a video: keyframes, last stage |"
)
Combination = tuple[str, str]
"""Kind of the keyframes and of the last stage, each `pixel` or `latent`."""


@dataclasses.dataclass
class Outcome:
    """The verdicts on a combination's videos so far, by kind of prompt, and its seconds.

    Attributes:
        verdicts: by kind of prompt.
        low_seconds: seconds a video of the keyframes, for each batch.
        high_seconds: seconds a video of the last stage, for each batch.
    """

    verdicts: dict[str, list[Verdict]] = dataclasses.field(default_factory=lambda: {kind: [] for kind in KINDS})
    low_seconds: list[float] = dataclasses.field(default_factory=list)
    high_seconds: list[float] = dataclasses.field(default_factory=list)

    def row(self, combination: Combination) -> str:
        """Return the combination's line of the table; the first batch, which compiles, counts only if it is alone."""
        every = [verdict for verdicts in self.verdicts.values() for verdict in verdicts]
        right = [f"{sum(v.all for v in verdicts)} of {len(verdicts)}" for verdicts in self.verdicts.values()]
        parts = [str(sum(getattr(v, name) for v in every)) for name in ("count", "color", "shape", "motion", "size")]
        seconds = [np.median(values[1:] or values) for values in (self.low_seconds, self.high_seconds)]
        return table.row(*combination, ", ".join(right), *parts, ", ".join(f"{value:.2f}" for value in seconds))


class Keyframes:
    """The two networks that make keyframes; each result has the size of the demo's keyframes."""

    def __init__(self, pixel: Cascade, latent: Cascade) -> None:
        self._cascades = {"pixel": pixel, "latent": latent}

    def sample(self, kind: str, cases: Sequence[EvalCase]) -> tuple[HostVideo, float]:
        """Return the keyframes of some cases and the seconds of the whole batch."""
        prompts, seeds, cascade = [case.prompt for case in cases], [case.seed for case in cases], self._cascades[kind]
        if kind == "pixel":
            videos, seconds = sample(cascade, prompts, ["keyframes"], seeds=seeds)
            return videos["keyframes"], seconds["all"]
        config = cascade.spec.config
        height, width = config.keyframes.size
        # At a strength of 1 the start is noise, with 0.5 % of the power of this empty video.
        empty = np.zeros((len(cases), config.keyframes.num_frames, height, width, 3), np.float32)
        videos, seconds = sample(cascade, prompts, [LAST], {"superres_pixel": empty}, seeds)
        scale = config.superres_latent.height // height
        return reduce(videos[LAST], "b t (h i) (w j) c -> b t h w c", "mean", i=scale, j=scale), seconds["all"]


def finish(cascade: Cascade, keyframes: HostVideo, cases: Sequence[EvalCase]) -> Mapping[str, tuple[HostVideo, float]]:
    """Return the final videos of some keyframes, and the seconds of the last stage, by the kind of the last stage."""
    prompts, seeds, between = [case.prompt for case in cases], [case.seed for case in cases], STAGES[1:-1]
    config = cascade.spec.config
    videos, _ = sample(cascade, prompts, between, {"keyframes": keyframes}, seeds)
    given: dict[Stage, HostVideo] = {"superres_pixel": videos["superres_pixel"]}
    latent, seconds = sample(cascade, prompts, [LAST], given, seeds)
    size = config.superres_latent.height, config.superres_latent.width
    enlarged = np.asarray(resize_bilinear(jnp.asarray(videos["superres_pixel"]), *size))
    return {"latent": (latent[LAST], seconds["all"]), "pixel": (enlarged, 0.0)}


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.pixel_or_latent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = number_between(1, 1_000_000)
    parser.add_argument("--pixel", required=True, metavar="RUN", help="training run of the keyframe network in pixels")
    parser.add_argument("--latent", required=True, metavar="RUN", help="training run of the latent keyframe network")
    parser.add_argument(
        "--num_prompts", type=count, default=48, metavar="N", help="of each kind: one and two things (48)"
    )
    parser.add_argument("--batch_size", type=count, default=8, metavar="N", help="videos that are sampled together (8)")
    parsed = parser.parse_args(arguments)
    demo, latent = load_config("configs/demo.py"), load_config("configs/latent_keyframes.py")
    enable_compilation_cache(demo.compilation_cache)
    cascade = Cascade.load(demo.checkpoint, demo)
    keyframes = Keyframes(
        Cascade.load(f"{demo.checkpoint},{parsed.pixel}", demo),
        Cascade.load(f"{latent.checkpoint},{parsed.latent}", latent),
    )
    outcomes: dict[Combination, Outcome] = {}
    print(f"{describe_machine()}, {cascade.spec.dtype}")
    for start in range(0, parsed.num_prompts, parsed.batch_size):
        indices = range(start, min(start + parsed.batch_size, parsed.num_prompts))
        for kind in KINDS:
            cases = [make_case(kind, index, seed=0) for index in indices]
            for low in ("pixel", "latent"):
                first, low_seconds = keyframes.sample(low, cases)
                for high, (videos, high_seconds) in finish(cascade, first, cases).items():
                    outcome = outcomes.setdefault((low, high), Outcome())
                    outcome.low_seconds.append(low_seconds / len(cases))
                    outcome.high_seconds.append(high_seconds / len(cases))
                    outcome.verdicts[kind] += [
                        judge(measure(video), case.placed.scene)
                        for video, case in zip(to_uint8(videos), cases, strict=True)
                    ]
        print(f"\n{indices.stop} of {parsed.num_prompts} prompts of each kind\n\n{table.head(HEADER)}")
        for combination, outcome in outcomes.items():
            print(outcome.row(combination), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.pixel_or_latent", lambda: _main(sys.argv[1:])))
