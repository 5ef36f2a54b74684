"""Lists of videos in a text file: a path of a video, a folder of images or a run directory on each line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from show1_jax.cascade.prompts import Prompt
from show1_jax.errors import UserError
from show1_jax.evaluation.videos.listing import list_videos
from show1_jax.media.write import write_mp4
from tests.helpers.media_files import moving_square
from tests.helpers.tiny_datasets import write_sampled


def test_listed_videos_alone_are_found(tmp_path: Path) -> None:
    for name in ("a/one.mp4", "a/two.mp4", "b/three.mp4"):
        write_mp4(tmp_path / "videos" / name, moving_square(3, 16, 16), 8)
    images = tmp_path / "videos" / "images"
    images.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images / "1.png")
    run = write_sampled(tmp_path / "videos" / "runs", Prompt("a cat", seed=1))
    write_sampled(tmp_path / "videos" / "runs", Prompt("a dog", seed=2))
    lines = [
        "# compared",
        "",
        "../videos/b/three.mp4",
        f"{tmp_path}/videos/a/one.mp4",
        "../videos/images",
        str(run.path),
    ]
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "videos.txt"
    file.write_text("\ufeff" + "\r\n".join([*lines, "../videos/missing.mp4", "../videos/a"]))
    listing = list_videos(file)
    assert [video.name for video in listing.videos] == ["a/one.mp4", "b/three.mp4", "images", f"runs/{run.path.name}"]
    assert listing.videos[-1].caption == "a cat"
    assert listing.unreadable == {
        "missing.mp4": "there is no such file or folder",
        "a": "it is a folder without images",
    }


def test_names_do_not_depend_on_the_place(tmp_path: Path) -> None:
    names = []
    for place in (tmp_path / "here", tmp_path / "there" / "deeper"):
        for name in ("a/one.mp4", "b/two.mp4"):
            write_mp4(place / "data" / name, moving_square(3, 16, 16), 8)
        file = place / "list.txt"
        file.write_text("".join(f"{place}/data/{name}\n" for name in ("b/two.mp4", "a/one.mp4")))
        names.append([video.name for video in list_videos(file).videos])
    assert names[0] == names[1] == ["a/one.mp4", "b/two.mp4"]


def test_names_that_are_not_utf_8_can_be_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    write_mp4(tmp_path / name, moving_square(3, 16, 16), 8)
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.mp4\n")
    (video,) = list_videos(tmp_path / "list.txt").videos
    assert [path.name for path in video.files] == [name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"# nothing\n", "has no videos"),
        (b"a.mp4\n./a.mp4\n", r"has .*a\.mp4 twice; keep one line"),
        ("v.mp4\n".encode("utf-16"), "is not a path"),
        (b"gs://bucket/a.mp4", "buckets and URLs are not supported"),
    ],
)
def test_bad_lists(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(UserError, match=said):
        list_videos(tmp_path / "list.txt")
