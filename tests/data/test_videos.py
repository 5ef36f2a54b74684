"""Building a dataset from videos and reading clips from it: skipped videos, frames, and the order of clips."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from show1_jax.config.training import DataConfig
from show1_jax.data import dataset as dataset_files
from show1_jax.data import decode
from show1_jax.data.__main__ import main
from show1_jax.data.building import builder
from show1_jax.data.clips import ClipBatch, ClipIterator, training_clips, validation_clips
from show1_jax.data.failures import VideoError
from show1_jax.data.order import Order, shuffled
from show1_jax.data.spec import ClipSpec
from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.media.write import write_mp4
from tests.helpers.clip_batches import assert_equal, read_batches

FPS, FRAMES, HEIGHT, WIDTH = 8, 33, 24, 32
SPEC = ClipSpec(num_frames=8, fps=2, height=10, width=16)
CORRUPT = {"v005": "it is cut short", "v050": "the file is empty", "v077": "Invalid data"}
NUM_VALIDATION, BATCH = 7, 10


def counting_video(hue: int) -> np.ndarray:
    """Return frames whose green is 7 x their number, and whose red is unique."""
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[..., 0] = hue
    frames[..., 1] = 7 * np.arange(FRAMES)[:, None, None]
    return frames


@pytest.fixture(scope="session")
def mp4s(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Ten small videos of 33 frames at 8 fps."""
    folder = tmp_path_factory.mktemp("mp4s")
    for number in range(10):
        write_mp4(folder / f"{number}.mp4", counting_video(25 * number), FPS)
    return [(folder / f"{number}.mp4").read_bytes() for number in range(10)]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory, mp4s: list[bytes]) -> Path:
    """200 videos with their captions, three of them corrupt: cut in half, empty, noise."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(200):
        (folder / f"v{number:03}.mp4").write_bytes(mp4s[number % 10])
        (folder / f"v{number:03}.txt").write_text(f"caption {number}\n")
    (folder / "v005.mp4").write_bytes(mp4s[5][: len(mp4s[5]) // 2])
    (folder / "v050.mp4").write_bytes(b"")
    (folder / "v077.mp4").write_bytes(np.random.default_rng(0).bytes(3000))
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A dataset of several shards, built from `videos`."""
    out = tmp_path_factory.mktemp("datasets") / "videos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_BYTES", 300_000)
        builder.build(videos, out)
    assert len(list(out.glob("*.array_record*"))) > 1
    return out


@pytest.fixture
def config(dataset: Path) -> DataConfig:
    return DataConfig(path=str(dataset), num_validation=NUM_VALIDATION, max_failed_share=0.1)


def batches(
    config: DataConfig, num: int, rows: range = range(BATCH), start: dict | None = None, spec: ClipSpec = SPEC
) -> list[ClipBatch]:
    iterator = training_clips(config, spec, batch_size=BATCH, rows=rows)
    if start:
        iterator.set_state(start)
    return read_batches(iterator, num)


# Building


def test_three_corrupt_of_200_are_skipped_and_named(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoding in threads and in processes makes the same files."""
    for num_workers in (0, 2):
        report = builder.build(videos, tmp_path / str(num_workers), num_workers=num_workers)
        assert report.num_videos == 197
        assert report.skipped.keys() == CORRUPT.keys()
        out, err = capfd.readouterr()
        assert out == ""
        for name, reason in CORRUPT.items():
            assert reason in report.skipped[name]
            assert f"skipped {name}: {report.skipped[name]}" in err
        assert "197 videos, 3 skipped" in err
    assert sorted(os.listdir(tmp_path)) == ["0", "2"]
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_a_dataset_keeps_files_and_captions_and_tfds_reads_it(videos: Path, dataset: Path) -> None:
    import tensorflow_datasets as tfds

    records = tfds.builder_from_directory(dataset).as_data_source(split="train")
    assert len(records) == 197
    for record in (records[0], records[196]):
        name = record["name"].decode()
        assert record["video"] == (videos / f"{name}.mp4").read_bytes()
        assert record["caption"].decode() == f"caption {int(name[1:])}"
        assert record["duration"] == pytest.approx(FRAMES / FPS)
        assert record["fps"] == pytest.approx(FPS)


def test_building_and_reading_work_without_tensorflow(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from show1_jax.data.building.builder import build\n"
        "from show1_jax.data.videos import VideoSource\n"
        f"build(Path({str(folder)!r}), Path({str(tmp_path / 'out')!r}))\n"
        f"assert len(VideoSource.open(Path({str(tmp_path / 'out')!r}))) == 2\n"
        "assert not {'jax', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path, mp4s: list[bytes]) -> Path:
    """Two good videos with captions."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(mp4s[0])
        (folder / f"{name}.txt").write_text(name)
    return folder


def test_short_videos_are_skipped(folder: Path, tmp_path: Path) -> None:
    write_mp4(folder / "a.mp4", counting_video(0)[:27], FPS)
    report = builder.build(folder, tmp_path / "out")
    assert report.skipped == {"a": "it lasts 3.38 s, less than 3.5 s"}
    assert builder.build(folder, tmp_path / "all", min_seconds=3).num_videos == 2


def test_a_damaged_frame_inside_is_found(folder: Path, mp4s: list[bytes], tmp_path: Path) -> None:
    damaged = bytearray(mp4s[0])
    middle = damaged.index(b"mdat") + 2000
    damaged[middle : middle + 60] = np.random.default_rng(0).bytes(60)
    (folder / "a.mp4").write_bytes(damaged)
    report = builder.build(folder, tmp_path / "out")
    assert list(report.skipped) == ["a"]


def test_nothing_usable_is_an_error_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no video of .* can be used"):
        builder.build(folder, tmp_path / "out", min_seconds=60)
    assert os.listdir(tmp_path) == ["videos"]


def test_what_exists_is_replaced_only_when_asked_and_ours(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    builder.build(folder, out)
    (folder / "b.txt").unlink()
    with pytest.raises(UserError, match="--overwrite"):
        builder.build(folder, out)
    assert builder.build(folder, out, overwrite=True).num_videos == 1
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with pytest.raises(UserError, match="is no dataset"):
        builder.build(folder, tmp_path / "foreign", overwrite=True)
    assert (tmp_path / "foreign" / "file").exists()


FULL = "write() failed: No space left on device; writing a.array_record; Failed to close chunk_writer"


@pytest.mark.parametrize(
    ("failure", "raised", "says"),
    [
        (RuntimeError(FULL), UserError, "out: the disk is full, nothing was kept"),
        (OSError(28, "No space left on device"), UserError, "out: the disk is full, nothing was kept"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["array_record", "file", "interrupt"],
)
@pytest.mark.parametrize("existed", [False, True])
def test_a_failure_while_writing_leaves_what_was_there(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    raised: type[BaseException],
    says: str | None,
    existed: bool,
) -> None:
    from array_record.python import array_record_module

    class FullDisk:
        def __init__(self, *_: object) -> None: ...
        def write(self, _: bytes) -> None: ...
        def close(self) -> None:
            raise failure

    if existed:
        builder.build(folder, tmp_path / "out")
    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", FullDisk)
    with pytest.raises(raised, match=says):
        builder.build(folder, tmp_path / "out", overwrite=existed)
    assert sorted(os.listdir(tmp_path)) == ["out", "videos"][not existed :]
    if existed:
        monkeypatch.undo()
        assert len(VideoSource.open(tmp_path / "out")) == 2


def test_a_disk_that_is_too_small_is_refused_before_writing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"/out: needs 0\.0 GB, the disk has 0\.0 GB free; .* with --out"):
        builder.build(folder, tmp_path / "out")
    assert os.listdir(tmp_path) == ["videos"]


@pytest.mark.parametrize("change", [b"other", None])
def test_a_video_that_changes_while_building_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes | None
) -> None:
    def check_and_change(path: Path) -> decode.VideoFacts:
        facts = decode.check_file(path)
        path.unlink()
        if change:
            path.write_bytes(change)
        return facts

    monkeypatch.setattr(builder, "check_file", check_and_change)
    with pytest.raises(UserError, match=r"changed while|any more"):
        builder.build(folder, tmp_path / "out")
    assert os.listdir(tmp_path) == ["videos"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["bild"], "invalid choice"),
        (["build"], "--videos, --out"),
        (["build", "--videos", "missing", "--out", "out"], "there is no folder missing"),
        (["build", "--videos", "missing", "--out", "out", "--min_seconds", "nan"], "nan must be at least 0.0"),
        (["build", "--videos", "missing", "--out", "out", "--num_workers", "-1"], "-1 must be at least 0"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_exporting_needs_tensorflow_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["export", "ucf101", "--fps", "25", "--out", str(tmp_path / "out")]) == 2
    assert "show1-jax[tfds-video]" in capsys.readouterr().err
    (tmp_path / "notes").touch()
    assert main(["export", "ucf101", "--fps", "25", "--out", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_the_command_builds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("videoid,contentUrl,duration,page_dir,name\na,,PT4S,,one\nc,,,,three\n")
    arguments = ["--videos", str(folder), "--captions", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")]
    assert main(["build", *arguments]) == 0
    err = capsys.readouterr().err
    assert "1 videos, 0 skipped" in err
    assert "left out 1: it is not in the table: b\n" in err
    assert "left out 1: the table has it, but there is no such video: c\n" in err


# Decoding


def test_frames_are_those_shown_at_the_times(mp4s: list[bytes]) -> None:
    times = [0.0, 0.1249, 0.125, 0.3, 1.99, 2.0, 4.1, 99.0]
    shown = [round(float(frame[..., 1].mean()) / 7) for frame in decode.frames_at(mp4s[0], times)]
    assert shown == [0, 0, 1, 2, 15, 16, 32, 32]


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_seeking_gives_what_decoding_everything_gives(tmp_path: Path, container: str) -> None:
    """A video with several keyframes, and with frames stored in another order than they are shown."""
    import av

    rng = np.random.default_rng(0)
    with av.open(tmp_path / f"clip.{container}", "w") as output:
        stream = output.add_stream("libx264", 10, {"g": "6", "bf": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (16, 16, 3), np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = (tmp_path / f"clip.{container}").read_bytes()
    start = decode.check_file(tmp_path / f"clip.{container}").start
    whole = decode.frames_at(data, [start + index / 10 for index in range(30)])
    assert len({frame.tobytes() for frame in whole}) == 30
    for index in range(30):
        (alone,) = decode.frames_at(data, [start + index / 10 + 0.03])
        np.testing.assert_array_equal(alone, whole[index])


@pytest.mark.parametrize("data", [b"", b"noise" * 100, b"ffconcat version 1.0\nfile other.mp4\n"])
def test_what_is_no_video_raises(data: bytes) -> None:
    with pytest.raises(VideoError):
        decode.frames_at(data, [0.0])


@pytest.mark.parametrize(("position", "first", "last"), [(0.0, 0, 15), (0.5, 8, 23), (1.0, 16, 31)])
@pytest.mark.parametrize("upright", [False, True])
def test_a_crop_keeps_the_aspect_and_all_of_the_other_axis(
    position: float, first: int, last: int, upright: bool
) -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None], (16, 32, 3))
    frame = np.ascontiguousarray(np.swapaxes(ramp, 0, 1) if upright else ramp)
    cropped = decode.crop_and_resize(frame, 16, 16, position)
    line = cropped[:, 5, 0] if upright else cropped[5, :, 0]
    assert line.tolist() == list(range(first, last + 1))


def test_shrinking_is_anti_aliased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = decode.crop_and_resize(stripes, 9, 9, 0.5)
    assert np.abs(small.astype(int) - 127).max() < 12


# Order


def test_batches_are_clips_at_the_stages_rate_and_size(config: DataConfig) -> None:
    (batch,) = batches(config, 1)
    assert batch.video.shape == (BATCH, 8, 10, 16, 3)
    assert batch.video.dtype == np.uint8
    for clip, caption in zip(batch.video, batch.captions, strict=True):
        assert clip[..., 0].mean() == pytest.approx(25 * (int(caption.split()[1]) % 10), abs=4)
        numbers = np.round(clip[..., 1].mean((1, 2)) / 7)
        np.testing.assert_array_equal(np.diff(numbers), 4)


def test_starts_differ_from_clip_to_clip(config: DataConfig) -> None:
    firsts = {round(float(clip[0, ..., 1].mean()) / 7) for batch in batches(config, 4) for clip in batch.video}
    assert firsts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_the_order_does_not_depend_on_the_number_of_processes(config: DataConfig, num_processes: int) -> None:
    size = BATCH // num_processes
    parts = [batches(config, 3, range(first, first + size)) for first in range(0, BATCH, size)]
    joined = [
        ClipBatch(np.concatenate([part.video for part in same]), [text for part in same for text in part.captions])
        for same in zip(*parts, strict=True)
    ]
    assert_equal(joined, batches(config, 3))


def test_rows_may_be_any(config: DataConfig) -> None:
    (whole,) = batches(config, 1)
    iterator = training_clips(config, SPEC, batch_size=BATCH, rows=[7, 2, 3])
    some = next(iterator)
    iterator.close()
    assert some.captions == [whole.captions[row] for row in (7, 2, 3)]


def test_an_epoch_has_each_clip_once_and_the_next_another_order(config: DataConfig) -> None:
    frame = ClipSpec(1, 1, 4, 4)
    captions = [text for batch in batches(config, 38, spec=frame) for text in batch.captions]
    num_clips = 197 - NUM_VALIDATION
    epochs = captions[:num_clips], captions[num_clips : 2 * num_clips]
    assert set(Counter(epochs[0]).values()) == {1}
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    validation = validation_clips(config, frame, batch_size=BATCH, rows=range(BATCH))
    kept = {text for batch in validation for text in batch.captions}
    assert len(kept) == NUM_VALIDATION
    assert not kept & set(captions)


def test_the_order_is_that_of_every_machine_and_version(config: DataConfig) -> None:
    """Resumed runs depend on these numbers, which must never change."""
    assert [Order(197, 3).clip(element) for element in (0, 1, 196, 197, 10**9)] == [80, 78, 195, 163, 162]
    assert sorted(Order(197, 3).clip(197 * 5 + position) for position in range(197)) == list(range(197))
    assert sorted(shuffled(position, 1, "key") for position in range(1)) == [0]


@pytest.mark.parametrize("at", [2, 18], ids=["middle", "epoch's end"])
def test_a_resumed_iterator_continues_exactly(config: DataConfig, at: int) -> None:
    before = {"next_batch": at - 2, "failures": {"num_read": 0, "num_failed": 0, "named": {}}}
    whole = batches(config, 5, start=before)
    iterator = training_clips(config, SPEC, batch_size=BATCH, rows=range(BATCH))
    iterator.set_state(before)
    for _ in range(2):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    iterator.close()
    assert_equal(batches(config, 3, start=state), whole[2:])


def test_a_state_can_be_set_back(config: DataConfig) -> None:
    iterator = training_clips(config, SPEC, batch_size=BATCH, rows=range(BATCH))
    state = iterator.get_state()
    first = [next(iterator), next(iterator)]
    iterator.set_state(state)
    assert_equal([next(iterator), next(iterator)], first)
    iterator.close()


def test_closing_ends_the_threads(config: DataConfig) -> None:
    before = threading.active_count()
    batches(config, 1)
    deadline = time.monotonic() + 10  # a thread may need a moment to end
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_fingerprints_differ_where_the_clips_do(config: DataConfig, folder: Path, tmp_path: Path) -> None:
    def fingerprint(config: DataConfig, spec: ClipSpec = SPEC) -> str:
        return training_clips(config, spec, batch_size=1, rows=[0]).fingerprint

    builder.build(folder, tmp_path / "other")
    same = [fingerprint(config), fingerprint(replace(config, num_workers=2, max_failed_share=0.5))]
    others = [
        fingerprint(replace(config, seed=1)),
        fingerprint(replace(config, num_validation=1)),
        fingerprint(config, replace(SPEC, fps=4)),
        fingerprint(replace(config, path=str(tmp_path / "other"), num_validation=1)),
        fingerprint(replace(config, name="synthetic")),
    ]
    assert len({*same, *others}) == 1 + len(others)


# Failures


@pytest.fixture
def broken(dataset: Path, tmp_path: Path) -> Path:
    """The dataset with some bytes changed, so that a few records are damaged."""
    out = tmp_path / "broken"
    shutil.copytree(dataset, out)
    shard = sorted(out.glob("*.array_record*"))[0]
    data = bytearray(shard.read_bytes())
    for place in (100_000, 200_000):
        data[place : place + 64] = bytes(64)
    shard.write_bytes(data)
    return out


def read(config: DataConfig, rows: range = range(BATCH), num: int = 19) -> tuple[list[ClipBatch], ClipIterator]:
    iterator = training_clips(config, SPEC, batch_size=BATCH, rows=rows)
    try:
        return [next(iterator) for _ in range(num)], iterator
    finally:
        iterator.close()


def test_a_clip_that_fails_is_replaced_counted_and_named(
    config: DataConfig, broken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good, _ = read(config)
    config = replace(config, path=str(broken))
    whole, iterator = read(config)
    failures = iterator.failures.total
    assert failures.num_failed >= len(failures.named) > 0
    assert failures.num_read == 19 * BATCH + failures.num_failed
    err = capfd.readouterr().err
    for name, reason in failures.named.items():
        assert err.count(f"data: {name} cannot be read ({reason})") == 1
    texts = [[text for batch in some for text in batch.captions] for some in (good, whole)]
    assert 0 < sum(one != other for one, other in zip(*texts, strict=True)) <= failures.num_failed

    halves = [read(config, rows) for rows in (range(5), range(5, 10))]
    joined = [
        ClipBatch(np.concatenate([one.video, other.video]), one.captions + other.captions)
        for one, other in zip(halves[0][0], halves[1][0], strict=True)
    ]
    assert_equal(joined, whole)
    assert sum(half.failures.num_failed for _, half in halves) == failures.num_failed
    assert halves[0][1].failures.total.named | halves[1][1].failures.total.named == failures.named
    assert iterator.get_state()["failures"]["named"] == failures.named


def test_worker_processes_read_fail_and_resume_as_threads_do(config: DataConfig, broken: Path) -> None:
    """Across the end of an epoch, with a number of rows that the workers do not divide."""
    config, rows = replace(config, path=str(broken)), range(1, 8)
    threads, expected = read(config, rows, num=22)
    processes, iterator = read(replace(config, num_workers=2), rows, num=20)
    state = json.loads(json.dumps(iterator.get_state()))
    assert state["failures"]["num_failed"] > 0
    resumed = training_clips(config, SPEC, batch_size=BATCH, rows=rows)
    resumed.set_state(state)
    rest = [next(resumed), next(resumed)]
    resumed.close()
    assert_equal(processes + rest, threads)
    assert resumed.get_state() == expected.get_state()


def test_too_large_a_share_of_failures_stops(config: DataConfig, broken: Path) -> None:
    _, iterator = read(replace(config, path=str(broken), max_failed_share=0.0))
    with pytest.raises(UserError, match=r"of \d{3} clips cannot be read, the first .*max_failed_share"):
        iterator.check()
    _, iterator = read(replace(config, path=str(broken)))
    iterator.check()


def test_a_dataset_that_vanishes_stops(config: DataConfig, dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    iterator = training_clips(replace(config, path=str(tmp_path / "copy")), SPEC, batch_size=BATCH, rows=range(BATCH))
    shutil.rmtree(tmp_path / "copy")
    assert not next(iterator).video.any()
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be read"):
            iterator.check()
    iterator.close()


def test_a_failed_validation_clip_is_not_valid(config: DataConfig, broken: Path) -> None:
    config = replace(config, path=str(broken), num_validation=190)
    found = list(validation_clips(config, SPEC, batch_size=38, rows=range(38)))
    black = np.array([not clip.any() for batch in found for clip in batch.video])
    valid = np.concatenate([batch.valid for batch in found])
    assert 0 < black.sum() < 20
    np.testing.assert_array_equal(valid, ~black)


# Validation


@pytest.mark.parametrize("num_processes", [1, 2])
def test_validation_clips_are_fixed_and_the_last_batch_is_filled(config: DataConfig, num_processes: int) -> None:
    size = 4 // num_processes
    parts = [validation_clips(config, SPEC, batch_size=4, rows=range(n, n + size)) for n in range(0, 4, size)]
    assert [len(part) for part in parts] == [2] * num_processes
    for _ in range(2):
        found = list(zip(*parts, strict=True))
        assert [bool(v) for same in found for part in same for v in part.valid] == [True] * 7 + [False]
        captions = [text for same in found for part in same for text in part.captions]
        assert len(set(captions)) == 7
        assert captions[7] == captions[0]
        whole = list(validation_clips(replace(config, seed=9), SPEC, batch_size=4, rows=range(4)))
        assert captions == [text for batch in whole for text in batch.captions]
        video = np.concatenate([part.video for same in found for part in same])
        np.testing.assert_array_equal(video, np.concatenate([batch.video for batch in whole]))


# Refused at the start


@pytest.mark.parametrize(
    ("change", "batch_size", "says"),
    [
        ({"path": "missing"}, 1, "there is no dataset missing"),
        ({"num_validation": 198}, 1, "197 videos, fewer than data.num_validation=198"),
        ({"num_validation": 197}, 1, "0 clips are left to train on"),
        ({}, 191, "190 clips are left to train on, without 7 for validation, and a batch is 191"),
    ],
)
def test_what_cannot_train_is_refused(config: DataConfig, change: dict, batch_size: int, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        training_clips(replace(config, **change), SPEC, batch_size=batch_size, rows=[0])
    assert "\n" not in str(refusal.value)


def test_clips_longer_than_the_shortest_video_are_refused(config: DataConfig) -> None:
    with pytest.raises(UserError, match=r"9 frames at 1.5 fps span 5.33 s, and the shortest video .* lasts 4.12 s"):
        training_clips(config, ClipSpec(9, 1.5, 8, 8), batch_size=1, rows=[0])


def remove_shard(folder: Path) -> None:
    for path in folder.glob("*.array_record*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "dataset_info.json").unlink(), "is not a dataset of show1_jax"),
        (lambda folder: (folder / "dataset_info.json").write_text("{}"), "is not a dataset of show1_jax"),
        (lambda folder: (folder / "dataset_info.json").write_text('{"name": "captioned_videos"}'), "is damaged"),
        (lambda folder: (folder / "features.json").unlink(), "is damaged"),
        (lambda folder: (folder / "features.json").write_text("{}"), "is damaged"),
        (lambda folder: (folder / "metadata.json").unlink(), "is damaged"),
        (lambda folder: (folder / "metadata.json").write_text("[]"), "is damaged"),
        (remove_shard, "is damaged"),
    ],
)
def test_a_foreign_or_damaged_dataset_is_refused(
    config: DataConfig, dataset: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(dataset, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(UserError, match=says) as refusal:
        training_clips(replace(config, path=str(tmp_path / "copy")), SPEC, batch_size=1, rows=[0])
    assert "\n" not in str(refusal.value)


def test_a_spec_of_one_frame_spans_nothing(config: DataConfig) -> None:
    iterator = training_clips(config, ClipSpec(1, 8, 8, 8), batch_size=2, rows=range(2))
    assert next(iterator).video.shape == (2, 1, 8, 8, 3)
    iterator.close()
    assert ClipSpec(1, 8, 8, 8).seconds == 0


def test_one_thread_imports_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.11, two threads that use its lazy imports may wait for each other forever."""
    running = threading.Semaphore(1)

    def import_slowly() -> str:
        assert running.acquire(blocking=False)
        time.sleep(0.02)
        running.release()
        return "features"

    monkeypatch.setattr(dataset_files, "_features", import_slowly)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: dataset_files.features(), range(4))) == ["features"] * 4
