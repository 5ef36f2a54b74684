"""Evaluation with datasets, weights, captions, features and reports in a bucket: the scores of those on disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from show1_jax.data.building import builder
from tests.helpers import tiny_features
from tests.helpers.buckets import BUCKET, upload_folder
from tests.helpers.gcs_server import Answer, GcsServer
from tests.helpers.media_files import write_captioned_videos

ROOT = f"gs://{BUCKET}"
CAPTIONS = json.dumps({f"video {number}": f"a square {number}" for number in range(12)}).encode()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, weights and captions."""
    folder = tmp_path_factory.mktemp("files")
    for name, count in (("a", 12), ("b", 11)):
        (folder / f"{name}_videos").mkdir()
        videos = write_captioned_videos(folder / f"{name}_videos", count, (8, 8))
        builder.build(videos, folder / name, min_seconds=1)
    tiny_features.write_weights(folder / "weights")
    (folder / "captions.json").write_bytes(CAPTIONS)
    return folder


def arguments(metric: str, place: Path | str, out: Path | str, copies: Path) -> list[str]:
    own = [f"--reference={place}/b"] if metric == "fvd" else [f"--captions={place}/captions.json"]
    own += ["--num_frames=12"] if metric == "fvd" else []
    return [
        metric,
        f"--videos={place}/a",
        f"--weights={place}/weights",
        f"--out={out}",
        f"--local_copies={copies}",
        *own,
    ]


def scores(report: bytes) -> tuple[Any, Any]:
    values = json.loads(report)
    return values["score"], {name: values["sets"]["videos"][name] for name in ("clips", "rows", "unreadable")}


def paths(report: bytes) -> dict[str, str]:
    """Return the places of the videos that a report names: those of the user, not their local copies."""
    return {name: of_set["about"]["path"] for name, of_set in json.loads(report)["sets"].items()}


def test_bad_weights_are_found_before_a_dataset_is_read(
    gcs: GcsServer, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload_folder(gcs, files / "a", "a")
    copies = tmp_path / "copies"
    command = ["clipsim", f"--videos={ROOT}/a", "--weights=none", f"--out={tmp_path}/out", f"--local_copies={copies}"]
    assert tiny_features.run(*command) == 2
    assert "none: no checkpoint" in capsys.readouterr().err
    assert not copies.exists()


@pytest.mark.parametrize("metric", ["fvd", "clipsim"])
def test_scores_are_those_on_disk(
    gcs: GcsServer, files: Path, tmp_path: Path, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "weights"):
        upload_folder(gcs, files / name, name)
    gcs.write(BUCKET, "captions.json", CAPTIONS)
    assert tiny_features.run(*arguments(metric, files, tmp_path / "out", tmp_path / "copies")) == 0
    assert not (tmp_path / "copies").exists()
    command = arguments(metric, ROOT, f"{ROOT}/out", tmp_path / "copies")
    assert tiny_features.run(*command) == 0
    (report,) = (name for name in gcs.names(BUCKET, f"out/{metric}") if name.endswith(".json"))
    (expected,) = (tmp_path / "out").glob("*.json")
    assert scores(gcs.objects[BUCKET][report][0]) == scores(expected.read_bytes())
    assert paths(gcs.objects[BUCKET][report][0]) == {"videos": f"{ROOT}/a"} | (
        {"reference": f"{ROOT}/b"} if metric == "fvd" else {}
    )
    shards = [name for name in gcs.names(BUCKET, "out/features/") if name.endswith(".safetensors")]
    assert shards

    before = {name: gcs.objects[BUCKET][name] for name in shards}
    gcs.write(BUCKET, shards[0], gcs.objects[BUCKET][shards[0]][0][:-1])
    assert tiny_features.run(*command) == 0  # saved features are used, and those that are damaged computed again
    assert len(gcs.objects[BUCKET][shards[0]][0]) == len(before[shards[0]][0])  # the order of its metadata varies
    assert all(gcs.objects[BUCKET][name] == before[name] for name in shards[1:])
    gcs.fault = lambda request: Answer(status=503) if request.name == shards[0] else None
    capsys.readouterr()
    assert tiny_features.run(*command) == 2  # not damaged, but not known
    assert "the server does not answer" in capsys.readouterr().err
    assert not Path("gs:").exists()
