"""Frames, files and folders: what is written comes back, and what cannot be read or written says so."""

import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from show1_jax import video
from show1_jax.errors import UserError


def moving_square(num: int, height: int, width: int) -> np.ndarray:
    """uint8 frames `(t, h, w, 3)` that encoders find easy: a gradient and a square that moves."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    frames = np.stack([np.stack([60 + 120 * x, 200 - 100 * y, 90 + 0 * x], -1)] * num).astype(np.uint8)
    side = max(1, height // 4)
    for index in range(num):
        left = index * max(1, width - side) // num
        frames[index, :side, left : left + side] = (230, 40, 40)
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def gif_delays(path: Path) -> list[int]:
    with Image.open(path) as image:
        delays = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            delays.append(int(image.info["duration"]))
        return delays


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array[0], 0, -1))


def test_importing_the_package_needs_neither_pyav_nor_pillow() -> None:
    code = "import sys, show1_jax.video; assert not {'av', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Numbers to frames and back


def test_frames_of_the_recorded_run_are_equal(trace: dict[str, np.ndarray]) -> None:
    final = video.to_uint8(channels_last(trace["stage/sr2"]))
    np.testing.assert_array_equal(final, trace["stage/final_uint8"])


def test_the_resize_before_stage_4_is_equal_to_the_recorded_one(trace: dict[str, np.ndarray]) -> None:
    wanted = trace["stage/sr2_input_uint8"]
    frames = video.to_uint8(channels_last(trace["stage/sr1"]))
    np.testing.assert_array_equal(video.resize_uint8(frames, *wanted.shape[1:3]), wanted)


def test_to_uint8_clips_and_truncates() -> None:
    values = np.array([-7, -1, -1 + 1.99 / 127.5, 0, 1 - 1e-3, 1, np.inf], np.float32)
    np.testing.assert_array_equal(video.to_uint8(values), np.array([0, 0, 1, 127, 254, 255, 255], np.uint8))


def test_to_uint8_refuses_nan() -> None:
    with pytest.raises(UserError, match="NaN"):
        video.to_uint8(np.array([0, np.nan], np.float32))


def test_from_uint8_spans_minus_one_to_one_in_float32() -> None:
    every = np.arange(256, dtype=np.uint8)
    values = video.from_uint8(every)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, every.astype(np.float32) / np.float32(127.5) - 1)
    assert np.abs(video.to_uint8(values).astype(int) - every).max() <= 1  # truncation may lose one level


# Fitting and choosing frames


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_fit_gives_the_size_and_stays_in_range(height: int, width: int, new_height: int, new_width: int) -> None:
    clip = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    fitted = video.fit(clip, new_height, new_width)
    assert fitted.shape == (2, new_height, new_width, 3)
    assert fitted.dtype == np.float32
    assert (clip.min((1, 2, 3)) <= fitted.min((1, 2, 3))).all()
    assert (clip.max((1, 2, 3)) >= fitted.max((1, 2, 3))).all()


def test_fit_keeps_the_aspect_and_crops_the_centre() -> None:
    bars = np.repeat(np.array([-1, 0, 0, 1], np.float32), 8)  # 32 wide: the outer quarters are cropped
    clip = np.broadcast_to(bars[None, None, :, None], (1, 16, 32, 3))
    np.testing.assert_allclose(video.fit(clip, 8, 8)[:, :, 2:-2], 0, atol=1e-6)


def test_fit_returns_a_video_of_that_size_as_it_is() -> None:
    clip = np.full((1, 4, 6, 3), 1.7, np.float32)
    assert video.fit(clip, 4, 6) is clip


@given(st.integers(1, 60), st.data())
def test_sampled_frames_are_even_and_reach_both_ends(count: int, data: st.DataObject) -> None:
    num = data.draw(st.integers(2, count)) if count > 1 else 1
    chosen = video.sample_frames(np.arange(count), num)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, num)
    steps = np.diff(chosen)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_sampling_keyframes_of_the_released_length_finds_them() -> None:
    np.testing.assert_array_equal(video.sample_frames(np.arange(29), 8), np.arange(0, 29, 4))


@pytest.mark.parametrize("num", [0, 6])
def test_sampling_more_frames_than_there_are_is_refused(num: int) -> None:
    with pytest.raises(UserError, match=f"{num} frames are needed and the video has 5"):
        video.sample_frames(np.arange(5), num)


# mp4 and GIF


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize(("fps", "num"), [(8, 29), (2, 8), (7.5, 13), (Fraction(30000, 1001), 5), (8, 1)])
def test_mp4_has_the_frames_the_rate_and_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, fps: float | Fraction, num: int
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    frames = moving_square(num, 40, 64)
    video.write_mp4(tmp_path / "clip.mp4", frames, fps)
    with av.open(tmp_path / "clip.mp4") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert stream.average_rate == Fraction(fps)
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base * stream.average_rate) == pytest.approx(num, abs=1e-3)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == frames.shape
    assert psnr(decoded, frames) > 30  # 4:2:0 smears the square's red edge, or it would be over 40


@given(st.integers(1, 33), st.integers(1, 33), st.integers(1, 5))
@settings(deadline=None, max_examples=15)
def test_mp4_and_gif_of_any_small_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, num: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    frames = moving_square(num, height, width)
    video.write_mp4(folder / "clip.mp4", frames, 8)
    video.write_gif(folder / "clip.gif", frames, 8)
    mp4, _ = video.read_video(folder / "clip.mp4")
    gif, _ = video.read_video(folder / "clip.gif")
    assert mp4.shape == (num, height + height % 2, width + width % 2, 3)
    assert gif.shape == frames.shape


def test_mp4_keeps_plain_colours(tmp_path: Path) -> None:
    """A matrix written as one standard and tagged as another shifts colours by tens of levels."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [255, 255, 255], [0, 0, 0]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None, :], (6, 16, 16, 3))
    video.write_mp4(tmp_path / "colours.mp4", frames, 8)
    with av.open(tmp_path / "colours.mp4") as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].codec_context.colorspace == 1
    assert np.abs(decoded.astype(int) - frames).max() <= 6


@pytest.mark.parametrize(
    ("fps", "num", "delays"),
    [
        (8, 5, {120, 130}),
        (2, 8, {500}),
        (Fraction(15, 2), 13, {130, 140}),
        (50, 4, {20}),
        (8, 1, {120}),
        (7.5, 29, {130, 140}),
    ],
)
def test_gif_has_every_frame_and_the_whole_duration(
    tmp_path: Path, fps: float | Fraction, num: int, delays: set[int]
) -> None:
    still = np.repeat(moving_square(1, 8, 16), num, axis=0)  # writers like to merge equal frames
    for name, frames in (("moving", moving_square(num, 8, 16)), ("still", still)):
        video.write_gif(tmp_path / f"{name}.gif", frames, fps)
        written = gif_delays(tmp_path / f"{name}.gif")
        assert len(written) == num
        assert set(written) <= delays
        assert abs(sum(written) - 1000 * num / fps) <= 5
        with Image.open(tmp_path / f"{name}.gif") as image:
            assert image.info["loop"] == 0


def test_gif_looks_like_the_frames(tmp_path: Path) -> None:
    frames = moving_square(5, 40, 64)
    video.write_gif(tmp_path / "clip.gif", frames, 8)
    decoded, _ = video.read_video(tmp_path / "clip.gif")
    assert psnr(video.to_uint8(decoded + 0.004), frames) > 33


WRITERS: list[Callable[..., None]] = [video.write_mp4, video.write_gif]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), 1e9, 0.01])
def test_frame_rates_that_no_file_has_are_refused(tmp_path: Path, write: Callable[..., None], fps: float) -> None:
    with pytest.raises(UserError, match="fps must be from"):
        write(tmp_path / "clip", moving_square(2, 8, 16), fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 16, 3), np.uint8),
        np.zeros((2, 8, 16, 3), np.float32),
        np.zeros((2, 8, 16, 4), np.uint8),
        np.zeros((8, 16, 3), np.uint8),
    ],
    ids=["empty", "float", "four channels", "one frame"],
)
def test_arrays_that_are_not_frames_are_refused(tmp_path: Path, write: Callable[..., None], frames: np.ndarray) -> None:
    with pytest.raises(UserError, match=re.escape("frames must be uint8 (t, h, w, 3)")):
        inspect.unwrap(write)(tmp_path / "clip", frames, 8)  # without the shape checks that tests may add
    assert not list(tmp_path.iterdir())


# Nothing half-written

WRITE_ALL: dict[str, Callable[[Path], None]] = {
    "mp4": lambda path: video.write_mp4(path, moving_square(2, 8, 16), 8),
    "gif": lambda path: video.write_gif(path, moving_square(2, 8, 16), 8),
    "stage": lambda path: video.save_stage(path, np.zeros((2, 8, 16, 3), np.float32), "keyframes"),
    "sheet": lambda path: video.contact_sheet(path, {"keyframes": moving_square(2, 8, 16)}, "a prompt"),
}


@pytest.mark.parametrize("kind", WRITE_ALL)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(UserError, match=r"cannot write .*file \(No space left on device\)"):
        WRITE_ALL[kind](path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        video.write_bytes(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    video.write_bytes(path, b"1")
    video.write_bytes(path, b"2")
    assert path.read_bytes() == b"2"


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write"):
        video.write_bytes(tmp_path / "out" / "clip.mp4", b"")


# Stage files


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)))
@settings(deadline=None, max_examples=30)
def test_stage_files_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, clip: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("stage") / "keyframes.safetensors"
    video.save_stage(path, clip, "keyframes")
    loaded = video.load_stage(path, "keyframes")
    assert loaded.dtype == np.float32
    assert loaded.shape == clip.shape
    np.testing.assert_array_equal(loaded.view(np.uint32), clip.view(np.uint32))


def test_stage_files_keep_transposed_views(tmp_path: Path) -> None:
    clip = np.moveaxis(np.arange(48, dtype=np.float32).reshape(2, 3, 2, 4), 1, -1)
    video.save_stage(tmp_path / "stage.safetensors", clip, "interpolation")
    np.testing.assert_array_equal(video.load_stage(tmp_path / "stage.safetensors"), clip)


def test_a_stage_file_says_what_it_is(tmp_path: Path) -> None:
    from safetensors import safe_open

    video.save_stage(tmp_path / "stage.safetensors", np.zeros((2, 8, 16, 3), np.float32), "first_frame")
    with safe_open(tmp_path / "stage.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata["stage"] == "first_frame"
    assert metadata["layout"] == "time height width channel"
    assert metadata["shape"] == "2 8 16 3"


@pytest.mark.parametrize("array", [np.zeros((2, 8, 16, 3)), np.zeros((8, 16, 3), np.float32)], ids=["float64", "3-D"])
def test_only_float32_videos_are_stages(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match="a stage must be float32"):
        inspect.unwrap(video.save_stage)(tmp_path / "stage.safetensors", array, "keyframes")
    assert not list(tmp_path.iterdir())


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_last_byte, "damaged"),
        (lambda data: data[:-7], "cannot read stage file"),
        (lambda data: data[:10], "cannot read stage file"),
        (lambda data: data + b"0", "cannot read stage file"),
        (lambda data: b"", "cannot read stage file"),
        (lambda data: b"\xff" * 100, "cannot read stage file"),
        (lambda data: data.replace(b"show1_jax.stage.v1", b"show1_jax.stage.v9"), "not a stage file"),
    ],
    ids=["bit", "truncated", "ten bytes", "longer", "empty", "garbage", "format"],
)
def test_a_damaged_stage_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = tmp_path / "stage.safetensors"
    video.save_stage(path, np.ones((2, 8, 16, 3), np.float32), "keyframes")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=says) as refusal:
        video.load_stage(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("BF16", [2, 16, 16, 3]), ("F8_E4M3", [2, 32, 16, 3]), ("I32", [2, 8, 16, 3]), ("F32", [768])]
)
def test_a_stage_file_of_another_type_or_shape_is_refused(tmp_path: Path, dtype: str, shape: list[int]) -> None:
    path = tmp_path / "stage.safetensors"
    video.save_stage(path, np.ones((2, 8, 16, 3), np.float32), "keyframes")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["video"] |= {"dtype": dtype, "shape": shape}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(UserError, match="not a stage file"):
        video.load_stage(path)


def test_a_foreign_or_missing_stage_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"video": np.zeros(3, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="not a stage file"):
        video.load_stage(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="cannot read stage file"):
        video.load_stage(tmp_path / "missing.safetensors")


def test_the_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    video.save_stage(tmp_path / "stage.safetensors", np.zeros((2, 8, 16, 3), np.float32), "keyframes")
    with pytest.raises(UserError, match="holds the stage keyframes, not interpolation"):
        video.load_stage(tmp_path / "stage.safetensors", "interpolation")


# The user's own video


def test_reading_a_folder_takes_frames_in_natural_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 6, 3), 20 * index, np.uint8) for index in range(12)])
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"Frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    clip, fps = video.read_video(tmp_path)
    assert fps is None
    np.testing.assert_array_equal(clip, video.from_uint8(frames))


def test_images_of_other_modes_and_orientations_become_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.new("L", (6, 4), 255).save(tmp_path / "1.jpg", exif=exif)
    Image.new("RGBA", (4, 6), (255, 255, 255, 255)).save(tmp_path / "2.png")
    clip, _ = video.read_video(tmp_path)
    np.testing.assert_array_equal(clip, np.ones((2, 6, 4, 3), np.float32))


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_reading_a_video_gives_its_frames_rate_and_the_size_asked_for(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(9, 40, 64)
    {"mp4": video.write_mp4, "gif": video.write_gif}[suffix](tmp_path / f"clip.{suffix}", frames, 2)
    clip, fps = video.read_video(tmp_path / f"clip.{suffix}")
    assert fps == 2
    assert clip.dtype == np.float32
    assert np.abs(clip).max() <= 1
    assert psnr(video.to_uint8(clip), frames) > 30
    fitted, _ = video.read_video(tmp_path / f"clip.{suffix}", (8, 16))
    np.testing.assert_array_equal(fitted, video.fit(clip, 8, 16))


def test_a_phones_upright_video_is_read_upright(tmp_path: Path) -> None:
    """The mp4 track's display matrix says a quarter turn clockwise; the stored picture lies on its side."""
    upright = moving_square(2, 64, 40)
    video.write_mp4(tmp_path / "clip.mp4", np.ascontiguousarray(np.rot90(upright, 1, axes=(1, 2))), 8)
    data = (tmp_path / "clip.mp4").read_bytes()
    one, minus_one, zero = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big"), bytes(4)
    w = (0x40000000).to_bytes(4, "big")
    identity = one + zero * 3 + one + zero * 3 + w
    quarter_turn = zero + one + zero + minus_one + zero * 4 + w
    track = data.index(b"tkhd")
    (tmp_path / "clip.mp4").write_bytes(data[:track] + data[track:].replace(identity, quarter_turn, 1))
    clip, _ = video.read_video(tmp_path / "clip.mp4")
    assert psnr(video.to_uint8(clip), upright) > 30


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_reading_an_array(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    array = values if dtype is np.uint8 else (values / 255 * 2 - 1).astype(dtype)
    np.save(tmp_path / "clip.npy", array)
    clip, fps = video.read_video(tmp_path / "clip.npy")
    assert clip.dtype == np.float32
    assert fps is None
    np.testing.assert_allclose(clip, video.from_uint8(values), atol=1e-3 if dtype is np.float16 else 1e-6)


def test_reading_a_stage_file_keeps_every_bit(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype(np.float32)  # beyond [-1, 1], as pixel stages are
    video.save_stage(tmp_path / "stage.safetensors", clip, "keyframes")
    np.testing.assert_array_equal(video.read_video(tmp_path / "stage.safetensors")[0], clip)


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
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as refusal:
        video.read_video(path.parent if name.startswith("frames/") else path)
    assert "\n" not in str(refusal.value)


def test_a_script_that_names_other_files_is_not_a_video(tmp_path: Path) -> None:
    video.write_mp4(tmp_path / "other.mp4", moving_square(2, 8, 16), 8)
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UserError, match="cannot decode"):
        video.read_video(tmp_path / "clip.mp4")


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "clip.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UserError, match="no pictures"):
        video.read_video(tmp_path / "clip.mkv")


def test_a_missing_video_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        video.read_video(tmp_path / "clip.mp4")


def test_an_image_cut_short_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(moving_square(1, 40, 64)[0]).save(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot read the image"):
        video.read_video(tmp_path)


def test_frames_of_different_sizes_are_refused_unless_fitted(tmp_path: Path) -> None:
    for index, size in enumerate([(6, 4), (8, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match="different sizes"):
        video.read_video(tmp_path)
    assert video.read_video(tmp_path, (4, 4))[0].shape == (2, 4, 4, 3)


# Contact sheet


def test_a_contact_sheet_shows_every_row_in_order(tmp_path: Path) -> None:
    reds, greens = np.zeros((29, 8, 16, 3), np.uint8), np.zeros((3, 20, 30, 3), np.uint8)
    reds[..., 0], greens[..., 1] = 255, 255
    video.contact_sheet(tmp_path / "sheet.png", {"keyframes": reds, "superres_pixel": greens}, "two colours")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet).astype(int)
    red = np.all(pixels == (255, 0, 0), -1)
    green = np.all(pixels == (0, 255, 0), -1)
    assert red.sum() == 8 * 232 * 116
    assert green.sum() == 3 * 232 * 155
    assert np.flatnonzero(red.any(1))[-1] < np.flatnonzero(green.any(1))[0]


def test_pixels_of_a_small_video_stay_squares(tmp_path: Path) -> None:
    checks = np.indices((8, 16)).sum(0) % 2 * np.uint8(255)
    frames = np.repeat(checks[None, :, :, None], 3, -1).astype(np.uint8)
    video.contact_sheet(tmp_path / "sheet.png", {"keyframes": frames}, "")
    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = np.asarray(sheet)[-36 - 116 : -36, 36 : 36 + 232]
    assert np.isin(shown, (0, 255)).mean() > 0.8  # only where a square's edge falls inside a pixel is there grey


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=10)
def test_any_prompt_can_be_a_title(tmp_path_factory: pytest.TempPathFactory, title: str) -> None:
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    video.contact_sheet(path, {"keyframes": moving_square(1, 8, 16)}, title)
    with Image.open(path) as sheet:
        assert sheet.width == 940 + 2 * 36


def test_titles_are_wrapped_and_lose_only_what_the_font_lacks() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(30)
    text = video._drawable("A  caf\u00e9\n\u6cb9\u7d75 " + "painted " * 40 + "x" * 200, font)
    assert text.startswith("A cafe ?? painted")
    lines = video._wrap(text, font, 900)
    assert "".join(lines) == text
    assert all(font.getlength(line.rstrip()) <= 900 for line in lines)


@pytest.mark.parametrize("title", ["word " * 40_000, "x" * 200_000, "\u6cb9" * 200_000, "a" + "\u0301" * 200_000])
def test_a_long_title_is_cut(tmp_path: Path, title: str) -> None:
    start = time.monotonic()
    video.contact_sheet(tmp_path / "sheet.png", {"keyframes": moving_square(1, 8, 16)}, title)
    assert time.monotonic() - start < 2  # a hundred times as long, uncut
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height < 1000


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one video"):
        video.contact_sheet(tmp_path / "sheet.png", {}, "nothing")
