"""The loss of recipes with fewer operations: `python -m benchmarks.fewer_operations --config configs/demo.py`.

A recipe is a file of settings, or overrides of configs/full.py, separated by blanks, such as
--recipe "superres_pixel.num_steps=25". Its numbers of steps, guidance intervals and reused features are given to the
networks of --config, with their own sizes, samplers and noise levels; every stage is guided, with --guidance_scale. The
reference is configs/full.py itself. From the same seeds, prints each recipe's distance from the reference: PSNR in
decibels of 8-bit frames, over all videos and of the worst one, and how many videos show everything that their prompt
asks for. The operations are those of the recipe at full size. A table is printed after every batch of videos.

The weights must be trained: random ones amplify any difference.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.operations import Counter, video_flops
from benchmarks.random_cascade import described_spec
from benchmarks.videos import psnr_cell, sample
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage, StageConfig
from show1_jax.errors import UserError
from show1_jax.evaluation.demo_world.alignment import make_case
from show1_jax.evaluation.demo_world.measure import judge, measure
from show1_jax.evaluation.demo_world.report import EvalCase
from show1_jax.media.frames import to_uint8
from show1_jax.runtime import enable_compilation_cache

FULL: Final = "configs/full.py"
RECIPE: Final = ("num_steps", "guidance_min_timestep", "guidance_max_timestep", "deep_every", "fine_levels")
LAST_STAGE: Final = STAGES[-1]
HEADER: Final = (
    "| recipe | PFLOP at full size | share | after superres_pixel: PSNR, worst | final: PSNR, worst | right |"
)
Videos = dict[Stage, HostVideo]


@dataclasses.dataclass
class Recipe:
    """A recipe, and its videos so far.

    Attributes:
        name: name in the table.
        config: settings at full size.
        videos: results of the stages that are compared.
        right: for each video, true if it shows everything that its prompt asks for.
    """

    name: str
    config: Config
    videos: Videos = dataclasses.field(default_factory=dict)
    right: list[bool] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> "Recipe":
        """Return the recipe of an argument of the command line."""
        if Path(text).suffix == ".py":
            return cls(text, load_config(text))
        return cls(text, load_config(FULL, [f"--config.{override}" for override in text.split()]))

    def applied(self, cascade: Cascade, guidance_scale: float) -> Cascade:
        """Return a cascade with the settings of the recipe."""
        ours = cascade.spec.config
        changed: dict[str, Any] = {}
        for stage in STAGES:
            settings = {name: getattr(self.config.stage(stage), name) for name in RECIPE}
            changed[stage] = dataclasses.replace(ours.stage(stage), guidance_scale=guidance_scale, **settings)
        return cascade.with_config(dataclasses.replace(ours, **changed))

    def add(self, videos: Videos, cases: Sequence[EvalCase]) -> None:
        """Add the videos of some cases."""
        for stage in ("superres_pixel", LAST_STAGE):
            self.videos[stage] = np.concatenate([*([self.videos[stage]] if self.right else []), videos[stage]])
        frames = to_uint8(videos[LAST_STAGE])
        self.right += [judge(measure(clip), case.placed.scene).all for clip, case in zip(frames, cases, strict=True)]

    def row(self, flops: float, reference: "Recipe", reference_flops: float) -> str:
        """Return the recipe's line of the table."""
        cells = ["reference"] * 2
        if self is not reference:
            cells = [psnr_cell(self.videos[stage], reference.videos[stage]) for stage in reference.videos]
        counted = f"{flops / 1e15:.2f}", f"{flops / reference_flops:.1%}"
        return table.row(self.name, *counted, *cells, f"{sum(self.right)} of {len(self.right)}")


class Results:
    """The results of a batch of videos; recipes with equal settings of the first stages share these stages' results."""

    def __init__(self, cases: Sequence[EvalCase]) -> None:
        self._prompts, self._seeds = [case.prompt for case in cases], [case.seed for case in cases]
        self._results: dict[tuple[StageConfig, ...], HostVideo] = {}

    def sample(self, cascade: Cascade) -> Videos:
        """Return the results of all stages of a cascade."""
        settings = [cascade.spec.config.stage(stage) for stage in STAGES]
        videos: Videos = {}
        for number, stage in enumerate(STAGES, start=1):
            key = tuple(settings[:number])
            if key not in self._results:
                self._results |= {key: sample(cascade, self._prompts, [stage], videos, self._seeds)[0][stage]}
            videos[stage] = self._results[key]
        return videos


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.fewer_operations", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="settings; --config.SETTING=VALUE changes one")
    parser.add_argument("--recipe", action="append", metavar="RECIPE", help="may be repeated (configs/fast.py)")
    parser.add_argument("--guidance_scale", type=float, default=1.5, metavar="W", help="of every stage (1.5)")
    parser.add_argument("--num_prompts", type=int, default=16, metavar="N", help="half have one object, half two (16)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first prompt (0)")
    parser.add_argument("--batch_size", type=int, default=4, metavar="N", help="videos that are sampled together (4)")
    parsed, overrides = parser.parse_known_args(arguments)
    for name, least in (("num_prompts", 1), ("batch_size", 1), ("first", 0)):
        if (value := getattr(parsed, name)) < least:
            raise UserError(f"--{name}={value} must be at least {least}")
    recipes = [Recipe(FULL, load_config(FULL)), *map(Recipe.read, parsed.recipe or ["configs/fast.py"])]
    counter, device = Counter(), jax.devices()[:1]
    flops = [video_flops(counter.parts(described_spec(recipe.config, device))) for recipe in recipes]
    config = load_config(parsed.config, overrides)
    enable_compilation_cache(config.compilation_cache)
    cascade = Cascade.load(config.checkpoint, config)
    cascades = [recipe.applied(cascade, parsed.guidance_scale) for recipe in recipes]
    numbers = range(parsed.first, parsed.first + parsed.num_prompts)
    cases = [make_case(("one", "two")[number % 2], number // 2, seed=0) for number in numbers]
    print(f"{describe_machine()}, {cascade.spec.dtype}, guidance scale {parsed.guidance_scale}")
    for start in range(0, len(cases), parsed.batch_size):
        batch = cases[start : start + parsed.batch_size]
        results = Results(batch)
        print(f"\n{start + len(batch)} of {len(cases)} videos\n\n{table.head(HEADER)}")
        for recipe, changed, counted in zip(recipes, cascades, flops, strict=True):
            recipe.add(results.sample(changed), batch)
            print(recipe.row(counted, recipes[0], flops[0]), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.fewer_operations", lambda: _main(sys.argv[1:])))
