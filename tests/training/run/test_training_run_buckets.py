"""Training runs and data in buckets: killed in the middle of a save, and resumed bit for bit in two processes."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.buckets.lease import LEASE
from show1_jax.checkpoints import arrays
from show1_jax.checkpoints.run_steps import latest_step
from show1_jax.errors import UserError
from show1_jax.files import storage_path
from show1_jax.training.run.job import train
from show1_jax.training.run.metrics import MetricsWriter, read_metrics
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import Answer, GcsServer, Request
from tests.helpers.media_files import write_captioned_videos
from tests.helpers.processes import free_address
from tests.helpers.tiny_runs import command, finish, settings, start

ARGUMENTS = ["--stage=autoencoder", "--config.train.autoencoder.num_steps=3", "--config.train.save_every=1"]
ARGUMENTS += ["--config.train.log_every=1", "--config.train.evaluate_every=0", "--config.train.mesh.data=2"]
ARGUMENTS += ["--config.train.data.name=videos", "--config.train.data.num_validation=0"]


DATASET = f"gs://{BUCKET}/sets/videos"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of several shards on disk."""
    from show1_jax.data.building import builder

    videos = write_captioned_videos(tmp_path_factory.mktemp("videos"), 24)
    out = tmp_path_factory.mktemp("sets") / "videos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_BYTES", 20_000)
        builder.build(videos, out, min_seconds=1)
    return out


def two_processes(checkpoint: Path, workdir: str, folder: Path, data: str | Path) -> "list[subprocess.Popen[str]]":
    """Start two processes, which share a folder of compiled programs and of local copies."""
    arguments = [*command(checkpoint, folder / "x", *ARGUMENTS), f"--workdir={workdir}"]
    arguments += [f"--config.train.data.path={data}", f"--config.train.data.local_copies={folder / 'copies'}"]
    arguments += [f"--coordinator_address={free_address()}", "--num_processes=2"]
    return [start([*arguments, f"--process_id={number}"]) for number in range(2)]


def arrays_of(workdir: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the last step: the averaged weights and the state."""
    step = latest_step(workdir)
    assert step is not None
    assert step.name == "00000003"
    found: dict[str, np.ndarray] = {}
    for folder in ("vae/weights", "training/state"):
        loaded = arrays.load_arrays(step, folder, arrays._stored_shapes(step, folder))
        found |= {"/".join((folder, *path)): np.asarray(array) for path, array in loaded.items()}
    return found


def test_a_run_that_is_killed_while_it_saves_resumes_bit_for_bit(
    gcs: GcsServer, tiny_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    """The dataset is in the bucket as well, and not in the run that is not killed."""
    straight_run = two_processes(tiny_checkpoint, str(tmp_path / "straight"), tmp_path, dataset)
    outputs = [finish(process) for process in straight_run]
    assert "3 steps done" in outputs[0]

    upload_folder(gcs, dataset, "sets/videos")
    workdir = f"gs://{BUCKET}/run"
    processes = two_processes(tiny_checkpoint, workdir, tmp_path, DATASET)

    def kill(request: Request) -> Answer | None:
        """Kill both processes when most of step 2 is written."""
        is_late = request.name.startswith("run/checkpoints/00000002/training/state/manifest.ocdbt")
        if request.method == "POST" and is_late:
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
            return Answer(drops=True)
        return Answer(status=503) if len(gcs.requests) % 50 == 0 else None

    gcs.fault = kill
    for process in processes:
        finish(process, -signal.SIGKILL)
    gcs.fault = lambda request: None
    left = gcs.names(BUCKET, "run/")
    assert f"run/{LEASE}" in left
    assert "run/checkpoints/.00000002.saving/begun" in left
    assert any(name.startswith("run/checkpoints/00000002/") for name in left)
    assert latest_number(workdir) == "00000001"

    (copy,) = (tmp_path / "copies").iterdir()
    assert {path.name for path in copy.iterdir()} - {".lock"} == {path.name for path in dataset.iterdir()}
    num_read = {path.name: num_reads(gcs, path.name) for path in dataset.glob("*.array_record*")}
    assert len(num_read) > 1
    assert set(num_read.values()) == {1}  # by one of the two processes

    outputs = [finish(process) for process in two_processes(tiny_checkpoint, workdir, tmp_path, DATASET)]
    assert "3 steps done: gs://" in outputs[0]
    ours, straight = arrays_of(storage_path(workdir)), arrays_of(tmp_path / "straight")
    assert ours.keys() == straight.keys()
    for name, weight in straight.items():
        np.testing.assert_array_equal(ours[name], weight)
    lines, expected = (
        read_metrics(folder / "metrics.jsonl") for folder in (storage_path(workdir), tmp_path / "straight")
    )
    assert [(line["step"], line["loss"]) for line in lines] == [(line["step"], line["loss"]) for line in expected]
    names = gcs.names(BUCKET, "run/")
    assert f"run/{LEASE}" not in names
    assert not any("saving" in name for name in names)
    assert json.loads(gcs.objects[BUCKET]["run/config.json"][0])["train"]["save_every"] == 1
    assert sum(name.startswith("run/tensorboard/events.out.tfevents.") for name in names) == 2
    assert not Path("gs:").exists()


def num_reads(gcs: GcsServer, name: str) -> int:
    return sum(request.name.endswith(name) for request in gcs.requests)


def latest_number(workdir: str) -> str:
    found = latest_step(storage_path(workdir))
    assert found is not None
    return found.name


def test_metrics_are_whole_objects(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboardX.proto.event_pb2 import Event

    monkeypatch.setattr("show1_jax.training.run.metrics._MAX_EVENT_BYTES", 200)
    workdir = storage_path(f"gs://{BUCKET}/run")
    for resumed, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        writer = MetricsWriter(workdir, resumed_step=resumed)
        for step in steps:
            writer.write(step, {"loss": step + resumed, "speed": 1.0})
        writer.close()
    lines = read_metrics(workdir / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, 2), (3, 5), (4, 6)]
    files = gcs.names(BUCKET, "run/tensorboard/")
    assert len(files) > 2
    events = [event for name in files for event in records(gcs.objects[BUCKET][name][0], Event)]
    values = [(event.step, value.simple_value) for event in events for value in event.summary.value]
    assert values == [(s, v) for s, loss in ((1, 1), (2, 2), (3, 3), (3, 5), (4, 6)) for v in (loss, 1.0)]
    assert [event.step for event in events if event.HasField("session_log")] == [3]


def records(content: bytes, kind: Any) -> list[Any]:
    """Return the records of an event file: length, checksum, content, checksum."""
    found = []
    while content:
        size = int.from_bytes(content[:8], "little")
        found.append(kind.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


def test_images_and_a_server_that_fails(gcs: GcsServer) -> None:
    from show1_jax.media.contact_sheet import contact_sheet

    workdir = storage_path(f"gs://{BUCKET}/run")
    contact_sheet(workdir / "sheet.png", {"a": np.zeros((2, 8, 8, 3), np.uint8)}, "title")
    writer = MetricsWriter(workdir)
    writer.images(1, {"samples": workdir / "sheet.png"})
    gcs.fault = lambda request: Answer(status=503)
    with pytest.raises(UserError, match="the server does not answer"):
        writer.write(1, {"loss": 1.0})
    writer.close()


def test_profiles_need_a_file_system(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="--profile is written to a file system"):
        train(settings(tiny_checkpoint, "keyframes"), "keyframes", storage_path(f"gs://{BUCKET}/run"), profile=(1, 1))
    assert jax.process_count() == 1
