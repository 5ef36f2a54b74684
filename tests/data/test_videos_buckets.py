"""Training data in buckets: built there or uploaded, and the same batches as from disk."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from show1_jax.config.training import DataConfig
from show1_jax.data.__main__ import main
from show1_jax.data.building import builder
from show1_jax.data.clips import ClipBatch, training_clips, validation_clips
from show1_jax.data.spec import ClipSpec
from show1_jax.data.transfer.record import RECORD
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.clip_batches import assert_equal, read_batches
from tests.helpers.gcs_server import Answer, GcsServer
from tests.helpers.media_files import write_captioned_videos

SPEC = ClipSpec(num_frames=2, fps=2, height=10, width=16)
BATCH, NUM_VIDEOS, NUM_VALIDATION = 4, 7, 2
GCS, S3 = f"gs://{BUCKET}/sets/videos", f"s3://{BUCKET}/sets/videos"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned_videos(tmp_path_factory.mktemp("videos"), NUM_VIDEOS)


@pytest.fixture(scope="module")
def dataset(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of several shards on disk."""
    out = tmp_path_factory.mktemp("sets") / "videos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_BYTES", 3000)
        builder.build(videos, out, min_seconds=1)
    assert len(list(out.glob("*.array_record*"))) > 1
    return out


@pytest.fixture
def in_gcs(gcs: GcsServer, dataset: Path) -> GcsServer:
    """The server, with a copy of the dataset as another tool makes it."""
    upload_folder(gcs, dataset, "sets/videos")
    return gcs


def config(path: str | Path, copies: Path, num_workers: int = 0) -> DataConfig:
    return DataConfig(path=str(path), num_validation=NUM_VALIDATION, num_workers=num_workers, local_copies=str(copies))


def batches(data: DataConfig, rows: range = range(BATCH), first: int = 0) -> tuple[str, list[ClipBatch]]:
    iterator = training_clips(data, SPEC, batch_size=BATCH, rows=rows)
    iterator.set_state({"next_batch": first, "failures": iterator.get_state()["failures"]})
    return iterator.fingerprint, read_batches(iterator, 3)


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_batches_are_those_from_disk(
    request: pytest.FixtureRequest, dataset: Path, tmp_path: Path, scheme: str
) -> None:
    if scheme == "gs":
        request.getfixturevalue("in_gcs")
    else:
        request.getfixturevalue("s3_session")
        assert main(["upload", str(dataset), "--out", S3]) == 0
    url = GCS if scheme == "gs" else S3
    fingerprint, expected = batches(config(dataset, tmp_path))
    assert not list(tmp_path.iterdir())
    found, ours = batches(config(url, tmp_path))
    assert found == fingerprint  # a run may continue with the dataset in another place
    assert_equal(ours, expected)
    for rows in (range(0, 2), range(2, 4)):  # those of two processes
        parts = batches(config(url, tmp_path), rows, first=1)[1]
        for part, whole in zip(parts, batches(config(dataset, tmp_path), first=1)[1], strict=True):
            np.testing.assert_array_equal(part.video, whole.video[rows.start : rows.stop])
    theirs, own = (
        list(validation_clips(config(place, tmp_path), SPEC, batch_size=2, rows=range(2))) for place in (url, dataset)
    )
    np.testing.assert_array_equal(theirs[0].video, own[0].video)


def test_worker_processes_read_the_copy(in_gcs: GcsServer, dataset: Path, tmp_path: Path) -> None:
    _, expected = batches(config(dataset, tmp_path))
    in_gcs.requests.clear()
    _, ours = batches(config(GCS, tmp_path, num_workers=1))
    assert_equal(ours, expected)
    assert len(in_gcs.requests) < 3 * len(list(dataset.iterdir()))


def test_a_dataset_is_built_in_a_bucket(
    gcs: GcsServer, videos: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", "--videos", str(videos), "--out", GCS, "--min_seconds", "1"]
    assert main(arguments) == 0
    assert f"{GCS}: {NUM_VIDEOS} videos, 0 skipped" in capsys.readouterr().err
    assert f"sets/videos/{RECORD}" in gcs.names(BUCKET)
    assert_equal(batches(config(GCS, tmp_path))[1], batches(config(dataset, tmp_path))[1])
    assert main(arguments) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert not Path("gs:").exists()


def test_a_small_disk_for_temporary_files_is_refused(
    gcs: GcsServer, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"the disk has 0\.0 GB free; set TMPDIR to a larger disk"):
        builder.build(videos, storage_path(GCS), min_seconds=1)
    assert gcs.names(BUCKET) == []


def flip_shard(gcs: GcsServer) -> None:
    name = next(name for name in gcs.names(BUCKET) if "array_record" in name)
    content = bytearray(gcs.objects[BUCKET][name][0])
    content[-100] ^= 1
    gcs.write(BUCKET, name, bytes(content))


def drop_shard(gcs: GcsServer) -> None:
    del gcs.objects[BUCKET][next(name for name in gcs.names(BUCKET) if "array_record" in name)]


def drop_list(gcs: GcsServer) -> None:
    del gcs.objects[BUCKET][f"sets/videos/{RECORD}"]


def stop(gcs: GcsServer) -> None:
    gcs.fault = lambda request: Answer(status=503)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_shard, r"array_record-00000-of-\d+: damaged"),
        (drop_shard, r"array_record-00000-of-\d+: missing"),
        (drop_list, "files.json is missing"),
        (stop, "the server does not answer"),
    ],
)
def test_damage_is_one_line(in_gcs: GcsServer, tmp_path: Path, damage: Callable[[GcsServer], None], says: str) -> None:
    damage(in_gcs)
    with pytest.raises(UserError, match=says) as raised:
        batches(config(GCS, tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["upload", "none", "--out", GCS], "none: no dataset and no cache of text states"),
        (["upload", "DATASET", "--out", "here"], "--out=here is not in a bucket"),
        (["upload", GCS, "--out", S3], "buckets and URLs are not supported"),
        (["upload", "DATASET"], "--out"),
        (["upload", "DATASET", "--out", "gs://Bucket/x"], "'Bucket' is not the name of a bucket"),
    ],
)
def test_a_wrong_upload_is_one_line(
    dataset: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(dataset) if argument == "DATASET" else argument for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert says in err
    assert not os.path.exists("gs:")
