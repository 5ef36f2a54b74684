"""A style from pictures, on the demo's world: outlines, stripes or a checkerboard instead of a plain fill.

  python -m benchmarks.stylise pictures --fill outline --out outputs/outline
  python -m benchmarks.stylise measure --fill outline --adapter runs/first_frame,runs/superres_pixel \
      --out outputs/stylise

The first command writes the pictures that a user would have, with their captions; docs/customise.md has the commands
that train on them. The second one samples prompts of one object, which no picture shows, with all adapters at each of
`--strengths`, and measures the videos by `show1_jax.evaluation.demo_world.fills`. Prints a table as it grows; OUT gets
a contact sheet for each strength. Videos of strength 0 are compared with those of the cascade without an adapter.
"""

import argparse
import dataclasses
import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks import table
from benchmarks.machine import describe_machine
from benchmarks.videos import sample
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cascade.stages import stages_before
from show1_jax.checkpoints.adapter_set import split_adapters
from show1_jax.cli import ArgumentParser, load_config, number_between, run_command
from show1_jax.config.sampling import Stage
from show1_jax.data.synthetic.shapes import FILLS, SHAPES
from show1_jax.data.synthetic.world import Scene, place, render, scene_from_index
from show1_jax.errors import UserError
from show1_jax.evaluation.demo_world.alignment import MEASURED_STAGES, make_case
from show1_jax.evaluation.demo_world.fills import FilledThing, measure_fills
from show1_jax.evaluation.demo_world.measure import judge
from show1_jax.evaluation.demo_world.report import EvalCase
from show1_jax.files import new_folder, user_path, write_bytes
from show1_jax.media.contact_sheet import contact_sheet
from show1_jax.media.frames import to_uint8
from show1_jax.runtime import enable_compilation_cache

WORLD_SEED: Final = 2**32 + 11
"""Seed of the world of the pictures; the demo is neither trained nor measured on it."""
PICTURE_SIZE: Final = (320, 576)
"""Height and width: a whole multiple of the last stage's, and of pixel super-resolution's after the crop."""
MAX_SHOWN: Final = 12
"""Maximum number of videos on a contact sheet."""
ROOT: Final = Path(__file__).parents[1]
HEADER: Final = "| strength | style | colour | shape | motion | colour, shape and motion | style too |"


def write_pictures(folder: Path, fill: str, count: int) -> None:
    """Write pictures of two still things with a fill, as PNG, each with a caption that does not name the fill.

    The things have every shape equally often.
    """
    shapes = itertools.cycle(SHAPES)
    for index in range(count):
        scene = scene_from_index(index, WORLD_SEED, num_things=2).scene
        things = tuple(dataclasses.replace(thing, shape=next(shapes), motion="stays still") for thing in scene.things)
        placed = place(Scene(things, scene.background), index, spread=0.6)
        png = io.BytesIO()
        Image.fromarray(render(placed, [0.0], *PICTURE_SIZE, fill)[0]).save(png, "PNG")
        write_bytes(folder / f"{index:02}.png", png.getvalue())
        write_bytes(folder / f"{index:02}.txt", f"{placed.scene.sentence()}\n".encode())


@dataclasses.dataclass
class Outcome:
    """Properties that the videos of a strength show.

    Attributes:
        rights: for each video, whether style, colour, shape and motion are right.
        shown: the first videos, by prompt.
    """

    rights: list[dict[str, bool]] = dataclasses.field(default_factory=list)
    shown: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def add(self, case: EvalCase, video: np.ndarray, fill: str) -> None:
        """Measure a video, uint8."""
        found = measure_fills(video)
        verdict = judge(found, case.placed.scene)
        fills = {thing.fill for thing in found.things if isinstance(thing, FilledThing)}
        self.rights.append({"style": fills == {fill}, **{name: getattr(verdict, name) for name in _ATTRIBUTES}})
        if len(self.shown) < MAX_SHOWN:
            self.shown[case.prompt] = video

    def row(self, strength: str) -> str:
        """Return the line of the table."""
        counts = [sum(right[name] for right in self.rights) for name in ("style", *_ATTRIBUTES)]
        prompt = [all(right[name] for name in _ATTRIBUTES) for right in self.rights]
        counts += [sum(prompt), sum(all(right.values()) for right in self.rights)]
        return table.row(strength, *(f"{count} of {len(self.rights)}" for count in counts))


_ATTRIBUTES: Final = ("color", "shape", "motion")


def measure_adapters(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Sample and measure the videos of every strength, and print the table.

    Raises:
        UserError: a strength is not a number, or strength 0 is not the cascade without adapters.
    """
    config = load_config(str(ROOT / "configs" / "demo.py"), overrides)
    config = dataclasses.replace(config, checkpoint=parsed.checkpoint or config.checkpoint)
    enable_compilation_cache(config.compilation_cache)
    shipped = Cascade.load(config.checkpoint, config)
    strengths = _strengths(parsed.strengths)
    cascades = {strength: shipped.with_adapters(_with_strength(parsed.adapter, strength)) for strength in strengths}
    stages: tuple[Stage, ...] = (*stages_before(parsed.stage), parsed.stage)
    outcomes = {strength: Outcome() for strength in strengths}
    print(f"{describe_machine()}, {shipped.spec.dtype}, {parsed.adapter}, {parsed.fill}, stage {parsed.stage}")
    with new_folder(parsed.out) as folder:
        for start in range(0, parsed.num_prompts, parsed.batch_size):
            stop = min(start + parsed.batch_size, parsed.num_prompts)
            cases = [make_case("one", index, seed=0) for index in range(start, stop)]
            for strength, cascade in cascades.items():
                videos = _videos(cascade, cases, stages)
                if (
                    float(strength) == 0
                    and start == 0
                    and any((videos[stage] != video).any() for stage, video in _videos(shipped, cases, stages).items())
                ):
                    raise UserError("with strength 0 the videos are not those of the cascade without an adapter")
                for case, video in zip(cases, to_uint8(videos[parsed.stage]), strict=True):
                    outcomes[strength].add(case, video, parsed.fill)
            print(f"\n{stop} of {parsed.num_prompts} prompts\n\n{table.head(HEADER)}")
            for strength, outcome in outcomes.items():
                print(outcome.row(strength), flush=True)
        for strength, outcome in outcomes.items():
            contact_sheet(folder / f"strength_{strength}.png", outcome.shown, f"{parsed.fill}, strength {strength}")


def _videos(cascade: Cascade, cases: Sequence[EvalCase], stages: Sequence[Stage]) -> Mapping[Stage, HostVideo]:
    return sample(cascade, [case.prompt for case in cases], stages, seeds=[case.seed for case in cases])[0]


def _strengths(text: str) -> list[str]:
    """Return the texts of several strengths."""
    found = [strength.strip() for strength in text.split(",")]
    for strength in found:
        try:
            float(strength)
        except ValueError:
            raise UserError(f"--strengths={text}: {strength!r} is not a number") from None
    return found


def _with_strength(adapters: str, strength: str) -> str:
    """Return adapters with their own strengths multiplied by another one."""
    return ",".join(f"{folder}:{own * float(strength)}" for folder, own in split_adapters(adapters))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m benchmarks.stylise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pictures = commands.add_parser("pictures", help="write the pictures of a style, with captions")
    measure = commands.add_parser("measure", help="sample with adapters, and measure the videos")
    for command in (pictures, measure):
        command.add_argument("--fill", required=True, choices=FILLS[1:], help="the style")
        command.add_argument("--out", required=True, type=user_path, metavar="DIR", help="new folder for the results")
    count = number_between(1, 1_000_000)
    pictures.add_argument("--num_pictures", type=count, default=16, metavar="N", help="number of pictures (16)")
    measure.add_argument("--adapter", required=True, metavar="A,B", help="adapters, as for sample.py")
    measure.add_argument("--checkpoint", metavar="A,B", help="checkpoints; default: the demo's")
    measure.add_argument("--strengths", default="1", metavar="S,T", help="strengths of all adapters, e.g. 0,0.5,1 (1)")
    measure.add_argument("--stage", default="superres_pixel", choices=MEASURED_STAGES[1:], help="stage to measure")
    measure.add_argument("--num_prompts", type=count, default=48, metavar="N", help="number of prompts (48)")
    measure.add_argument("--batch_size", type=count, default=8, metavar="N", help="videos sampled together (8)")
    return parser


def _main(arguments: Sequence[str]) -> None:
    parsed, overrides = _parser().parse_known_args(arguments)
    if parsed.command == "measure":
        measure_adapters(parsed, overrides)
        return
    if overrides:
        raise UserError(f"there is no option {overrides[0]}")
    with new_folder(parsed.out) as folder:
        write_pictures(folder, parsed.fill, parsed.num_pictures)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.stylise", lambda: _main(sys.argv[1:])))
