"""Encoded videos: the choice of the stream, times of frames, truncated files, and limits of decoding."""

import io
import struct
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.data.decode import check_file, frames_at
from show1_jax.data.failures import VideoError
from show1_jax.errors import UserError
from show1_jax.media import containers, structure
from show1_jax.media.containers import open_video
from show1_jax.media.read import read_video
from show1_jax.media.timeline import Timeline
from tests.helpers.media_files import HEIGHT, WIDTH, encode, number_of, numbered, remux

# name, codec, pixel format, codec options, container options
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "6"}, {}),
    "start.mp4": ("libx264", "yuv420p", {"g": "6"}, {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", "yuv420p", {"g": "6"}, {"movflags": "frag_keyframe+empty_moov"}),
    "png.mov": ("png", "rgb24", {}, {}),
    "h264.m4v": ("libx264", "yuv420p", {"g": "6"}, {}),
    "h264.mkv": ("libx264", "yuv420p", {"g": "6"}, {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "6"}, {"cluster_time_limit": "500"}),
    "live.webm": ("libvpx-vp9", "yuv420p", {"g": "6"}, {"cluster_time_limit": "500", "live": "1"}),
    "xvid.avi": ("mpeg4", "yuv420p", {"bf": "2", "flags": "+qscale", "global_quality": "236"}, {}),
    "h264.avi": ("libx264", "yuv420p", {"g": "6"}, {}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, {}),
    "a.gif": ("gif", "rgb8", {}, {}),
}
COUNT = 20


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return twenty numbered frames at 10 fps, in every kind of file."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        name: encode(folder / name, numbered(COUNT), codec, layout, options=options, container_options=muxer)
        for name, (codec, layout, options, muxer) in KINDS.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_completely_and_by_time(files: dict[str, Path], name: str) -> None:
    """AVI with B-frames has no times, only a decoding order."""
    clip, rate = read_video(files[name])
    assert clip.shape == (COUNT, HEIGHT, WIDTH, 3)
    assert rate == 10
    if name != "a.gif":  # its palette has fewer greys
        assert [number_of(frame) for frame in clip] == list(range(COUNT))
    facts = check_file(files[name])
    assert facts.duration == pytest.approx(COUNT / 10)
    data = files[name].read_bytes()
    times = [facts.start + (index + 0.5) / 10 for index in range(COUNT)]
    whole = frames_at(data, times)
    assert len({frame.tobytes() for frame in whole}) == len({frame.tobytes() for frame in clip})
    for index in range(0, COUNT, 3):
        np.testing.assert_array_equal(frames_at(data, [times[index]])[0], whole[index])


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"live.webm"}))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_never_read_in_part(
    files: dict[str, Path], tmp_path: Path, name: str, share: float
) -> None:
    data = files[name].read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="cannot decode") as refusal:
        read_video(tmp_path / name)
    assert "\n" not in str(refusal.value)
    with pytest.raises(VideoError):
        check_file(tmp_path / name)


def test_a_matroska_file_whose_parts_do_not_join_is_refused(files: dict[str, Path]) -> None:
    """FFmpeg would continue at the next cluster, without the frames between."""
    data = bytearray(files["vp9.webm"].read_bytes())
    block = data.index(b"\xa3", data.index(b"\x1f\x43\xb6\x75"))
    data[block + 1] ^= 0x10
    with pytest.raises(VideoError, match=r"do not join|cut short"):
        structure.check_complete(io.BytesIO(data))


def test_data_that_a_camera_appends_are_ignored(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("h264.mp4", "start.mp4", "xvid.avi", "a.gif"):
        (tmp_path / name).write_bytes(files[name].read_bytes() + b"\xff\xff\xff\xffSEFT" + b"note" * 9)
        assert len(read_video(tmp_path / name)[0]) == COUNT


def test_the_first_frames_that_an_edit_list_hides_are_hidden(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("trimmed.mp4", "trimmed.mkv"):
        path = remux(files["h264.mp4"], tmp_path / name, -0.45, {"avoid_negative_ts": "disabled"})
        clip = read_video(path)[0]
        assert [number_of(frame) for frame in clip] in (list(range(4, COUNT)), list(range(5, COUNT)))
        assert number_of(frames_at(path.read_bytes(), [0.0])[0]) == number_of(clip[0])


def test_a_video_that_starts_late_is_read_from_its_start(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("late.mp4", "late.mkv"):
        path = remux(files["h264.mp4"], tmp_path / name, 2.0)
        assert check_file(path).start == pytest.approx(2.0)
        assert [number_of(frame) for frame in read_video(path)[0]] == list(range(COUNT))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize("is_marked", [True, False])
def test_a_cover_picture_is_not_the_video(tmp_path: Path, name: str, is_marked: bool) -> None:
    with av.open(tmp_path / name, "w") as container:
        cover = add_picture(container)
        cover.disposition = Disposition.attached_pic if is_marked else Disposition.default
        mux_numbered(container, [add_video(container)], cover)
    assert [number_of(frame) for frame in read_video(tmp_path / name)[0]] == list(range(COUNT))
    assert check_file(tmp_path / name).fps == pytest.approx(10)


def test_an_attached_picture_is_not_the_video(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(picture, "PNG")
    with av.open(tmp_path / "a.mkv", "w") as container:
        container.add_attachment("cover.png", "image/png", picture.getvalue())
        mux_numbered(container, [add_video(container)])
    with av.open(tmp_path / "a.mkv") as container:
        assert len(container.streams.video) == 2
    assert [number_of(frame) for frame in read_video(tmp_path / "a.mkv")[0]] == list(range(COUNT))


def add_picture(container: Any) -> Any:
    cover = container.add_stream("mjpeg", 1)
    cover.height, cover.width, cover.pix_fmt = 20, 20, "yuvj420p"
    return cover


def add_video(container: Any) -> Any:
    stream = container.add_stream("libx264", 10)
    stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
    return stream


def mux_numbered(container: Any, streams: list[Any], cover: Any = None) -> None:
    """Write numbered frames to the last stream, black ones to the others, and a cover picture."""
    if cover is not None:
        picture = av.VideoFrame.from_ndarray(np.zeros((20, 20, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode(None)])
    for index, array in enumerate(numbered(COUNT)):
        for stream in streams:
            shown = array if stream is streams[-1] else np.zeros_like(array)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
    for stream in streams:
        container.mux(stream.encode(None))


def test_of_several_videos_the_default_one_is_read(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mkv", "w") as container:
        streams = [add_video(container), add_video(container)]
        for stream, disposition in zip(streams, (0, Disposition.default), strict=True):
            stream.disposition = disposition
        mux_numbered(container, streams)
    assert [number_of(frame) for frame in read_video(tmp_path / "a.mkv")[0]] == list(range(COUNT))


def test_a_cover_picture_alone_and_an_unknown_codec_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    with av.open(tmp_path / "cover.mp4", "w") as container:
        sound: Any = container.add_stream("aac", 8000)
        cover = add_picture(container)
        cover.disposition = Disposition.attached_pic
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.sample_rate = 8000
        frame = av.VideoFrame.from_ndarray(np.zeros((20, 20, 3), np.uint8), format="rgb24")
        container.mux([*sound.encode(tone), *sound.encode(None), *cover.encode(frame), *cover.encode(None)])
    (tmp_path / "codec.mp4").write_bytes(files["h264.mp4"].read_bytes().replace(b"avc1", b"zzzz"))
    for name, says in (("cover.mp4", "a cover picture but no video"), ("codec.mp4", "its codec is unknown")):
        with pytest.raises(UserError, match=says):
            read_video(tmp_path / name)
        with pytest.raises(VideoError, match=says):
            check_file(tmp_path / name)


def test_metadata_that_are_not_utf_8_are_accepted(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["h264.mp4"].read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler")
    (tmp_path / "a.mp4").write_bytes(data)
    assert len(read_video(tmp_path / "a.mp4")[0]) == COUNT


# Times

UNEVEN = [*(index / 30 for index in range(30)), *(1 + 0.3 * index for index in range(10))]
"""30 frames in the first second, 10 in the next three."""


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mp4", "libx264", "yuv420p"), ("a.mkv", "libx264", "yuv420p"), ("a.webm", "libvpx-vp9", "yuv420p")],
)
def test_frames_of_different_durations_are_resampled_at_even_times(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    path = encode(tmp_path / name, numbered(40), codec, pix_fmt, times=UNEVEN, last_duration=0.3)
    clip, rate = read_video(path)
    assert len(clip) == 40
    assert float(rate or 0) == pytest.approx(10, abs=0.6)
    shown = [UNEVEN[number_of(frame)] for frame in clip]
    moments = np.linspace(
        0.02, check_file(path).duration - 0.02, 40
    )  # not 4 s: the duration of the last frame is uncertain
    assert all(-0.01 <= moment - time <= 0.31 for moment, time in zip(moments, shown, strict=True))
    assert (shown[0], shown[-1]) == (0, UNEVEN[-1])


def write_uneven_gif(path: Path, delays: list[int]) -> None:
    pictures = [Image.fromarray(frame) for frame in numbered(len(delays), 8, 8)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=delays)


def test_the_delays_of_a_gif_are_used(tmp_path: Path) -> None:
    write_uneven_gif(tmp_path / "a.gif", [50] * 10 + [1000])
    clip, rate = read_video(tmp_path / "a.gif")
    assert len(clip) == 11
    assert float(rate or 0) == pytest.approx(11 / 1.5, abs=0.1)
    assert [number_of(frame) for frame in clip[4:]] == [10] * 7


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.floats(-5, 1e6))
def test_evenly_spaced_frames_are_in_order(durations: list[float], start: float) -> None:
    times = (start + np.cumsum([0, *durations])[:-1]).tolist()
    timeline = Timeline(times, sum(durations))
    even = timeline.evenly_spaced()
    assert len(even) == len(times)
    assert even == sorted(even)
    assert even[0] >= 0
    assert even[-1] < len(times)


@given(
    st.integers(1, 400), st.sampled_from([10, 24, 25, 29.97, 30, 59.94, 60]), st.sampled_from([1e-3, 1 / 90000, 1e-5])
)
def test_all_frames_of_an_even_video_are_kept_despite_rounded_times(count: int, fps: float, tick: float) -> None:
    times = [round(index / fps / tick) * tick for index in range(count)]
    assert Timeline(times, times[-1] + round(1 / fps / tick) * tick).evenly_spaced() == list(range(count))


def test_the_stated_rate_is_used_if_it_fits(files: dict[str, Path]) -> None:
    timeline = Timeline([0.0, 0.1, 0.2], 0.3)
    assert timeline.rate(Fraction(10)) == 10
    assert timeline.rate(Fraction(1000)) == timeline.rate(None) == 10
    assert Timeline([0.0], 0.0).rate(None) is None


def test_times_that_do_not_rise_are_one_line(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", numbered(4), "ffv1", times=[0.0, 0.1, 0.2, 0.3])
    data = bytearray(path.read_bytes())
    block = data.index(b"\x81\x00\xc8")  # track 1, 200 ms
    data[block + 1 : block + 3] = b"\x00\x32"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"do not rise at 0\.05 s"):
        read_video(path)


# Limits


def gif(width: int, height: int, frames: int) -> bytes:
    """Return a GIF of that size whose frames have one pixel each."""
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    for index in range(frames):
        data += b"\x21\xf9\x04\x00" + struct.pack("<HB", 10, 0) + b"\x00"
        data += b"\x2c" + struct.pack("<HHHHB", index % 10, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return data + b"\x3b"


def test_frames_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif(16000, 16000, 100))
    with pytest.raises(UserError, match="at most 16,777,216 are read"):
        read_video(tmp_path / "a.gif")
    with pytest.raises(VideoError, match="at most 16,777,216 are read"):
        frames_at(gif(16000, 16000, 100), [0.0])


def test_pixels_are_not_stretched_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from show1_jax.media import display

    path = encode(tmp_path / "a.mp4", numbered(3), pixel_aspect=Fraction(4))
    monkeypatch.setattr(display, "MAX_FRAME_PIXELS", HEIGHT * WIDTH * 3)
    with pytest.raises(UserError, match="more than"):
        read_video(path)


@pytest.mark.parametrize(("name", "limit"), [("MAX_FRAMES", 19), ("MAX_DECODED_PIXELS", HEIGHT * WIDTH * 19)])
def test_a_video_that_is_too_long_is_one_line(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(containers, name, limit)
    with pytest.raises(UserError, match="it is too long"):
        read_video(files["h264.mp4"])


def test_a_table_that_declares_too_many_samples_is_refused_before_it_is_allocated(files: dict[str, Path]) -> None:
    """FFmpeg allocates 60 bytes for each sample of equal size, even if the file does not contain it."""
    data = bytearray(files["start.mp4"].read_bytes())
    sizes = data.index(b"stsz") + 8
    data[sizes : sizes + 8] = struct.pack(">II", 1, 80_000_000)
    with pytest.raises(VideoError, match="declares 80,000,000 samples"), open_video(io.BytesIO(data)):
        pass
    data = bytearray(files["fragments.mp4"].read_bytes())
    run = data.index(b"trun") + 8
    data[run : run + 4] = struct.pack(">I", 60_000_000)
    with pytest.raises(VideoError, match=r"declares 60,.* samples"), open_video(io.BytesIO(data)):
        pass


def test_boxes_nested_without_end_are_ignored() -> None:
    data = b"".join(struct.pack(">I", 8 * (5000 - index)) + b"moov" for index in range(5000))
    structure.check_complete(io.BytesIO(data))


@given(
    st.binary(max_size=300),
    st.sampled_from([b"\0\0\0\x18ftyp", b"\x1aE\xdf\xa3", b"RIFF\xff\0\0\0AVI ", b"GIF89a", b""]),
)
@settings(max_examples=300)
def test_any_bytes_are_complete_or_a_video_error(data: bytes, head: bytes) -> None:
    with suppress(VideoError):
        structure.check_complete(io.BytesIO(head + data))
