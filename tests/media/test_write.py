"""Writers of mp4 and GIF: the file has the given frames and rate, or is refused."""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import contact_sheet
from show1_jax.media.frames import to_uint8
from show1_jax.media.read import read_video
from show1_jax.media.stage_files import save_stage
from show1_jax.media.write import write_gif, write_mp4
from tests.helpers.media_files import moving_square, psnr


def gif_delays(path: Path) -> list[int]:
    with Image.open(path) as image:
        delays = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            delays.append(int(image.info["duration"]))
        return delays


def test_importing_the_package_needs_neither_pyav_nor_pillow() -> None:
    modules = "contact_sheet, read, stage_files, write"
    code = f"import sys; from show1_jax.media import {modules}; assert not {{'av', 'PIL'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize(("fps", "num"), [(8, 29), (2, 8), (7.5, 13), (Fraction(30000, 1001), 5), (8, 1)])
def test_mp4_has_the_frames_the_rate_and_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, fps: float | Fraction, num: int
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    frames = moving_square(num, 40, 64)
    write_mp4(tmp_path / "clip.mp4", frames, fps)
    with av.open(tmp_path / "clip.mp4") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert stream.average_rate == Fraction(fps)
        assert stream.duration is not None
        assert stream.time_base is not None
        assert float(stream.duration * stream.time_base * stream.average_rate) == pytest.approx(num, abs=1e-3)
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert decoded.shape == frames.shape
    assert psnr(decoded, frames) > 30  # 4:2:0 blurs the square's red edge, otherwise it would be over 40


@given(st.integers(1, 33), st.integers(1, 33), st.integers(1, 5))
@settings(max_examples=15)
def test_mp4_and_gif_of_any_small_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, num: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    frames = moving_square(num, height, width)
    write_mp4(folder / "clip.mp4", frames, 8)
    write_gif(folder / "clip.gif", frames, 8)
    mp4, _ = read_video(folder / "clip.mp4")
    gif, _ = read_video(folder / "clip.gif")
    assert mp4.shape == (num, height + height % 2, width + width % 2, 3)
    assert gif.shape == frames.shape


def test_mp4_keeps_plain_colours(tmp_path: Path) -> None:
    """A matrix written as one standard and tagged as another shifts colours by tens of levels."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [255, 255, 255], [0, 0, 0]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None, :], (6, 16, 16, 3))
    write_mp4(tmp_path / "colours.mp4", frames, 8)
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
    still = np.repeat(moving_square(1, 8, 16), num, axis=0)  # writers often merge equal frames
    for name, frames in (("moving", moving_square(num, 8, 16)), ("still", still)):
        write_gif(tmp_path / f"{name}.gif", frames, fps)
        written = gif_delays(tmp_path / f"{name}.gif")
        assert len(written) == num
        assert set(written) <= delays
        assert abs(sum(written) - 1000 * num / fps) <= 5
        with Image.open(tmp_path / f"{name}.gif") as image:
            assert image.info["loop"] == 0


def test_gif_looks_like_the_frames(tmp_path: Path) -> None:
    frames = moving_square(5, 40, 64)
    write_gif(tmp_path / "clip.gif", frames, 8)
    decoded, _ = read_video(tmp_path / "clip.gif")
    assert psnr(to_uint8(decoded + 0.004), frames) > 33


WRITERS: list[Callable[..., None]] = [write_mp4, write_gif]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("fps", [0, -8, float("nan"), float("inf"), 1e9, 0.01])
def test_unsupported_frame_rates_are_refused(tmp_path: Path, write: Callable[..., None], fps: float) -> None:
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


WRITE_ALL: dict[str, Callable[[Path], None]] = {
    "mp4": lambda path: write_mp4(path, moving_square(2, 8, 16), 8),
    "gif": lambda path: write_gif(path, moving_square(2, 8, 16), 8),
    "stage": lambda path: save_stage(path, np.zeros((2, 8, 16, 3), np.float32), "keyframes"),
    "sheet": lambda path: contact_sheet(path, {"keyframes": moving_square(2, 8, 16)}, "a prompt"),
}


@pytest.mark.parametrize("kind", WRITE_ALL)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(
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
