"""The user's own files as training clips: what is read, at which times, and what is refused."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from show1_jax.config.training import DataConfig
from show1_jax.data import clip_files
from show1_jax.data.clip_files import ClipFiles, PictureMoves
from show1_jax.data.clips import open_sources, training_clips, validation_clips
from show1_jax.data.names import one_line
from show1_jax.data.spec import ClipDraw, ClipSpec
from show1_jax.errors import UserError
from show1_jax.media.read import read_video
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import GcsServer
from tests.helpers.media_files import corner_marked, encode, number_of, numbered

KEYFRAMES = ClipSpec(num_frames=8, fps=2, height=48, width=64)
SECONDS = KEYFRAMES.seconds
SMALL = ClipSpec(num_frames=2, fps=2, height=8, width=16)
CONFIG = DataConfig(name="files", caption="a thing moves", num_validation=0)
MIDDLE = ClipDraw(0.5, 0.5)


def open_files(path: Path, caption: str = "a thing", spec: ClipSpec = KEYFRAMES, seconds: float = SECONDS) -> ClipFiles:
    return ClipFiles.open(path, caption, spec, seconds)


def save_picture(path: Path, level: int = 200) -> Path:
    Image.fromarray(np.full((48, 64, 3), level, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(("count", "fps"), [(29, 8), (8, 24), (20, 10)])
def test_a_video_of_any_length_is_one_clip_as_sampling_reads_it(tmp_path: Path, count: int, fps: int) -> None:
    path = encode(tmp_path / "clip.mp4", numbered(count), fps=fps)
    clip, caption = open_files(path).clip(0, KEYFRAMES, ClipDraw(0.99, 0.0))
    even = np.linspace(0, count - 1, 8).round().astype(int).tolist()
    assert ([number_of(frame) for frame in clip], caption) == (even, "a thing")
    np.testing.assert_allclose(clip / 127.5 - 1, read_video(path, (48, 64), 8)[0], atol=1e-6)


def test_frames_that_fit_come_back_level_for_level(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), np.uint8)
    np.save(tmp_path / "clip.npy", frames)
    clip, _ = open_files(tmp_path / "clip.npy").clip(0, KEYFRAMES, MIDDLE)
    np.testing.assert_array_equal(clip, frames)


def test_other_stages_take_windows_of_the_whole_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", numbered(29), fps=24)
    window = ClipSpec(num_frames=5, fps=8, height=48, width=64)
    files = open_files(path, spec=window)
    starts = [number_of(files.clip(0, window, ClipDraw(start, 0.5))[0][0]) for start in (0.0, 0.5, 0.999)]
    assert starts == [0, 12, 24]
    assert [number_of(frame) for frame in files.clip(0, window, ClipDraw(0.999, 0.5))[0]] == [24, 25, 26, 27, 28]


def test_a_picture_is_a_video_of_equal_frames(tmp_path: Path) -> None:
    Image.fromarray(corner_marked()).save(tmp_path / "picture.png")
    clip, _ = open_files(tmp_path / "picture.png").clip(0, KEYFRAMES, MIDDLE)
    np.testing.assert_array_equal(clip, np.broadcast_to(corner_marked(), (8, 48, 64, 3)))


def test_a_folder_is_read_in_natural_order_with_its_captions(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save_picture(tmp_path / f"picture{number}.png", 10 * number)
        (tmp_path / f"picture{number}.txt").write_text(f" caption\n{number} ")
    (tmp_path / ".hidden.doc").touch()
    (tmp_path / "subfolder").mkdir()
    files = open_files(tmp_path, caption="")
    assert [files.name(position) for position in range(len(files))] == ["picture1.png", "picture2.png", "picture10.png"]
    assert [int(files.clip(position, KEYFRAMES, MIDDLE)[0].mean()) for position in range(3)] == [10, 20, 100]
    assert files.captions == ("caption 1", "caption 2", "caption 10")
    assert open_files(tmp_path, "one").captions == ("one",) * 3


def test_a_batch_repeats_a_few_files_and_resumes(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", numbered(8))
    config = replace(CONFIG, path=str(path))
    sources = open_sources(config, SMALL, SECONDS)
    clips = training_clips(config, SMALL, batch_size=3, rows=range(3), sources=sources)
    first, second = next(clips), next(clips)
    assert first.video.shape == (3, 2, 8, 16, 3)
    assert first.captions == ["a thing moves"] * 3
    again = training_clips(config, SMALL, batch_size=3, rows=range(3), sources=sources)
    again.set_state({"next_batch": 1, "failures": clips.get_state()["failures"]})
    np.testing.assert_array_equal(next(again).video, second.video)
    clips.close()
    again.close()


def test_held_back_files_are_not_trained_on(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / f"{number}.png", 50 * number)
    config = replace(CONFIG, path=str(tmp_path), num_validation=1)
    clips = training_clips(config, SMALL, batch_size=2, rows=range(2))
    assert {int(video.mean()) for _ in range(4) for video in next(clips).video} == {50, 100}
    clips.close()
    (batch,) = validation_clips(config, SMALL, batch_size=1, rows=range(1))
    assert (batch.video.max(), batch.valid.tolist()) == (0, [True])
    with pytest.raises(UserError, match=r"3 files, too few for data.num_validation=3"):
        training_clips(replace(config, num_validation=3), SMALL, batch_size=1, rows=range(1))


@pytest.mark.parametrize("num_validation", [0, 1])
def test_files_are_read_once_for_training_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_validation: int
) -> None:
    for number in range(2):
        save_picture(tmp_path / f"{number}.png")
    config = replace(CONFIG, path=str(tmp_path), num_validation=num_validation)
    sources = open_sources(config, SMALL)
    monkeypatch.setattr(ClipFiles, "open", lambda *arguments: pytest.fail("the files are read again"))
    with contextlib.closing(training_clips(config, SMALL, batch_size=1, rows=[0], sources=sources)) as clips:
        assert next(clips).video.shape == (1, 2, 8, 16, 3)
    assert len(validation_clips(config, SMALL, batch_size=1, rows=[0], sources=sources)) == num_validation


def test_files_in_a_bucket_are_those_on_disk(gcs: GcsServer, tmp_path: Path) -> None:
    """A folder with captions, and a single file; an error names the place in the bucket."""
    encode(tmp_path / "clip.mp4", numbered(8))
    (tmp_path / "clip.txt").write_text("a thing moves")
    upload_folder(gcs, tmp_path, "mine")
    url, here = f"gs://{BUCKET}/mine", replace(CONFIG, caption="", path=str(tmp_path))
    identity = open_sources(here, SMALL, SECONDS).identity
    assert open_sources(replace(here, path=url), SMALL, SECONDS).identity == identity
    assert open_sources(replace(here, path=f"{url}/clip.mp4"), SMALL, SECONDS).identity == identity
    gcs.write(BUCKET, "mine/second.mp4", b"no video")
    with pytest.raises(UserError, match=f"^{url}/second.mp4 has no caption; .* or write second.txt"):
        open_sources(replace(here, path=url), SMALL, SECONDS)
    with pytest.raises(UserError, match=f"{url}/second.mp4"):
        open_sources(replace(here, path=url, caption="a thing moves"), SMALL, SECONDS)
    gcs.write(BUCKET, "mine/notes.doc", b"")
    gcs.requests.clear()
    with pytest.raises(UserError, match=f"^{url} has notes.doc, which cannot be read"):
        open_sources(replace(here, path=url), SMALL, SECONDS)
    assert not any("mp4" in request.name for request in gcs.requests)  # refused before any file is copied
    with pytest.raises(UserError, match=f"there is no {url}/none; give a video, a picture or a folder"):
        open_sources(replace(here, path=f"{url}/none"), SMALL, SECONDS)


def test_other_frames_or_captions_are_other_data(tmp_path: Path) -> None:
    def fingerprint(level: int, caption: str) -> str:
        config = replace(CONFIG, path=str(save_picture(tmp_path / "picture.png", level)), caption=caption)
        return training_clips(config, SMALL, batch_size=1, rows=range(1)).fingerprint

    assert len({fingerprint(1, "one"), fingerprint(2, "one"), fingerprint(1, "two")}) == 3
    assert fingerprint(1, "one") == fingerprint(1, " one ")


def test_other_moves_are_other_data(tmp_path: Path) -> None:
    config = replace(CONFIG, path=str(save_picture(tmp_path / "picture.png")))
    moves: list[dict[str, Any]] = [{}, {"pan": 0.1}, {"zoom": 0.1}, {"jitter": 0.1}, {"jitter": 0.2}]
    found = {training_clips(replace(config, **move), SMALL, batch_size=1, rows=range(1)).fingerprint for move in moves}
    assert len(found) == len(moves)


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_caption_is_kept_as_one_line_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "picture.png"
    if not path.exists():
        save_picture(path)
    if text and not one_line(text):
        with pytest.raises(UserError, match="white space"):
            open_files(path, text, SMALL)
    elif text:
        assert open_files(path, text, SMALL).captions == (one_line(text),)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_path_is_read_or_refused_with_one_line(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_files(tmp_path_factory.getbasetemp() / "absent" / name, spec=SMALL)
    assert "\n" not in str(caught.value)


def write_text(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("prepare", "caption", "problem"),
    [
        (lambda folder: None, "a thing", "has no files to train on"),
        (write_text("notes.doc", b"x"), "a thing", r"has notes\.doc, which cannot be read"),
        (write_text("other.txt", b"x"), "a thing", r"has other\.txt without a clip of its name"),
        (write_text("picture.png", b"not a picture"), "a thing", r"cannot read the image .*picture\.png"),
        (write_text("video.mp4", b"not a video"), "a thing", r"cannot decode .*video\.mp4"),
        (lambda folder: save_picture(folder / "picture.png"), "", "has no caption; give one for all files"),
        (lambda folder: save_picture(folder / "picture.png"), "x" * 10_001, "has 10,001 characters"),
        (lambda folder: save_picture(folder / "picture.png"), "\udcff", "not valid Unicode"),
        (
            lambda folder: encode(folder / "short.mp4", numbered(5)),
            "a thing",
            "8 frames are needed and the video has 5",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, prepare: Callable[[Path], object], caption: str, problem: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(UserError, match=problem):
        open_files(tmp_path, caption)


@pytest.mark.parametrize("text", [b"\xff\xfe", b" \n", b"nan"])
def test_captions_beside_files_are_checked(tmp_path: Path, text: bytes) -> None:
    save_picture(tmp_path / "picture.png")
    (tmp_path / "picture.txt").write_bytes(text)
    with pytest.raises(UserError, match=r"picture\.txt: "):
        open_files(tmp_path, "")


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "picture.png")
    monkeypatch.setattr(clip_files, "MAX_BYTES", 48 * 64 * 3 * 7)
    with pytest.raises(UserError, match="too many to keep in memory"):
        open_files(tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.doc").touch()
    with pytest.raises(UserError, match="neither a video nor a picture"):
        open_files(tmp_path / "clip.doc")
    with pytest.raises(UserError, match="there is no"):
        open_files(tmp_path / "absent.mp4")


def test_a_picture_pans_by_the_distance_and_in_the_direction_that_are_drawn(tmp_path: Path) -> None:
    """A white pixel at (20, 30) of 48 rows; half of the height to the right, or a quarter down."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[20, 30] = 255
    Image.fromarray(picture).save(tmp_path / "dot.png")
    encode(tmp_path / "video.mp4", numbered(29), fps=8)
    files = ClipFiles.open(tmp_path, "a thing", replace(KEYFRAMES, num_frames=5), SECONDS, PictureMoves(pan=0.5))
    places = {}
    for direction, distance in ((0.0, 1.0), (0.25, 0.5)):
        clip, _ = files.clip(0, replace(KEYFRAMES, num_frames=5), ClipDraw(distance, direction))
        places[direction] = [tuple(np.argwhere(frame[..., 0] == 255)[0].tolist()) for frame in clip]
    assert places[0.0] == [(20, 18), (20, 24), (20, 30), (20, 36), (20, 42)]
    assert places[0.25] == [(14, 30), (17, 30), (20, 30), (23, 30), (26, 30)]
    image = replace(KEYFRAMES, num_frames=1)
    np.testing.assert_array_equal(files.clip(0, image, ClipDraw(1.0, 0.0))[0], picture[None])
    still = ClipFiles.open(tmp_path, "a thing", KEYFRAMES, SECONDS)
    video, _ = files.clip(1, KEYFRAMES, ClipDraw(0.9, 0.3))  # a video is not moved
    np.testing.assert_array_equal(video, still.clip(1, KEYFRAMES, ClipDraw(0.9, 0.3))[0])
    assert all((frame == picture).all() for frame in still.clip(0, KEYFRAMES, ClipDraw(0.9, 0.3))[0])


def dot_places(clip: np.ndarray) -> np.ndarray:
    """Return the centre of a white square on black in each frame, in pixels, and its side."""
    mass = clip[..., 0].astype(float)
    area = mass.sum((1, 2))
    rows, columns = (np.arange(size) + 0.5 for size in mass.shape[1:])
    return np.stack([mass.sum(2) @ rows / area, mass.sum(1) @ columns / area, np.sqrt(area / 255)], axis=1)


@pytest.mark.parametrize("oversampling", [0.5, 1, 3, 8])
def test_jitter_places_and_enlarges_a_whole_clip(tmp_path: Path, oversampling: float) -> None:
    """Within the limits, in both directions, and by the same in all frames; the picture may have any resolution."""
    height, width = (round(size * oversampling) for size in (48, 64))
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height * 5 // 12 : height * 7 // 12, width * 7 // 16 : width * 9 // 16] = 255
    Image.fromarray(picture).save(tmp_path / "square.png")
    files = ClipFiles.open(tmp_path, "a thing", KEYFRAMES, SECONDS, PictureMoves(jitter=0.2))
    draws = np.random.default_rng(0).random((40, 2)).tolist()
    clips = [files.clip(0, KEYFRAMES, ClipDraw(*draw))[0] for draw in draws]
    assert all((clip == clip[0]).all() for clip in clips)
    places = np.stack([dot_places(clip[:1])[0] for clip in clips]) - [24, 32, 0]
    assert (np.abs(places[:, :2]) <= 0.2 * 48 + 0.1).all()
    assert (places[:, :2].min(0) < -6).all()
    assert (places[:, :2].max(0) > 6).all()
    assert 8 / 1.2 - 0.3 <= places[:, 2].min() < 7.4
    assert 8.8 < places[:, 2].max() <= 8 * 1.2 + 0.3


def test_zoom_grows_and_shrinks_a_picture_during_a_clip(tmp_path: Path) -> None:
    picture = np.zeros((192, 256, 3), np.uint8)
    picture[80:112, 112:144] = 255
    Image.fromarray(picture).save(tmp_path / "square.png")
    files = ClipFiles.open(tmp_path, "a thing", KEYFRAMES, SECONDS, PictureMoves(zoom=0.5))
    draws = np.random.default_rng(0).random((20, 2)).tolist()
    places = np.stack([dot_places(files.clip(0, KEYFRAMES, ClipDraw(*draw))[0]) for draw in draws])
    np.testing.assert_allclose(places[..., :2], np.broadcast_to([24.0, 32.0], (20, 8, 2)), atol=0.05)
    growth = places[:, -1, 2] / places[:, 0, 2]
    assert 1 / 1.52 <= growth.min() < 0.8
    assert 1.25 < growth.max() <= 1.52


def test_a_clip_of_a_moving_picture_is_a_function_of_its_draw(tmp_path: Path) -> None:
    files = ClipFiles.open(save_picture(tmp_path / "picture.png"), "a", KEYFRAMES, SECONDS, PictureMoves(0.2, 0.2, 0.2))
    clip, _ = files.clip(0, KEYFRAMES, ClipDraw(0.3, 0.7))
    np.testing.assert_array_equal(clip, files.part(slice(0, 1)).clip(0, KEYFRAMES, ClipDraw(0.3, 0.7))[0])
    assert (clip == 200).all()  # the border is repeated, without black
