"""Videos of users: those that the reader reads are kept for a while, all others are refused and removed."""

import base64
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from show1_jax.config.config_file import Config
from show1_jax.errors import UserError
from show1_jax.web.requests import Limits
from show1_jax.web.uploads import Uploads
from tests.helpers.media_files import encode, numbered


@pytest.fixture
def uploads(tmp_path: Path, config: Config) -> Uploads:
    return Uploads(tmp_path / "private", config, Limits(upload_bytes=1 << 20, uploads=2))


def video(folder: Path, name: str = "my video.mp4") -> Path:
    folder.mkdir(exist_ok=True)
    return encode(folder / name, numbered(12))


def test_a_video_is_moved_and_shown_in_the_shape_of_the_cascade(tmp_path: Path, uploads: Uploads) -> None:
    source = video(tmp_path / "gradio")
    upload = uploads.add(source)
    assert not source.exists()
    assert upload.path.read_bytes()
    assert (upload.name, upload.num_bytes) == ("my video.mp4", upload.path.stat().st_size)
    assert uploads.find(upload.id) == upload
    from io import BytesIO

    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(upload.preview)))
    assert picture.shape == (120, 8 * 192, 3)
    assert picture[:, :100].mean() < picture[:, -100:].mean()
    assert base64.b64decode(upload.preview_address.partition(",")[2]) == upload.preview
    assert oct(upload.path.parent.stat().st_mode)[-3:] == "700"


def test_a_picture_is_shown_as_the_video_begins(tmp_path: Path, uploads: Uploads) -> None:
    from io import BytesIO

    from PIL import Image

    source = tmp_path / "photo.JPG"
    photo = Image.new("RGB", (90, 50), (0, 0, 200))
    photo.paste((200, 0, 0), (4, 0, 86, 50))  # its blue edges are cut: keyframes are 1.6 times as wide as high
    photo.save(source, quality=100, subsampling=0)
    upload = uploads.add(source)
    assert upload.is_picture
    assert not uploads.add(video(tmp_path / "gradio")).is_picture
    picture = np.asarray(Image.open(BytesIO(upload.preview)))
    assert picture.shape == (120, 192, 3)
    assert abs(picture.mean(0) - (200, 0, 0)).max() < 20


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("garbage.mp4", b"\x00\x01garbage" * 500, "cannot decode garbage.mp4"),
        ("empty.mp4", b"", "empty.mp4"),
        ("page.html", b"<html><script>alert(1)</script>", "cannot read page.html: give one of .mp4"),
        ("page.mp4", b"<html><script>alert(1)</script>", "cannot decode page.mp4"),
        ("list.mp4", b"#EXTM3U\nfile:///etc/passwd\n", "cannot decode list.mp4"),
        ("array.npy", b"\x93NUMPY", "cannot read array.npy"),
        ("page.png", b"<html><script>alert(1)</script>", "cannot read the image page.png (it is not one of PNG"),
        ("drawing.svg", b"<svg onload='alert(1)'/>", "cannot read drawing.svg: give one of .mp4"),
        ("huge.mp4", b"0" * (1 << 20) + b"1", "huge.mp4 is larger than 1 MB"),
        ("../../up.mp4", b"no", "cannot decode up.mp4"),
        ("a<b>\n.mp4", b"no", "cannot decode a_b__.mp4"),
    ],
)
def test_other_files_are_refused_and_removed(
    tmp_path: Path, uploads: Uploads, name: str, content: bytes, line: str
) -> None:
    folder = tmp_path / "gradio" / "a" / "b"
    folder.mkdir(parents=True)
    source = folder / name
    source.write_bytes(content)
    with pytest.raises(UserError) as refused:
        uploads.add(source)
    assert line in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert not source.exists()
    assert not list((tmp_path / "private").iterdir())


def test_the_oldest_videos_are_removed(tmp_path: Path, uploads: Uploads) -> None:
    first, second, third = (uploads.add(video(tmp_path / "gradio")) for _ in range(3))
    assert not first.path.parent.exists()
    assert uploads.find(second.id).path.exists()
    assert uploads.find(third.id).path.exists()
    for token in (first.id, "", None, 3):
        with pytest.raises(UserError, match="upload one"):
            uploads.find(token)


def test_names_are_cut(tmp_path: Path, uploads: Uploads) -> None:
    upload = uploads.add(video(tmp_path / "gradio", f"{'é' * 100}.mp4"))
    assert len(upload.name) == 80
    assert dataclasses.replace(upload, num_bytes=1).num_bytes == 1
