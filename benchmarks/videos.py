"""Videos that benchmarks sample and compare."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Final

import numpy as np

from show1_jax.cascade.cascade import Cascade, HostVideo
from show1_jax.config.sampling import Stage
from show1_jax.media.frames import to_uint8
from show1_jax.sampling.progress import StageBars

PROMPTS: Final = (
    "a red circle moves right",
    "a large blue square grows",
    "a green triangle moves down on a gray background",
    "a small yellow circle stays still on a navy background",
)


def sample(
    cascade: Cascade,
    prompts: Sequence[str],
    stages: Sequence[Stage],
    given: Mapping[Stage, HostVideo] | None = None,
    seeds: Sequence[int] = (),
) -> tuple[dict[Stage, HostVideo], dict[str, float]]:
    """Sample the prompts, by default with seeds 0, 1, ...; show a progress bar for each stage.

    Returns:
        The videos by stage; and the seconds by stage, with those of the whole call as `all`.
    """
    with closing(StageBars(stages)) as bars:
        start = time.perf_counter()
        videos = cascade.sample(
            prompts,
            seeds or range(len(prompts)),
            stages=stages,
            given=given,
            on_step=bars.step,
            on_stage=lambda stage, _: bars.finish(stage),
        )
        total = time.perf_counter() - start
    return videos, {**{stage: bars.times[0][stage]["seconds"] for stage in stages}, "all": total}


def psnr(video: HostVideo, reference: HostVideo) -> float:
    """Return the PSNR of 8-bit frames, in decibels."""
    error = to_uint8(video).astype(np.float64) - to_uint8(reference)
    return float(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-12)))


def worst_psnr(videos: HostVideo, references: HostVideo) -> float:
    """Return the PSNR of the video that is farthest from its reference, in decibels."""
    return min(map(psnr, videos, references))


def psnr_cell(videos: HostVideo, references: HostVideo) -> str:
    """Return the PSNR over all videos, and of the worst one, as a cell of a table."""
    return f"{psnr(videos, references):.1f} dB, {worst_psnr(videos, references):.1f} dB"
