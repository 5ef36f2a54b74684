"""The sampled videos of a plan must all be there, finished, and made alike."""

from pathlib import Path

import pytest

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.samples import find_samples
from tests.helpers.tiny_datasets import write_sampled

VIDEOS = [Prompt(f"a {name}", seed=seed) for seed, name in enumerate(["cat", "dog", "fox"])]


def test_all_are_found(tmp_path: Path) -> None:
    paths = {video: write_sampled(tmp_path, video).path for video in VIDEOS}
    found = find_samples(tmp_path, VIDEOS)
    assert found.folders == paths
    assert find_samples(tmp_path, VIDEOS[:1]).folders == {VIDEOS[0]: paths[VIDEOS[0]]}
    settings = found.settings()
    assert (settings["checkpoint.superres_latent"], settings["precision"]) == ("0", "float32")
    assert settings["config.superres_latent.width"] == 576
    assert not [name for name in settings if name in ("prompt", "seed") or name.startswith("config.train")]


def test_missing_videos_are_counted_with_the_command_that_makes_them(tmp_path: Path) -> None:
    write_sampled(tmp_path, VIDEOS[0])
    unfinished = write_sampled(tmp_path, VIDEOS[1])
    (unfinished.path / "run.json").unlink()
    with pytest.raises(UserError) as refused:
        find_samples(tmp_path, VIDEOS)
    assert str(refused.value) == (
        f"2 of 3 videos are missing or unfinished in {tmp_path}, first {unfinished.path.name}; make them: python "
        f"sample.py --config full --prompts {tmp_path}/prompts.jsonl --out {tmp_path} --overwrite"
    )


def test_videos_of_other_settings_or_weights_are_refused(tmp_path: Path) -> None:
    small = Config()
    write_sampled(tmp_path, VIDEOS[0])
    write_sampled(tmp_path, VIDEOS[1], weights="1")
    with pytest.raises(UserError, match=r"were sampled with another checkpoint\.superres_latent; sample all with the"):
        find_samples(tmp_path, VIDEOS[:2])
    small = Config.from_dict(small.to_dict() | {"superres_latent": small.to_dict()["superres_latent"] | {"width": 64}})
    write_sampled(tmp_path, VIDEOS[1], small)
    with pytest.raises(UserError, match=r"another config\.superres_latent\.width"):
        find_samples(tmp_path, VIDEOS[:2])


def test_damaged_records(tmp_path: Path) -> None:
    run = write_sampled(tmp_path, VIDEOS[0])
    (run.path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json: not valid JSON"):
        find_samples(tmp_path, VIDEOS[:1])
