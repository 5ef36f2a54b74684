"""Reads of the user's own video in every supported form: its frames, or one line."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from show1_jax.errors import UserError
from show1_jax.files import storage_path
from show1_jax.media.frames import fit, from_uint8, to_uint8
from show1_jax.media.read import read_picture, read_video
from show1_jax.media.stage_files import save_stage
from show1_jax.media.write import write_gif, write_mp4
from tests.helpers.buckets import BUCKET
from tests.helpers.media_files import moving_square, psnr


def test_reading_a_folder_takes_frames_in_natural_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 6, 3), 20 * index, np.uint8) for index in range(12)])
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"Frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip, fps = read_video(tmp_path)
    assert fps is None
    np.testing.assert_array_equal(clip, from_uint8(frames))


def test_images_of_other_modes_and_orientations_become_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.new("L", (6, 4), 255).save(tmp_path / "1.jpg", exif=exif)
    Image.new("RGBA", (4, 6), (255, 255, 255, 255)).save(tmp_path / "2.png")
    clip, _ = read_video(tmp_path)
    np.testing.assert_array_equal(clip, np.ones((2, 6, 4, 3), np.float32))


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_reading_a_video_gives_its_frames_rate_and_the_size_asked_for(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(9, 40, 64)
    {"mp4": write_mp4, "gif": write_gif}[suffix](tmp_path / f"clip.{suffix}", frames, 2)
    clip, fps = read_video(tmp_path / f"clip.{suffix}")
    assert fps == 2
    assert clip.dtype == np.float32
    assert np.abs(clip).max() <= 1
    assert psnr(to_uint8(clip), frames) > 30
    fitted, _ = read_video(tmp_path / f"clip.{suffix}", (8, 16))
    np.testing.assert_array_equal(fitted, fit(clip, 8, 16))


def test_a_rotated_phone_video_is_read_upright(tmp_path: Path) -> None:
    """The mp4 track's display matrix is a quarter turn clockwise; the stored picture is rotated back."""
    upright = moving_square(2, 64, 40)
    write_mp4(tmp_path / "clip.mp4", np.ascontiguousarray(np.rot90(upright, 1, axes=(1, 2))), 8)
    data = (tmp_path / "clip.mp4").read_bytes()
    one, minus_one, zero = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big"), bytes(4)
    w = (0x40000000).to_bytes(4, "big")
    identity = one + zero * 3 + one + zero * 3 + w
    quarter_turn = zero + one + zero + minus_one + zero * 4 + w
    track = data.index(b"tkhd")
    (tmp_path / "clip.mp4").write_bytes(data[:track] + data[track:].replace(identity, quarter_turn, 1))
    clip, _ = read_video(tmp_path / "clip.mp4")
    assert psnr(to_uint8(clip), upright) > 30


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_reading_an_array(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    array = values if dtype is np.uint8 else (values / 255 * 2 - 1).astype(dtype)
    np.save(tmp_path / "clip.npy", array)
    clip, fps = read_video(tmp_path / "clip.npy")
    assert clip.dtype == np.float32
    assert fps is None
    np.testing.assert_allclose(clip, from_uint8(values), atol=1e-3 if dtype is np.float16 else 1e-6)


def test_reading_a_stage_file_keeps_every_bit(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype(np.float32)  # beyond [-1, 1], as pixel stages are
    save_stage(tmp_path / "stage.safetensors", clip, "keyframes")
    np.testing.assert_array_equal(read_video(tmp_path / "stage.safetensors")[0], clip)


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("clip.mp4", b"", "cannot decode"),
        ("clip.mp4", b"not a video", "cannot decode"),
        ("clip.gif", b"GIF89a", "cannot decode"),
        ("clip.txt", b"text", "cannot read .*clip.txt: give one of"),
        ("clip.npy", b"", "save it again"),
        ("clip.npy", saved(np.zeros((2, 8, 16, 3), np.uint8))[:-9], "save it again"),
        ("clip.npy", saved(np.array([{}], object)), "save it again"),
        ("clip.npy", saved(np.zeros((2, 8, 16, 3), np.int32)), "must be uint8 or float"),
        ("clip.npy", saved(np.zeros((8, 16, 3), np.uint8)), "must be uint8 or float"),
        ("clip.npy", saved(np.zeros((2, 8, 16, 4), np.uint8)), r"frames of shape \(8, 16, 4\)"),
        ("clip.npy", saved(np.full((2, 8, 16, 3), 255.0)), r"outside \[-1, 1\]"),
        ("clip.npy", saved(np.full((2, 8, 16, 3), np.nan)), r"outside \[-1, 1\]"),
        ("clip.npy", saved(np.zeros((0, 8, 16, 3), np.uint8)), "no frames|save it again"),
        ("frames/1.png", b"not an image", "cannot read the image"),
        ("frames/1.txt", b"text", "no frames"),
    ],
)
def test_an_unreadable_source_is_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as refusal:
        read_video(path.parent if name.startswith("frames/") else path)
    assert "\n" not in str(refusal.value)


def test_a_script_that_names_other_files_is_not_a_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "other.mp4", moving_square(2, 8, 16), 8)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UserError, match="cannot decode"):
        read_video(tmp_path / "clip.mp4")


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "clip.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="no pictures"):
        read_video(tmp_path / "clip.mkv")


def test_a_missing_video_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        read_video(tmp_path / "clip.mp4")


def test_an_image_cut_short_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(moving_square(1, 40, 64)[0]).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot read the image"):
        read_video(tmp_path)


def test_frames_of_different_sizes_are_refused_unless_fitted(tmp_path: Path) -> None:
    for index, size in enumerate([(6, 4), (8, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match="different sizes"):
        read_video(tmp_path)
    assert read_video(tmp_path, (4, 4))[0].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_media_in_a_bucket_are_those_on_disk(request: pytest.FixtureRequest, tmp_path: Path, scheme: str) -> None:
    request.getfixturevalue("gcs" if scheme == "gs" else "s3_session")
    frames = moving_square(9, 40, 64)
    write_mp4(tmp_path / "clip.mp4", frames, 2)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    save_stage(tmp_path / "stage.safetensors", from_uint8(frames), "keyframes")
    np.save(tmp_path / "clip.npy", frames)
    media = storage_path(f"{scheme}://{BUCKET}/media")
    for path in tmp_path.rglob("*.*"):
        (media / path.relative_to(tmp_path).as_posix()).write_bytes(path.read_bytes())
    for name in ("clip.mp4", "frames", "stage.safetensors", "clip.npy"):
        for place in (f"{media}/{name}", media / name):
            ours, theirs = read_video(place, (8, 16), 4), read_video(tmp_path / name, (8, 16), 4)
            np.testing.assert_array_equal(ours[0], theirs[0])
            assert ours[1] == theirs[1]
    picture = read_picture(media / "frames/0.png")
    np.testing.assert_array_equal(picture, read_picture(tmp_path / "frames/0.png"))
    (media / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:500])
    for name, says in (("cut.mp4", "cannot decode"), ("none", "there is no"), ("frames/0.png", "cannot read")):
        with pytest.raises(UserError, match=f"{says} {scheme}://{BUCKET}/media/{name}") as raised:
            read_video(media / name)
        assert "\n" not in str(raised.value)
