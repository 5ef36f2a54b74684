"""The videos of folders: which there are, in which order, and what is said of everything else."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.errors import UserError
from show1_jax.evaluation.videos.clips import ClipRule, read_clips
from show1_jax.evaluation.videos.listing import list_videos
from show1_jax.media.frames import to_uint8
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.sampling.run_record import Record
from tests.helpers.media_files import encode, number_of, numbered


def frames_of(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(numbered(count, 8, 8)):
        Image.fromarray(frame).save(folder / f"frame{index}.png")
    return folder


def run_of(folder: Path, prompt: str | None, *stages: str) -> RunDirectory:
    """Write a run directory whose stages have 5, 6, 7 ... frames."""
    run = RunDirectory(folder)
    for number, stage in enumerate(stages):
        values = np.full((5 + number, 4, 6, 3), 0.3, np.float32)
        run.write_stage(stage, values, fps=8)  # type: ignore[arg-type]
    if prompt is not None:
        record = Record({"prompt": prompt, "config": {}}, tuple(stages), {})  # type: ignore[arg-type]
        (folder / "run.json").write_bytes(record.to_bytes())
    return run


def test_all_kinds_of_videos_are_found_in_natural_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    encode(tmp_path / "clip10.mp4", numbered(3))
    encode(tmp_path / "clip9.gif", numbered(3), "gif", "rgb8")
    encode(tmp_path / "b/clip2.webm", numbered(3), "libvpx")
    np.save(tmp_path / "values.npy", np.zeros((4, 8, 8, 3), np.float32))
    frames_of(tmp_path / "frames")
    listing = list_videos(tmp_path)
    names = [video.name for video in listing.videos]
    assert names == ["b/clip2.webm", "clip9.gif", "clip10.mp4", "frames", "values.npy"]
    lengths = [len(read_clips(video.frames, ClipRule(None), video.name)[0]) for video in listing.videos]
    assert lengths == [3, 3, 3, 3, 4]
    assert not listing.unreadable


def test_other_files_are_counted_and_other_videos_are_named(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", numbered(3))
    for name in ("a.txt", "b.jpg", "notes", ".hidden.mp4"):
        (tmp_path / name).write_text("a fox")
    (tmp_path / "c.wmv").write_text("")
    listing = list_videos(tmp_path)
    assert [(video.name, video.caption) for video in listing.videos] == [("a.mp4", "a fox")]
    assert listing.ignored == {".txt": 1, ".jpg": 1, "no suffix": 1}
    assert list(listing.unreadable) == ["c.wmv"]


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    for name in ("a.mp4", "closed/b.mp4"):
        encode(tmp_path / name, numbered(3))
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:  # permissions do not bind a test that runs as root
        if path.name == "b.mp4":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    listing = list_videos(tmp_path)
    assert [video.name for video in listing.videos] == ["a.mp4"]
    assert listing.unreadable == {"closed": "the folder cannot be read (Permission denied)"}


def test_a_text_that_is_no_caption_does_not_make_its_video_unreadable(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", numbered(3))
    (tmp_path / "a.txt").write_bytes("caf\u00e9".encode("latin-1"))
    listing = list_videos(tmp_path)
    assert [(video.name, video.caption) for video in listing.videos] == [("a.mp4", None)]
    assert not listing.unreadable


def test_a_run_directory_is_the_exact_result_of_its_last_stage(tmp_path: Path) -> None:
    first = run_of(tmp_path / "first", "a fox", "keyframes", "superres_latent")
    second = run_of(tmp_path / "second", "a bear", "keyframes", "superres_latent")
    second.stage_file("superres_latent").unlink()
    (tmp_path / "sheet").mkdir()
    listing = list_videos(tmp_path)
    assert [(video.name, video.caption) for video in listing.videos] == [("first", "a fox"), ("second", "a bear")]
    assert [video.files[0].suffix for video in listing.videos] == [".safetensors", ".mp4"]
    (clip,) = read_clips(listing.videos[0].frames, ClipRule(None), "first")
    assert np.array_equal(clip, to_uint8(first.load("superres_latent")))
    assert listing.videos[0].frames.rate() == 8


def test_another_stage_can_be_chosen_and_runs_without_it_are_named(tmp_path: Path) -> None:
    run_of(tmp_path / "whole", "a fox", "keyframes", "interpolation")
    run_of(tmp_path / "begun", None, "keyframes")
    listing = list_videos(tmp_path)
    assert [video.name for video in listing.videos] == ["whole"]
    assert listing.unreadable == {"begun": "its stage interpolation is not sampled yet"}
    assert [video.name for video in list_videos(tmp_path, "keyframes").videos] == ["begun", "whole"]
    assert set(list_videos(tmp_path, "first_frame").unreadable) == {"begun", "whole"}


def test_a_file_and_a_run_directory_alone_are_one_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", numbered(3))
    assert [video.name for video in list_videos(path).videos] == ["a.mp4"]
    run_of(tmp_path / "run", "a fox", "keyframes")
    assert [video.caption for video in list_videos(tmp_path / "run").videos] == ["a fox"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    encode(tmp_path / "other.mp4", numbered(3))
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(tmp_path / "other.mp4")
    (folder / "again").symlink_to(folder)
    assert [video.name for video in list_videos(folder).videos] == ["a.mp4"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no videos"),
        (["a.txt"], "has no videos"),
        (["a.mp4", "a.gif"], "has the name of"),
    ],
)
def test_folders_without_videos_or_with_two_of_a_name_are_refused(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        list_videos(tmp_path)


def test_paths_that_are_no_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        list_videos(tmp_path / "missing")
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(UserError, match="is no video"):
        list_videos(tmp_path / "a.doc")


@settings(max_examples=30)
@given(numbers=st.sets(st.integers(0, 10**6), min_size=1, max_size=30))
def test_numbered_names_are_in_the_order_of_their_numbers(
    numbers: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("videos")
    for number in numbers:
        (folder / f"video{number}.mp4").touch()
    assert [video.name for video in list_videos(folder).videos] == [f"video{n}.mp4" for n in sorted(numbers)]


def test_frames_of_an_image_folder_are_in_natural_order(tmp_path: Path) -> None:
    (video,) = list_videos(frames_of(tmp_path / "a", 12)).videos
    (clip,) = read_clips(video.frames, ClipRule(None), video.name)
    assert [number_of(frame) for frame in clip] == list(range(12))
