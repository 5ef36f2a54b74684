"""Reads of the user's own video: only used frames are kept, and hostile or damaged files are refused."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.data.decode import check_file
from show1_jax.data.failures import VideoError
from show1_jax.errors import UserError
from show1_jax.media import arrays, images, read
from show1_jax.media.frames import from_uint8, sample_frames
from show1_jax.media.read import read_video
from show1_jax.media.stage_files import load_stage, save_stage
from tests.helpers.media_files import encode, number_of, numbered

COUNT = 20


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the same frames in every supported form."""
    folder = tmp_path_factory.mktemp("sources")
    frames = numbered(COUNT, 16, 24)
    (folder / "images").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "images" / f"frame{index}.png")
    np.save(folder / "a.npy", frames)
    save_stage(folder / "a.safetensors", from_uint8(np.ascontiguousarray(frames)), "keyframes")
    uneven = [*(0.02 * index for index in range(10)), *(0.2 + 0.3 * index for index in range(10))]
    return {
        "folder": folder / "images",
        "array": folder / "a.npy",
        "stage": folder / "a.safetensors",
        "video": encode(folder / "a.mp4", frames),
        "uneven": encode(folder / "uneven.mkv", frames, times=uneven),
    }


@pytest.mark.parametrize("source", ["folder", "array", "stage", "video", "uneven"])
@pytest.mark.parametrize("num", [1, 8, COUNT])
@pytest.mark.parametrize("size", [None, (8, 16)])
def test_reading_some_frames_is_choosing_among_all(
    sources: dict[str, Path], source: str, num: int, size: tuple[int, int] | None
) -> None:
    some, rate = read_video(sources[source], size, num)
    whole, same_rate = read_video(sources[source], size)
    np.testing.assert_array_equal(some, sample_frames(whole, num))
    assert rate == same_rate


@pytest.mark.parametrize("source", ["folder", "array", "stage", "video", "uneven"])
def test_too_few_frames_are_one_line(sources: dict[str, Path], source: str) -> None:
    with pytest.raises(UserError, match="29 frames are needed and the video has 20"):
        read_video(sources[source], (8, 16), num_frames=29)


def run_with_memory(code: str) -> str:
    """Return the output of code that may use 400 MB more than its imports, address space included."""
    script = (
        "import resource\n"
        "import av, numpy as np\n"
        "from PIL import Image\n"
        "from show1_jax.errors import UserError\n"
        "from show1_jax.media.read import read_video\n"
        "Image.init()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)\n"
        f"{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory of a process is read from /proc")
def test_memory_follows_the_frames_that_are_used(tmp_path: Path) -> None:
    """All frames at their full size would need 2.5 GB; the file of a black video has 30 KB."""
    path = encode(tmp_path / "a.mp4", np.zeros((200, 720, 1280, 3), np.uint8), options={"preset": "ultrafast"})
    output = run_with_memory(f"print(read_video({str(path)!r}, (40, 64), num_frames=29)[0].shape)")
    assert "(29, 40, 64, 3)" in output
    output = run_with_memory(f"read_video({str(path)!r})")
    assert "too long or too large" in output


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory of a process is read from /proc")
def test_an_image_that_is_large_when_decoded_is_refused_before(tmp_path: Path) -> None:
    Image.new("1", (16000, 16000)).save(tmp_path / "1.png")
    assert (tmp_path / "1.png").stat().st_size < 50_000
    output = run_with_memory(
        f"try: read_video({str(tmp_path)!r}, (40, 64))\nexcept UserError as error: print('line:', error)"
    )
    assert "line: cannot read the image" in output
    assert "more than 64,000,000 pixels" in output
    assert "Warning" not in output


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_file_that_is_no_video_is_one_line_whatever_its_name(tmp_path: Path, kind: str) -> None:
    Image.fromarray(numbered(1)[0]).save(tmp_path / "a.gif", kind)
    with pytest.raises(UserError, match="is not one of mov,mp4,matroska,webm,avi,gif; its name does not matter"):
        read_video(tmp_path / "a.gif")


# Folders


def test_hidden_and_system_files_are_no_frames(tmp_path: Path) -> None:
    for index, frame in enumerate(numbered(3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.PNG")
    for name in ("._0.PNG", ".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert [number_of(frame) for frame in read_video(tmp_path)[0]] == [0, 1, 2]


@pytest.mark.parametrize("name", ["1.tga", "1.AVIF", "1.gif"])
def test_frames_in_an_unsupported_format_are_refused(tmp_path: Path, name: str) -> None:
    for index, frame in enumerate(numbered(3)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").rename(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is not one of .png .*: convert or remove it"):
        read_video(tmp_path)


def test_frames_of_equal_numbers_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("1.png", "01.png", "001.png", "02.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in images.list_images(tmp_path)] == ["001.png", "01.png", "1.png", "02.png"]


@pytest.mark.parametrize("name", ["a.mp4", "a.npy", "a.safetensors", "folder/1.png"])
def test_a_file_that_is_not_regular_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_video(path.parent if name.startswith("folder") else path)
    if name == "a.mp4":
        with pytest.raises(VideoError, match="not a regular file"):
            check_file(path)
    if name == "a.safetensors":
        with pytest.raises(UserError, match="not a regular file"):
            load_stage(path)


def test_a_name_that_no_file_can_have_is_one_line() -> None:
    with pytest.raises(UserError, match="there is no"):
        read_video("x" * 5000 + ".mp4")


# Arrays


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


FRAMES = np.zeros((17, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(17, 4, 6, 3)", b"(1000000000, 4, 6, 3)"),
        (b"(17, 4, 6, 3)", b"(9223372036854775807, 4, 6, 3)"),
        (b"(17, 4, 6, 3)", b"(1, 4000000000, 4000000000, 3)"),
        (b"(17, 4, 6, 3)", b"(-17, 4, 6, 3)"),
        (b"(17, 4, 6, 3)", b"(17, 4, 6, 3.)"),
        (b"(17, 4, 6, 3)", b"(17, -4, -6, 3)"),
        (b"(17, 4, 6, 3)", b"((((((((((((("),
        (b"'|u1'", b"'|O'"),
        (b"'|u1'", b"'<f99'"),
        (b"'|u1'", b"'V9'"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x03"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x02"),
        (b"{'descr'", b"[" * 9),
    ],
)
def test_an_array_that_is_not_what_it_declares_is_one_line(tmp_path: Path, old: bytes, new: bytes) -> None:
    data = npy(FRAMES)
    (tmp_path / "a.npy").write_bytes(data.replace(old, new))
    with pytest.raises(UserError, match=r"cannot read .*a\.npy") as refusal:
        read_video(tmp_path / "a.npy", (4, 6), num_frames=8)
    assert "\n" not in str(refusal.value)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_array_is_read_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    content = bytearray(npy(FRAMES[:2]))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_video(path)[0].shape[-1] == 3
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right


def test_only_the_frames_that_are_used_are_checked(tmp_path: Path) -> None:
    array = np.zeros((9, 4, 6, 3), np.float32)
    array[1] = 7
    np.save(tmp_path / "a.npy", array)
    assert read_video(tmp_path / "a.npy", num_frames=3)[0].shape == (3, 4, 6, 3)
    with pytest.raises(UserError, match="outside"):
        read_video(tmp_path / "a.npy")


def test_arrays_of_other_orders_and_byte_orders_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6, 3)).astype(np.float32)
    for array in (np.asfortranarray(values), values.astype(">f4"), values.astype(np.float64)):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_video(tmp_path / "a.npy")[0], values)


def test_frames_of_too_many_pixels_in_an_array_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", FRAMES)
    monkeypatch.setattr(arrays, "MAX_IMAGE_PIXELS", 23)
    with pytest.raises(UserError, match="more than 23 pixels"):
        read_video(tmp_path / "a.npy")


def test_a_video_too_large_to_keep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "clip.npy", np.zeros((4, 8, 16, 3), np.uint8))
    monkeypatch.setattr(read, "MAX_READ_BYTES", 3 * 8 * 16 * 3 * 4)
    with pytest.raises(UserError, match="too long or too large"):
        read_video(tmp_path / "clip.npy")
    assert len(read_video(tmp_path / "clip.npy", (4, 8))[0]) == 4
    assert len(read_video(tmp_path / "clip.npy", None, 3)[0]) == 3


# Damaged files


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a video in every container, encoded once: encoders with several threads are not deterministic."""
    folder = tmp_path_factory.mktemp("valid")
    codecs = {
        "a.mp4": ("libx264", "yuv420p"),
        "a.mkv": ("libx264", "yuv420p"),
        "a.webm": ("libvpx-vp9", "yuv420p"),
        "a.avi": ("mpeg4", "yuv420p"),
        "a.gif": ("gif", "rgb8"),
    }
    frames = numbered(6, 16, 24)
    return {name: encode(folder / name, frames, *of_it).read_bytes() for name, of_it in codecs.items()}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.gif"])
@given(st.data())
@settings(max_examples=25)
def test_a_damaged_video_is_read_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, valid: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(valid[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    try:
        assert read_video(folder / name, (8, 16), 2)[0].shape == (2, 8, 16, 3)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
