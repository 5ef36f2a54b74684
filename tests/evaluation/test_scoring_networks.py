"""The command with small networks of the real kinds: every metric from files to its line."""

import json
from pathlib import Path

import numpy as np
import pytest

import convert.recognition.c3d
import convert.recognition.clip
import convert.recognition.inception
from show1_jax.evaluation.__main__ import main
from show1_jax.media.write import write_mp4
from tests.helpers.small_networks import C3D_SMALL, INCEPTION_SMALL, convert_small, video, write_c3d, write_clip
from tests.helpers.small_networks import write_inception as write_inception_file


def folder_of(folder: Path, count: int, shade: int) -> Path:
    folder.mkdir()
    for number in range(count):
        frames = (video(16, 32 + 2 * number, 40) // 2 + shade).astype(np.uint8)
        write_mp4(folder / f"v{number}.mp4", frames, 8)
        (folder / f"v{number}.txt").write_text("a red ball rolls over the grass" if number % 2 else "a ball")
    return folder


def weights(metric: str, folder: Path) -> Path:
    source = folder / "published"
    source.mkdir()
    if metric == "is":
        convert_small(convert.recognition.c3d.C3D, write_c3d(source), folder / "weights", C3D_SMALL)
    elif metric == "fid-vid":
        file = write_inception_file(source / "inception.pth")
        convert_small(convert.recognition.inception.INCEPTION, file, folder / "weights", INCEPTION_SMALL)
    else:
        convert_small(convert.recognition.clip.CLIP, write_clip(source), folder / "weights")
    return folder / "weights"


@pytest.mark.parametrize(
    ("metric", "more", "rows", "shown"),
    [
        ("is", ["--splits=2"], 10, "16 frames, stride 1, first clip; c3d, weights "),
        ("fid-vid", ["--num_frames=1", "--preprocessing=tensorflow"], 10, "preprocessing: tensorflow"),
        ("clipsim", ["--stride=8"], 20, "whole videos, stride 8; clip_model, weights "),
    ],
)
def test_every_metric_with_its_network(
    metric: str, more: list[str], rows: int, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [metric, "--videos", str(folder_of(tmp_path / "videos", 10, 20)), "--out", str(tmp_path / "out"), *more]
    arguments += ["--weights", str(weights(metric, tmp_path)), "--batch_size=8"]
    if metric == "fid-vid":
        arguments += ["--reference", str(folder_of(tmp_path / "reference", 11, 90))]
    capsys.readouterr()
    assert main(arguments) == 0
    line = capsys.readouterr().out
    assert shown in line
    (path,) = (tmp_path / "out").glob("*.json")
    report = json.loads(path.read_text())
    assert report["sets"]["videos"]["rows"] == rows
    assert np.isfinite(report["score"]["value"])
    if metric == "is":
        assert 1 <= report["score"]["value"] <= C3D_SMALL.num_classes
    if metric == "clipsim":
        assert -1 <= report["score"]["value"] <= 1
        assert report["settings"]["features"]["model"] == "ViT-32x2/32"
