"""The parts of the customisation benchmark that need no network: prompts, the measured table, and resuming."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import customise
from show1_jax.cli import load_config
from show1_jax.data.synthetic.paths import PATHS, PathScene
from show1_jax.media.frames import from_uint8

CONFIG = load_config(customise.ROOT / "configs/demo.py")


def test_prompts_are_all_other_colours_and_shapes() -> None:
    pairs = customise.prompts(34)
    assert len(set(pairs[:17])) == 17
    assert customise.CLIP not in pairs
    assert pairs[:17] == pairs[17:]
    assert customise.prompts(5) == pairs[:5]


def test_finished_work_is_kept_and_the_rest_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A "network" that renders the motion for squares, and a straight line for the others, is measured as such."""
    seeds: list[int] = []

    def sample(cascade: Any, variant: Any, motion: str, wanted: Any, first: int, last: str) -> dict[str, Any]:
        seeds.append(first)
        times = customise.frame_times(CONFIG, "interpolation")
        scenes = [PathScene(c, s, motion if s == "square" else "bounces", reach=0.6) for c, s in wanted]
        return {last: np.stack([from_uint8(scene.render(times, 40, 64)) for scene in scenes])}

    monkeypatch.setattr(customise, "sample", sample)
    monkeypatch.setattr(customise, "open_cascade", lambda *arguments: None)
    monkeypatch.setattr(customise, "customise", lambda *arguments: {"minutes": 1.26, "gb": 0.5, "mb": 1.9})
    parsed = argparse.Namespace(num_videos=4, batch_size=3, last_stage="interpolation")
    line = customise.measure_variant("loops", "recipe", tmp_path, CONFIG, parsed)
    squares = 25 * sum(shape == "square" for _, shape in customise.prompts(4))
    expected = f"| loops | recipe | 4 | {squares} % | 100 % | 100 % | {squares} % | 1.3 | 0.5 | 1.9 |"
    assert (line, seeds) == (expected, [0, 3])
    assert customise.measure_variant("loops", "recipe", tmp_path, CONFIG, parsed) == line
    assert seeds == [0, 3]
    results = tmp_path / "recipe" / "interpolation.jsonl"
    results.write_text("".join(f"{line}\n" for line in results.read_text().splitlines()[:3]))
    assert customise.measure_variant("loops", "recipe", tmp_path, CONFIG, parsed) == line
    assert seeds == [0, 3, 3]
    assert [json.loads(line)["prompt"] for line in results.read_text().splitlines()] == [
        customise.SENTENCE.format(*pair) for pair in customise.prompts(4)
    ]


def test_clips_show_their_motions() -> None:
    for motion in PATHS:
        scene = customise.clip_scene(motion)
        clip = scene.render(customise.frame_times(CONFIG, "superres_latent"), *customise.CLIP_SIZE)
        videos = from_uint8(clip)[None]
        times = customise.frame_times(CONFIG, "superres_latent")
        (verdict,) = customise.verdicts(videos, [customise.CLIP], motion, times)
        assert verdict["follows"]
        assert verdict["color"]
        assert verdict["shape"]
