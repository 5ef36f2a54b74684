"""Saved features: whole shards, damage, and settings that are never mixed."""

from pathlib import Path

import numpy as np
import pytest

from show1_jax.errors import FileError
from show1_jax.evaluation.feature_files import VIDEOS_PER_SHARD, FeatureFiles, Shard

COUNT = 2 * VIDEOS_PER_SHARD + 3


def shard(seed: int) -> Shard:
    draw = np.random.default_rng(seed)
    clips = [draw.normal(size=(rows, 5)).astype(np.float32) for rows in (1, 4, 2)]
    return Shard(clips, {f"video {seed}": "it is damaged"})


@pytest.fixture
def files(tmp_path: Path) -> FeatureFiles:
    made = FeatureFiles.of(tmp_path, {"a": 1}, COUNT)
    made.write_settings()
    for number in made.shards:
        made.write(number, shard(number))
    return made


def test_shards_are_read_as_they_were_written(files: FeatureFiles) -> None:
    assert [len(files.videos_of(number)) for number in files.shards] == [VIDEOS_PER_SHARD, VIDEOS_PER_SHARD, 3]
    for number, found in enumerate(files.read()):
        assert found.unreadable == shard(number).unreadable
        assert all(map(np.array_equal, found.clips, shard(number).clips))
    assert files.missing() == []
    assert files.num_clips() == 3 * len(files.shards)


def test_a_shard_without_clips_is_no_error(files: FeatureFiles) -> None:
    files.write(1, Shard([], {"b": "no"}))
    assert [len(found.clips) for found in files.read()] == [3, 0, 3]
    assert files.num_clips() == 6


@pytest.mark.parametrize("damage", ["removed", "cut", "changed", "another file"])
def test_missing_and_damaged_shards_are_computed_again(damage: str, files: FeatureFiles) -> None:
    path = files.folder / "features_00001.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "changed":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"{}")
    assert files.missing() == [1]
    with pytest.raises(FileError, match=r"features_00001\.safetensors: missing or damaged"):
        list(files.read())
    if damage != "changed":  # only the heads are read
        with pytest.raises(FileError, match=r"features_00001\.safetensors: missing or damaged"):
            files.num_clips()


def test_other_settings_have_another_folder(tmp_path: Path) -> None:
    folders = {FeatureFiles.of(tmp_path, settings, 3).folder for settings in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"})}
    assert len(folders) == 4
    assert (
        FeatureFiles.of(tmp_path, {"a": 1, "b": 2}, 3).folder == FeatureFiles.of(tmp_path, {"b": 2, "a": 1}, 3).folder
    )
