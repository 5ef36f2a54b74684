"""Frames look as a player shows them, both with --video and in training clips."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from show1_jax.data.decode import frames_at
from show1_jax.data.failures import VideoError
from show1_jax.errors import UserError
from show1_jax.media.read import read_video
from tests.helpers.media_files import HEIGHT, WIDTH, corner_marked, encode, matrix_of

TURNS = {
    "as it is": ((1, 0, 0, 1), lambda frame: frame),
    "mirrored": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "counter-clockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
    "transposed": ((0, 1, 1, 0), lambda frame: np.swapaxes(frame, 0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda frame: np.rot90(np.swapaxes(frame, 0, 1), 2)),
}


def both_readers(path: Path) -> list[np.ndarray]:
    """Return the first frame as uint8, read as for --video and as a training clip."""
    video = read_video(path)[0][0]
    return [np.round((video + 1) * 127.5).astype(np.uint8), frames_at(path.read_bytes(), [0.0])[0]]


def assert_looks_like(path: Path, wanted: np.ndarray, tolerance: int = 12) -> None:
    for frame in both_readers(path):
        assert frame.shape == wanted.shape
        inner = np.abs(frame.astype(int) - wanted)[4:-4, 4:-4]  # edges between colours are blurred
        assert np.quantile(inner, 0.9) <= tolerance


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, turn: str, suffix: str) -> None:
    matrix, shown = TURNS[turn]
    frames = np.stack([corner_marked()] * 3)
    path = encode(tmp_path / f"clip.{suffix}", frames, matrix=matrix_of(*matrix))
    assert_looks_like(path, shown(corner_marked()))


def test_a_singular_matrix_is_ignored(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", np.stack([corner_marked()] * 3), matrix=matrix_of(0, 0, 0, 0))
    assert_looks_like(path, corner_marked())


def test_a_matrix_that_scales_only_mirrors_and_stretches(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", np.stack([corner_marked()] * 3), matrix=matrix_of(-2, 0, 0, 1))
    assert_looks_like(path, np.repeat(corner_marked(), 2, axis=1)[:, ::-1])


def test_a_picture_at_an_angle_is_one_line(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", np.stack([corner_marked()] * 3), matrix=matrix_of(0.7, 0.7, -0.7, 0.7))
    with pytest.raises(UserError, match="at an angle"):
        read_video(path)
    with pytest.raises(VideoError, match="at an angle"):
        frames_at(path.read_bytes(), [0.0])


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(4, 3)])
def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, name: str, codec: str, aspect: Fraction) -> None:
    frames = np.stack([corner_marked()] * 3)
    path = encode(tmp_path / name, frames, codec, pixel_aspect=aspect)
    wider, higher = max(Fraction(1), aspect), max(Fraction(1), 1 / aspect)
    size = (round(WIDTH * wider), round(HEIGHT * higher))
    wanted = Image.fromarray(corner_marked()).resize(size, Image.Resampling.BICUBIC)
    assert_looks_like(path, np.asarray(wanted))


def test_pixels_are_stretched_before_the_picture_is_turned(tmp_path: Path) -> None:
    frames = np.stack([corner_marked()] * 3)
    path = encode(tmp_path / "a.mp4", frames, pixel_aspect=Fraction(2), matrix=matrix_of(0, 1, -1, 0))
    assert_looks_like(path, np.rot90(np.repeat(corner_marked(), 2, axis=1), -1))


def test_nearly_square_pixels_are_unchanged(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", np.stack([corner_marked()] * 3), pixel_aspect=Fraction(1280, 1281))
    assert both_readers(path)[0].shape == (HEIGHT, WIDTH, 3)


def test_pixels_that_are_too_oblong_are_one_line(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", np.stack([corner_marked()] * 3), pixel_aspect=Fraction(20))
    with pytest.raises(UserError, match="20 times as wide as high"):
        read_video(path)


def half_transparent() -> np.ndarray:
    """Return red with alpha 255, 128 and 0 from left to right; transparent pixels also have green."""
    frame = np.zeros((HEIGHT, 48, 4), np.uint8)
    frame[..., 0] = 200
    frame[:, :16, 3], frame[:, 16:32, 3] = 255, 128
    frame[:, 32:, 1] = 255
    return frame


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.avi", "utvideo", "gbrap"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_transparent_pixels_show_black(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = encode(tmp_path / name, np.stack([half_transparent()] * 3), codec, pix_fmt)
    for frame in both_readers(path):
        assert np.abs(frame[24, 8].astype(int) - (200, 0, 0)).max() <= 8
        assert np.abs(frame[24, 24].astype(int) - (100, 0, 0)).max() <= 8
        assert frame[24, 40].max() <= 8


def test_transparent_parts_of_a_gif_show_black(tmp_path: Path) -> None:
    pictures = [Image.fromarray(half_transparent()).rotate(0) for _ in range(2)]
    pictures[1].paste((0, 0, 255, 255), (0, 0, 4, 4))
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    for frame in both_readers(tmp_path / "a.gif"):
        assert np.abs(frame[24, 8].astype(int) - (200, 0, 0)).max() <= 8
        assert frame[24, 40].max() == 0


def test_the_unused_byte_of_raw_avi_is_no_alpha_channel(tmp_path: Path) -> None:
    frames = np.concatenate([np.stack([corner_marked()] * 3), np.zeros((3, HEIGHT, WIDTH, 1), np.uint8)], -1)
    assert_looks_like(encode(tmp_path / "a.avi", frames, "rawvideo", "bgra"), corner_marked())


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("ffv1", layout) for layout in ("gray", "gray10le", "gray16le", "yuv420p10le", "gbrp12le")]
    + [("mjpeg", "yuvj420p")],
)
def test_deep_and_grey_videos_keep_their_range(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, WIDTH).round().astype(np.uint8)[None, None, :, None], (3, 16, WIDTH, 3))
    path = encode(tmp_path / "a.mkv", ramp, codec, pix_fmt)
    for frame in both_readers(path):
        assert np.abs(frame[8, :, 0].astype(int) - ramp[0, 0, :, 0]).max() <= 6


def saved(folder: Path, image: Image.Image, name: str = "1.png", **options: object) -> np.ndarray:
    """Save an image in a folder, and return it as read, from 0 to 255."""
    image.save(folder / name, **options)  # type: ignore[arg-type]
    return np.round((read_video(folder)[0][0] + 1) * 127.5).astype(int)


RAMP = np.tile(np.linspace(0, 1, 64), (4, 1))


@pytest.mark.parametrize(
    ("array", "name"),
    [
        ((RAMP * 65535).astype(np.uint16), "1.png"),
        ((RAMP * 65535).astype(np.uint16), "1.tif"),
        ((RAMP * 65535).astype(np.int32), "1.tiff"),
        (RAMP.astype(np.float32), "1.tif"),
        ((RAMP * 255).round().astype(np.uint8), "1.bmp"),
    ],
    ids=["16-bit png", "16-bit tiff", "32-bit tiff", "float tiff", "8 bits"],
)
def test_grey_images_are_scaled_to_their_range(tmp_path: Path, array: np.ndarray, name: str) -> None:
    frame = saved(tmp_path, Image.fromarray(array), name)
    assert np.abs(frame[0] - np.linspace(0, 255, 64)[:, None]).max() <= 1


def write_tiff(folder: Path, values: bytes, depth: int, interpretation: int, sample_format: int = 1) -> None:
    """Write one row of 64 grey pixels; Pillow writes neither 12 bits nor white as zero, nor signed values."""
    fields = [(256, 64), (257, 1), (258, depth), (262, interpretation), (273, 110), (277, 1), (279, len(values))]
    fields.append((339, sample_format))
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in fields)
    (folder / "1.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + entries + bytes(4) + values)


@pytest.mark.parametrize(("depth", "interpretation"), [(16, 1), (16, 0), (12, 1), (8, 0)])
def test_the_depth_and_the_interpretation_of_tiff_are_applied(tmp_path: Path, depth: int, interpretation: int) -> None:
    """Interpretation 0 means that 0 is white."""
    largest = (1 << depth) - 1
    levels = (RAMP[0] * largest).round().astype(int)
    stored = levels if interpretation else largest - levels
    bits = "".join(f"{value:012b}" for value in stored)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big") if depth == 12 else stored.astype(f"<u{depth // 8}").tobytes()
    write_tiff(tmp_path, packed, depth, interpretation)
    frame = np.round((read_video(tmp_path)[0][0] + 1) * 127.5)
    assert np.abs(frame[0] - np.linspace(0, 255, 64)[:, None]).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_signed_values_of_tiff_are_one_line(tmp_path: Path, depth: int) -> None:
    """Some viewers show 0 as black, others the smallest negative value."""
    levels = RAMP[0] * ((1 << (depth - 1)) - 1)
    write_tiff(tmp_path, levels.round().astype(f"<i{depth // 8}").tobytes(), depth, 1, sample_format=2)
    with pytest.raises(UserError, match=f"signed values of {depth} bits"):
        read_video(tmp_path)


@pytest.mark.parametrize("array", [np.full((4, 4), 70000, np.int32), np.full((4, 4), np.nan, np.float32)])
def test_images_of_no_known_range_are_one_line(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match="values outside"):
        saved(tmp_path, Image.fromarray(array), "1.tif")


def test_a_transparent_level_of_16_bits_shows_black(tmp_path: Path) -> None:
    grey = Image.fromarray((RAMP * 65535).astype(np.uint16))
    frame = saved(tmp_path, grey, "1.png", transparency=65535)
    assert frame[0, :, 0].argmax() == 62
    assert frame[0, 63].max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a transparent colour"])
def test_transparent_parts_of_images_show_black(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(half_transparent())
    options = {}
    if mode.startswith("RGB "):
        image, options = image.convert("RGB"), {"transparency": (200, 255, 0)}
    elif mode == "P":
        image = image.quantize()
    else:
        image = image.convert(mode)
    frame = saved(tmp_path, image, "1.png", **options)
    assert frame[24, 8].max() > 50
    assert frame[24, 40].max() == 0


def test_images_are_shown_upright_and_mirrored_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 5
    frame = saved(tmp_path, Image.fromarray(corner_marked()), "1.png", exif=exif)
    np.testing.assert_array_equal(frame, np.swapaxes(corner_marked(), 0, 1))


def test_cmyk_and_webp_images_are_read(tmp_path: Path) -> None:
    frame = saved(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "1.jpg")
    assert np.abs(frame[4, 4] - (0, 255, 255)).max() <= 3
    (tmp_path / "1.jpg").unlink()
    assert saved(tmp_path, Image.new("RGB", (8, 8), (0, 255, 0)), "1.webp", lossless=True)[4, 4].tolist() == [0, 255, 0]


def test_an_image_of_several_frames_is_one_line(tmp_path: Path) -> None:
    pictures = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]
    with pytest.raises(UserError, match="several frames"):
        saved(tmp_path, pictures[0], "1.tif", save_all=True, append_images=pictures[1:])


def test_an_image_format_that_can_run_programs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(UserError, match="not one of PNG"):
        read_video(tmp_path)


def test_side_data_of_an_unknown_kind_do_not_hide_the_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from show1_jax.media import display

    class Unknown:
        rotation = -90

        @property
        def side_data(self) -> None:
            raise ValueError("99 is not a valid Type")

    np.testing.assert_array_equal(display._display_matrix(Unknown(), -90), [[0, -1], [1, 0]])  # type: ignore[arg-type]
    assert av.VideoFrame(16, 16).rotation == 0
