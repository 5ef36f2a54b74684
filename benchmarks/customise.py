"""Motion customisation on the demo's world: how many videos follow a motion that the grammar lacks.

  python -m benchmarks.customise --out runs/customise

For each motion of `show1_jax.data.synthetic.paths`, one clip of a red circle is rendered, and the keyframe network is
customised to it by `train.py --config configs/customise.py`. Then videos are sampled with prompts of other colours and
shapes ("a blue square stays still": the grammar has no word for the motion, and the adapter replaces the one that is
named), and measured by `show1_jax.evaluation.demo_world.motion`. The variants change one part
of the recipe each. Finished trainings and batches are kept in --out: the same command continues. Prints the table, with
the minutes, the largest resident memory and the size of a customisation.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import table
from benchmarks.machine import describe_commit, describe_machine
from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.cli import ArgumentParser, load_config, number_between, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.video_edit import DEFAULT_INVERSION_STEPS, VideoEdit
from show1_jax.data.synthetic.paths import PATHS, PathScene
from show1_jax.data.synthetic.shapes import SHAPES
from show1_jax.data.synthetic.world import COLORS
from show1_jax.errors import UserError
from show1_jax.evaluation.demo_world.measure import measure
from show1_jax.evaluation.demo_world.motion import MIN_CORRELATION, judge_motion
from show1_jax.files import user_path, write_bytes
from show1_jax.media.contact_sheet import contact_sheet
from show1_jax.media.frames import from_uint8, to_uint8
from show1_jax.media.write import write_mp4
from show1_jax.runtime import enable_compilation_cache

ROOT: Final = Path(__file__).parents[1]
CLIP: Final = ("red", "circle")
REACH: Final = 0.6
"""Extent of the paths. In larger ones things move by more than their size between keyframes, as never in the world."""
CLIP_SIZE: Final = (80, 128)
SENTENCE: Final = "a {} {} stays still"
"""Caption of the clip, and prompt: a sentence of the grammar, which is all that the demo's text encoder knows."""
HEADER: Final = (
    "| motion | variant | videos | path follows | colour | shape | all right | minutes | GB | MB of the adapter |"
)
Prompt = tuple[str, str]
"""Colour and shape."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A change of the recipe of configs/customise.py.

    Attributes:
        overrides: settings of training.
        caption: caption of the clip.
        inverted: sampling starts from the noise to which the clip is inverted.
        trained_as: name of the variant whose training is used.
    """

    overrides: tuple[str, ...] = ()
    caption: str = SENTENCE.format(*CLIP)
    inverted: bool = False
    trained_as: str = ""


VARIANTS: Final[dict[str, Variant]] = {
    "recipe": Variant(),
    "with inversion": Variant(inverted=True, trained_as="recipe"),
    "motion loss": Variant(("train.keyframes.loss=motion",)),
    "motion loss, with inversion": Variant(inverted=True, trained_as="motion loss"),
    "queries, keys and values": Variant(("train.keyframes.trainable=temporal_attention",)),
    "all weights": Variant(("train.keyframes.trainable=all",)),
    "bland caption": Variant(caption="a thing stays still"),
}


def clip_scene(motion: str) -> PathScene:
    """Return the scene of a motion's clip."""
    return PathScene(*CLIP, motion, reach=REACH)


def frame_times(config: Config, stage: Stage) -> np.ndarray:
    """Return the seconds of the frames of a stage's result."""
    if stage == "keyframes":
        return np.arange(config.keyframes.num_frames) / config.output.keyframes_fps
    return np.arange(config.num_frames) / config.output.fps


def prompts(count: int) -> list[Prompt]:
    """Return colours and shapes, without the clip's own, in a shuffled order that repeats."""
    others = [pair for pair in product(COLORS, SHAPES) if pair != CLIP]
    order = np.random.default_rng(0).permutation(len(others))
    return [others[order[number % len(others)]] for number in range(count)]


def folder_name(name: str) -> str:
    """Return the folder of a variant, without commas, which separate adapters."""
    return name.replace(",", "").replace(" ", "_")


def customise(motion: str, name: str, folder: Path, config: Config) -> dict[str, float]:
    """Train a variant, unless that is done; return minutes, GB and MB.

    Raises:
        UserError: training failed.
    """
    record = folder / "training.json"
    if record.exists():
        return dict(json.loads(record.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    variant, clip = VARIANTS[name], folder / "clip.mp4"
    write_mp4(clip, clip_scene(motion).render(frame_times(config, STAGES[-1]), *CLIP_SIZE), config.output.fps)
    settings = (f"train.data.path={clip}", f"train.data.caption={variant.caption}", *variant.overrides)
    command = [sys.executable, "train.py", "--config", "configs/customise.py", "--workdir", str(folder / "run")]
    start = time.monotonic()
    training = subprocess.Popen([*command, *(f"--config.{setting}" for setting in settings)], cwd=ROOT)
    _, status, usage = os.wait4(training.pid, 0)  # unlike RUSAGE_CHILDREN, without the trainings before
    if status:
        raise UserError(f"training of {motion}, {name} failed; see above")
    weights = max((folder / "run" / "checkpoints").glob("*/keyframes"))
    measured = {
        "minutes": (time.monotonic() - start) / 60,
        "gb": usage.ru_maxrss * 1024 / 1e9,
        "mb": sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) / 1e6,
    }
    write_bytes(record, json.dumps(measured).encode())
    return measured


def open_cascade(run: Path, name: str, config: Config) -> Cascade:
    """Return the demo's cascade with a trained variant."""
    trained = VARIANTS[VARIANTS[name].trained_as or name]
    if "train.keyframes.trainable=all" in trained.overrides:
        return Cascade.load(f"{config.checkpoint},{run}", config)
    return Cascade.load(config.checkpoint, config, adapters=str(run))


def sample(cascade: Cascade, variant: Variant, motion: str, wanted: Sequence[Prompt], first: int, last: Stage) -> Any:
    """Return the videos of a batch by stage; seeds are `first` and following."""
    config = cascade.spec.config
    start: dict[str, Any] = {}
    if variant.inverted:
        times = np.arange(config.keyframes.num_frames) / 2
        clip = from_uint8(clip_scene(motion).render(times, *config.keyframes.size))
        start = {
            "edit": VideoEdit("keyframes", inversion_steps=DEFAULT_INVERSION_STEPS),
            "video": np.stack([clip] * len(wanted)),
        }
    texts = [SENTENCE.format(*pair) for pair in wanted]
    return cascade.sample(texts, range(first, first + len(wanted)), stages=STAGES[: STAGES.index(last) + 1], **start)


def verdicts(videos: HostVideo, wanted: Sequence[Prompt], motion: str, times: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the measured result of each video."""
    for video, (color, shape) in zip(to_uint8(videos), wanted, strict=True):
        intended = clip_scene(motion).path(times, *video.shape[1:3])[:, :2]
        verdict = judge_motion(measure(video), color, shape, intended)
        yield {
            "prompt": SENTENCE.format(color, shape),
            "follows": verdict.follows,
            "color": verdict.color,
            "shape": verdict.shape,
            "correlation": verdict.correlation,
        }


def measure_variant(motion: str, name: str, folder: Path, config: Config, parsed: argparse.Namespace) -> str:
    """Train, sample and measure a variant, as far as it is not done, and return its line of the table."""
    variant = VARIANTS[name]
    trained = variant.trained_as or name
    cost = customise(motion, trained, folder / folder_name(trained), config)
    own = folder / folder_name(name)
    own.mkdir(parents=True, exist_ok=True)
    results = own / f"{parsed.last_stage}.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    wanted = prompts(parsed.num_videos)
    if len(done) < len(wanted):
        cascade = open_cascade(folder / folder_name(trained) / "run", name, config)
        times = frame_times(config, parsed.last_stage)
        while len(done) < len(wanted):
            batch = list(islice(wanted, len(done), len(done) + parsed.batch_size))
            videos = sample(cascade, variant, motion, batch, len(done), parsed.last_stage)[parsed.last_stage]
            new = list(verdicts(videos, batch, motion, times))
            rows = {one["prompt"]: frames for one, frames in zip(new, to_uint8(videos), strict=True)}
            contact_sheet(own / f"{parsed.last_stage}_{len(done)}.png", rows, f"{motion}, {name}")
            done += new
            write_bytes(results, "".join(f"{json.dumps(one)}\n" for one in done).encode())
    done = done[: len(wanted)]
    names = ("follows", "color", "shape")
    rights = [[one[name] for name in names] for one in done]
    shares = [*np.mean(rights, axis=0), np.mean(np.all(rights, axis=1))]
    numbers = (f"{cost['minutes']:.1f}", f"{cost['gb']:.1f}", f"{cost['mb']:.1f}")
    return table.row(motion, name, str(len(done)), *(f"{100 * share:.0f} %" for share in shares), *numbers)


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.customise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = number_between(1, 1_000_000)
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="folder of runs and results")
    parser.add_argument("--motions", nargs="+", choices=PATHS, default=list(PATHS), help="motions to learn (all)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants (all)")
    parser.add_argument("--num_videos", type=count, default=48, metavar="N", help="videos of each (48)")
    parser.add_argument("--batch_size", type=count, default=12, metavar="N", help="videos sampled together (12)")
    parser.add_argument(
        "--last_stage", choices=STAGES, default=STAGES[-1], help=f"stage whose videos are measured ({STAGES[-1]})"
    )
    parsed = parser.parse_args(arguments)
    config = load_config(ROOT / "configs/demo.py")
    enable_compilation_cache(config.compilation_cache)
    print(f"{describe_machine()}, {describe_commit()}; correlation at least {MIN_CORRELATION}, {parsed.last_stage}")
    print(table.head(HEADER), flush=True)
    for name in parsed.variants:
        for motion in parsed.motions:
            print(measure_variant(motion, name, parsed.out / motion, config, parsed), flush=True)


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.customise", lambda: _main(sys.argv[1:])))
