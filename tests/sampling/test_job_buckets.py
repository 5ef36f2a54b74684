"""sample.py with its checkpoint and its videos in a bucket: the same videos as on disk."""

from pathlib import Path

import jax
import numpy as np
import pytest

from show1_jax import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.config.video_edit import VideoEdit
from show1_jax.files import storage_path
from show1_jax.sampling import job
from show1_jax.sampling.request import Request
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers import tiny_config
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import Answer, GcsServer
from tests.helpers.sample_runs import Sampler

CHECKPOINT = f"gs://{BUCKET}/show1"


@pytest.fixture
def uploaded(gcs: GcsServer, tiny_checkpoint: Path) -> GcsServer:
    """A server with the tiny checkpoint."""
    upload_folder(gcs, tiny_checkpoint, "show1")
    return gcs


@pytest.fixture
def in_bucket(uploaded: GcsServer, capsys: pytest.CaptureFixture[str]) -> Sampler:
    return Sampler(storage_path(CHECKPOINT), storage_path(f"gs://{BUCKET}/videos"), capsys)


def names(gcs: GcsServer, run: RunDirectory) -> set[str]:
    return {name.rpartition("/")[2] for name in gcs.names(BUCKET, "videos/out/")}


def test_videos_are_those_on_disk(uploaded: GcsServer, in_bucket: Sampler, sampler: Sampler) -> None:
    for one in (sampler, in_bucket):
        assert one("--stages=keyframes") == 0
    ours, local = in_bucket.run, sampler.run
    files = {"run.json", "contact_sheet.png", *(f"1_keyframes.{suffix}" for suffix in ("safetensors", "mp4", "gif"))}
    assert names(uploaded, ours) == files
    for name in files - {"run.json"}:
        assert (ours.path / name).read_bytes() == (local.path / name).read_bytes()
    assert in_bucket.capsys is not None
    assert in_bucket.capsys.readouterr().out.splitlines()[-1] == (
        f"to look at it: gcloud storage cp {ours.path}/1_keyframes.mp4 ."
    )

    assert in_bucket("--stages=keyframes") == 0
    assert f"{ours.path}: done already, skipped" in in_bucket.capsys.readouterr().out
    assert in_bucket("--from_stage=interpolation", "--stages=interpolation") == 0
    assert ours.has("interpolation")
    assert ours.load("interpolation").shape == (5, 8, 8, 3)

    in_bucket.capsys.readouterr()
    name = f"videos/out/{ours.path.name}/1_keyframes.safetensors"
    content = bytearray(uploaded.objects[BUCKET][name][0])
    content[-1] ^= 1
    uploaded.write(BUCKET, name, bytes(content))
    assert in_bucket("--from_stage=interpolation", "--stages=interpolation") == 2
    assert "is damaged (its hash does not match)" in in_bucket.capsys.readouterr().err
    assert in_bucket("--stages=keyframes", "--overwrite") == 0
    assert (ours.path / "1_keyframes.safetensors").read_bytes() == (local.path / "1_keyframes.safetensors").read_bytes()
    assert not Path("gs:").exists()


def test_a_video_in_a_bucket_is_read_once_for_all_stages(gcs: GcsServer, tiny_checkpoint: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros((5, 8, 8, 3), np.uint8))
    gcs.write(BUCKET, "own.npy", (tmp_path / "own.npy").read_bytes())
    manifest = CheckpointSet.open(tiny_checkpoint).manifest
    spec = CascadeSpec.of(tiny_config.settings(), manifest, jax.devices()[:1])
    video, edit = storage_path(f"gs://{BUCKET}/own.npy"), VideoEdit("interpolation", 0.5)
    request = Request((Prompt("a fox", seed=0),), ("interpolation",), resume=True, video=video, edit=edit)
    gcs.requests.clear()
    media = job._read_media(spec, request)
    assert media.start is not None
    assert list(media.given) == ["keyframes"]
    assert len(gcs.requests) == 2  # is it there, and its content


def test_a_cascade_is_loaded_from_a_bucket(uploaded: GcsServer, tiny_checkpoint: Path) -> None:
    config, devices = tiny_config.settings(), jax.devices()[:1]
    ours, local = (Cascade.load(place, config, devices) for place in (CHECKPOINT, tiny_checkpoint))
    assert ours.spec.manifest == local.spec.manifest
    sets = [CheckpointSet.open(place) for place in (CHECKPOINT, tiny_checkpoint)]
    networks = [opened.load("vae", ours.spec.mesh, np.float32) for opened in sets]
    jax.tree.map(np.testing.assert_array_equal, *(network.weights for network in networks))
    for component in ("text_t5", "text_clip"):
        tokens = [opened.tokenizer(component)(["a red fox"]) for opened in sets]
        jax.tree.map(np.testing.assert_array_equal, *tokens)


def test_damaged_weights_are_refused(uploaded: GcsServer, in_bucket: Sampler) -> None:
    assert in_bucket.capsys is not None
    name = max(
        uploaded.names(BUCKET, "show1/keyframes/weights/"), key=lambda name: len(uploaded.objects[BUCKET][name][0])
    )
    content, _ = uploaded.objects[BUCKET][name]
    for damaged, said in ((content[:-1], "missing or truncated"), (b"\0" + content[1:], "missing or changed")):
        uploaded.write(BUCKET, name, damaged)
        assert in_bucket("--stages=keyframes") == 2
        line = in_bucket.capsys.readouterr().err
        assert said in line
        assert uploaded.names(BUCKET, "videos/") == []
    del uploaded.objects[BUCKET][name]
    assert in_bucket("--stages=keyframes") == 2
    assert "missing or truncated" in in_bucket.capsys.readouterr().err


def test_a_folder_that_may_not_be_written_is_refused_first(uploaded: GcsServer, in_bucket: Sampler) -> None:
    uploaded.fault = lambda request: Answer(status=403) if request.method == "POST" else None
    assert in_bucket.capsys is not None
    assert in_bucket("--stages=keyframes") == 2
    assert f"sample: gs://{BUCKET}: access is denied" in in_bucket.capsys.readouterr().err
