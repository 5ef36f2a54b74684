"""Extraction holds a few batches, whatever the videos are like."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import Array

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.errors import UserError
from show1_jax.evaluation import extraction
from show1_jax.evaluation.extraction import ExtractionOptions, Extractor, extract
from show1_jax.evaluation.feature_files import VIDEOS_PER_SHARD
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.report import versions
from show1_jax.evaluation.videos.clips import ClipRule
from show1_jax.evaluation.videos.video_set import VideoSet, open_videos
from tests.helpers import tiny_features

WHOLE = ClipRule(None)


@pytest.fixture
def extractor(tmp_path: Path) -> Iterator[Extractor]:
    tiny_features.write_weights(tmp_path / "weights")
    with tiny_features.installed():
        yield Extractor(FEATURE_NETWORKS["tiny_video"], CheckpointSet.open(str(tmp_path / "weights")), {})


def videos_of_lengths(folder: Path, lengths: list[int]) -> VideoSet:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        np.save(folder / f"v{number}.npy", draw.integers(0, 256, (length, 4, 4, 3), np.uint8))
    return open_videos(folder)


def test_whole_videos_of_alternating_lengths_do_not_pile_up(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, saved = 0, 0, 0
    compute, values = extractor.compute, extractor.values

    def counted_compute(*arguments: Any) -> Array:
        nonlocal running, most, saved
        running += 1
        most = max(most, running)
        saved = len([*(tmp_path / "features").rglob("*.safetensors")])
        return compute(*arguments)

    def counted_values(features: Array) -> np.ndarray:
        nonlocal running
        running -= 1
        return values(features)

    monkeypatch.setattr(extractor, "compute", counted_compute)
    monkeypatch.setattr(extractor, "values", counted_values)
    videos = videos_of_lengths(tmp_path / "videos", [2, 3] * VIDEOS_PER_SHARD)
    files = extract(videos, WHOLE, extractor, tmp_path / "features", "videos", ExtractionOptions(batch_size=4))
    assert most <= 2
    assert saved == 1  # the first shard is on the disk before the last batch starts
    assert [len(shard.clips) for shard in files.read()] == [VIDEOS_PER_SHARD, VIDEOS_PER_SHARD]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, os.strerror(errno.EIO))])
def test_a_failure_of_the_machine_is_not_saved_as_one_of_the_video(
    error: Exception, extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = videos_of_lengths(tmp_path / "videos", [2] * 3)
    options = ExtractionOptions(max_unreadable=1.0)

    def fail(*arguments: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "read_clips", fail)
        with pytest.raises(UserError, match=r"v0\.npy cannot be read now \(.+\); run the command again"):
            extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options)
    files = extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options)
    assert [(len(shard.clips), shard.unreadable) for shard in files.read()] == [(3, {})]


def test_too_little_memory_for_a_batch_is_one_line(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(extraction, "network_program", lambda *arguments: fail)
    videos = videos_of_lengths(tmp_path / "videos", [2])
    with pytest.raises(UserError, match="use a smaller --batch_size"):
        extract(videos, WHOLE, extractor, tmp_path / "features", "videos", ExtractionOptions())


def test_features_of_another_version_are_not_used(
    extractor: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = videos_of_lengths(tmp_path / "videos", [2])
    options = ExtractionOptions()
    first = extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options)
    assert extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options).folder == first.folder
    found = versions()
    monkeypatch.setattr(extraction, "versions", lambda: found | {"pillow": "0.1"})
    assert extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options).folder != first.folder


@pytest.mark.parametrize("size", [3 * 4 * 4 * 3, 5])
def test_a_video_that_changes_after_it_was_hashed_is_not_saved(size: int, extractor: Extractor, tmp_path: Path) -> None:
    """Also if another program has written only a part of it."""
    videos = videos_of_lengths(tmp_path / "videos", [2] * 3)
    path = tmp_path / "videos" / "v1.npy"
    np.save(path, np.zeros((3, 4, 4, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: 128 + size])
    options = ExtractionOptions(max_unreadable=1.0)
    with pytest.raises(UserError, match=r"v1\.npy was changed while it was scored; run the command again"):
        extract(videos, WHOLE, extractor, tmp_path / "features", "videos", options)
    assert not [*(tmp_path / "features").rglob("*.safetensors")]
