"""Sets of videos: the choice of some, hashes, unreadable files and frame rates."""

from pathlib import Path

import numpy as np
import pytest

from show1_jax.data.building import builder
from show1_jax.errors import UserError
from show1_jax.evaluation.videos.clips import ClipRule, read_clips
from show1_jax.evaluation.videos.video_set import check_frame_rates, open_videos, rate_warnings
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers.media_files import encode, number_of, numbered


def folder_of(folder: Path, count: int, fps: int = 10, first: int = 0) -> Path:
    folder.mkdir()
    for number in range(first, first + count):
        encode(folder / f"v{number}.mp4", numbered(3 + number % 4), fps=fps)
        (folder / f"v{number}.txt").write_text(f"video {number}")
    return folder


def test_unreadable_files_are_named_with_the_reason(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 3)
    (folder / "v1.mp4").write_bytes((folder / "v1.mp4").read_bytes()[:100])
    (folder / "v7.mp4").write_bytes(b"")
    found = open_videos(folder)
    assert [video.name for video in found.videos] == ["v0.mp4", "v2.mp4"]
    assert set(found.unreadable) == {"v1.mp4", "v7.mp4"}
    assert all(found.unreadable.values())
    assert found.describe()["videos found"] == 4
    assert found.rates == {"10": 2}


def test_some_videos_are_drawn_with_a_seed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 12)

    def names(seed: int, most: int) -> list[str]:
        found = open_videos(folder, max_videos=most, seed=seed, needs_captions=True)
        drawn = [video.name for video in found.videos]
        assert [f"video {name[1:-4]}" for name in drawn] == list(found.captions)
        return drawn

    assert names(0, 4) == names(0, 4) != names(1, 4)
    assert len(set(names(0, 4))) == 4
    assert names(0, 4) == sorted(names(0, 4), key=lambda name: int(name[1:-4]))
    assert names(0, 12) == names(3, 40) == [f"v{number}.mp4" for number in range(12)]


def test_videos_of_other_formats_are_drawn_like_the_others(tmp_path: Path) -> None:
    """Otherwise few of them in a large folder would be a large share of a small draw."""
    folder = folder_of(tmp_path / "a", 6)
    for number in range(3):
        (folder / f"w{number}.wmv").write_bytes(b"x")
    draws = [open_videos(folder, max_videos=4, seed=seed) for seed in range(6)]
    assert all(len(found.videos) + len(found.unreadable) == found.describe()["videos chosen"] == 4 for found in draws)
    assert len({len(found.unreadable) for found in draws}) > 1
    assert len(open_videos(folder).unreadable) == 3


def test_the_hash_depends_on_names_and_content_alone(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a", 3), folder_of(tmp_path / "b", 3)
    digest = open_videos(first).digest
    assert open_videos(second).digest == digest
    assert open_videos(first, max_videos=2).digest != digest
    encode(second / "v0.mp4", numbered(5))
    assert open_videos(second).digest != digest
    (first / "v0.mp4").rename(first / "w0.mp4")
    assert open_videos(first).digest != digest


def test_the_hash_depends_on_the_frame_rate_of_exact_floats(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.write_stage("keyframes", np.full((5, 4, 6, 3), 0.3, np.float32), fps=8)
    digest = open_videos(tmp_path).digest
    run.stage_file("keyframes", ".mp4").unlink()  # it states the rate that --fps resamples by
    assert open_videos(tmp_path).digest != digest


def test_different_frame_rates_are_refused(tmp_path: Path) -> None:
    slow, fast = (open_videos(folder_of(tmp_path / str(fps), 2, fps)) for fps in (8, 25))
    with pytest.raises(UserError, match=r"--videos have 8 frames a second, --reference 25.*--fps 8"):
        check_frame_rates(slow, fast)
    check_frame_rates(fast, fast)


def test_one_set_of_different_frame_rates_is_a_warning(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 2, 8)
    assert rate_warnings("--videos", open_videos(folder)) == []
    encode(folder / "other.mp4", numbered(3), fps=24)
    (warning,) = rate_warnings("--videos", open_videos(folder))
    assert warning == "--videos has videos of 8 to 24 frames a second; --fps resamples them"


def test_a_dataset_has_its_videos_captions_and_rates(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 6)
    builder.build(folder, tmp_path / "dataset", min_seconds=0.1)
    found = open_videos(tmp_path / "dataset", needs_captions=True)
    assert sorted(found.captions) == [f"video {number}" for number in range(6)]
    assert found.rates == {"10": 6}
    for video, caption in zip(found.videos, found.captions, strict=True):
        (clip,) = read_clips(video.frames, ClipRule(None), video.name)
        assert [number_of(frame) for frame in clip] == list(range(3 + int(caption.split()[1]) % 4))
        assert video.label() == f"v{caption.split()[1]}"
