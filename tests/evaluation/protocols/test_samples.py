"""The sampled videos of a plan must all be there, finished, and made alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.samples import find_samples
from show1_jax.sampling.run_directory import RunDirectory, describe_request
from show1_jax.sampling.run_record import Record

VIDEOS = [Prompt(f"a {name}", seed=seed) for seed, name in enumerate(["cat", "dog", "fox"])]


def write_video(out: Path, video: Prompt, config: Config | None = None, weights: str = "0") -> RunDirectory:
    """Write the last stage of a video with its record, as sample.py does."""
    run = RunDirectory.of(out, video)
    checkpoint: Mapping[str, str] = {"superres_latent": weights}
    request: dict[str, Any] = describe_request(config or Config(), video, precision="float32", checkpoint=checkpoint)
    run.write_stage(STAGES[-1], np.full((16, 8, 12, 3), 0.1 * (video.seed or 0), np.float32), 8)
    run.finish(video.text, Record(request, STAGES, {}))
    return run


def test_all_are_found(tmp_path: Path) -> None:
    paths = {video: write_video(tmp_path, video).path for video in VIDEOS}
    assert find_samples(tmp_path, VIDEOS) == paths
    assert find_samples(tmp_path, VIDEOS[:1]) == {VIDEOS[0]: paths[VIDEOS[0]]}


def test_missing_videos_are_counted_with_the_command_that_makes_them(tmp_path: Path) -> None:
    write_video(tmp_path, VIDEOS[0])
    unfinished = write_video(tmp_path, VIDEOS[1])
    (unfinished.path / "run.json").unlink()
    with pytest.raises(UserError) as refused:
        find_samples(tmp_path, VIDEOS)
    assert str(refused.value) == (
        f"2 of 3 videos are missing or unfinished in {tmp_path}, first {unfinished.path.name}; make them: python "
        f"sample.py --config configs/full.py --prompts {tmp_path}/prompts.jsonl --out {tmp_path} --overwrite"
    )


def test_videos_of_other_settings_or_weights_are_refused(tmp_path: Path) -> None:
    small = Config()
    write_video(tmp_path, VIDEOS[0])
    write_video(tmp_path, VIDEOS[1], weights="1")
    with pytest.raises(UserError, match=r"were sampled with another checkpoint\.superres_latent; sample all with the"):
        find_samples(tmp_path, VIDEOS[:2])
    small = Config.from_dict(small.to_dict() | {"superres_latent": small.to_dict()["superres_latent"] | {"width": 64}})
    write_video(tmp_path, VIDEOS[1], small)
    with pytest.raises(UserError, match=r"another config\.superres_latent\.width"):
        find_samples(tmp_path, VIDEOS[:2])


def test_damaged_records(tmp_path: Path) -> None:
    run = write_video(tmp_path, VIDEOS[0])
    (run.path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: not valid JSON"):
        find_samples(tmp_path, VIDEOS[:1])
