"""The dry run of a protocol: its videos, the hours to sample them on some hosts, and the bytes that they fill."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from show1_jax.cascade.stages import PIXEL_CHANNELS, STAGE_TABLE
from show1_jax.config.config_file import Config
from show1_jax.evaluation.protocols.protocol import Plan, Protocol

SECONDS_PER_VIDEO: Final = 90.0
"""Measured on one NVIDIA H200 with the released settings, after the first video: benchmarks/README.md."""
_FLOAT_BYTES: Final = 4
_VIEWABLE_BYTES: Final = 2
"""Bytes of the files for viewing for each pixel of a frame, about: mp4 and GIF take 2.3 for noise, 1 for smooth frames.
"""


def describe_cost(
    protocol: Protocol, plan: Plan, config: Config, data: Path, seconds_per_video: float | None, hosts: int
) -> Iterator[str]:
    """Yield the lines of a dry run.

    Args:
        protocol: the protocol with its settings.
        plan: the plan that they give for a copy of the dataset.
        config: the settings that the videos are sampled with.
        data: folder of the dataset.
        seconds_per_video: time to sample a video on one host; None: `SECONDS_PER_VIDEO`, with its source.
        hosts: number of hosts, each of which samples a shard.
    """
    videos = plan.videos
    yield f"{protocol.name} ({protocol.table} of the paper): {len(videos):,} videos to sample"
    for metric, part in plan.sets.items():
        line = f"  {metric}: {len(part.videos):,} videos"
        if part.references:
            size = sum((data / name).stat().st_size for name in part.references)
            line += f", compared with {len(part.references):,} of {protocol.dataset} ({_bytes_text(size)})"
        yield line
    seconds = SECONDS_PER_VIDEO if seconds_per_video is None else seconds_per_video
    source = " (released settings on one NVIDIA H200, benchmarks/README.md)" if seconds_per_video is None else ""
    share = -(-len(videos) // hosts)
    yield f"time: {len(videos) * seconds / 3600:,.1f} hours on one host at {seconds:g} s a video{source}"
    if hosts > 1:
        hours = share * seconds / 3600
        yield f"  on {hosts} hosts: {hours:,.1f} hours, at most {share:,} videos on each (--shard I/{hosts})"
    floats, viewable = video_bytes(config)
    total = len(videos) * (floats + viewable)
    yield (
        f"disk: about {_bytes_text(total)}: a video has {_bytes_text(floats)} of exact floats in all stages, and about "
        f"{_bytes_text(viewable)} of files for viewing"
    )
    yield from (f"note: {note}" for note in plan.notes)


def video_bytes(config: Config) -> tuple[int, int]:
    """Return the bytes of a sampled video's files: the exact floats of all stages; the files for viewing, about."""
    pixels = 0
    for spec in STAGE_TABLE.values():
        height, width = spec.size(config, config.keyframes.size)
        pixels += spec.num_frames(config) * height * width
    return pixels * PIXEL_CHANNELS * _FLOAT_BYTES, pixels * _VIEWABLE_BYTES


def _bytes_text(size: int) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.2f} {unit}"
    return f"{size / 1e3:,.1f} kB"
