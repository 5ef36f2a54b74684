"""The dry run: videos, hours and bytes."""

from pathlib import Path

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.config_file import Config
from show1_jax.evaluation.protocols.cost import describe_cost, video_bytes
from show1_jax.evaluation.protocols.msrvtt import Msrvtt
from show1_jax.evaluation.protocols.protocol import Plan, VideoSet

VIDEOS = tuple(Prompt("a cat", seed=seed) for seed in range(100))


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(2_000_000))
    plan = Plan({"fvd": VideoSet(VIDEOS[:2], ("a.mp4", "a.mp4")), "clipsim": VideoSet(VIDEOS)}, ("few",))
    assert list(describe_cost(Msrvtt(), plan, Config(), tmp_path, 72.0, 16)) == [
        "msrvtt (Table 2 of the paper): 100 videos to sample",
        "  fvd: 2 videos, compared with 2 of MSR-VTT (4.00 MB)",
        "  clipsim: 100 videos",
        "time: 2.0 hours on one host at 72 s a video",
        "  on 16 hosts: 0.1 hours, at most 7 videos on each (--shard I/16)",
        "disk: about 9.34 GB: a video has 80.03 MB of exact floats in all stages, and about 13.34 MB of files for "
        "viewing",
        "note: few",
    ]
    measured = list(describe_cost(Msrvtt(), plan, Config(), tmp_path, None, 1))
    source = "released settings on one NVIDIA H200, benchmarks/README.md"
    assert f"time: 2.5 hours on one host at 90 s a video ({source})" in measured


def test_bytes_of_the_released_sizes() -> None:
    pixels = 8 * 64 * 40 + 29 * 64 * 40 + 256 * 160 + 29 * 256 * 160 + 29 * 576 * 320
    assert video_bytes(Config()) == (pixels * 12, pixels * 2)
