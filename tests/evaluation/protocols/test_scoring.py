"""The scores of a protocol: exactly the planned videos are compared, with stand-ins for the networks."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from show1_jax.evaluation.features.network import FeatureNetwork
from show1_jax.evaluation.features.table import FEATURE_NETWORKS
from show1_jax.evaluation.metrics.gaussian import Gaussian, frechet_distance
from show1_jax.evaluation.protocols.command import main
from show1_jax.evaluation.protocols.plan_files import read_plan
from show1_jax.media.frames import square_uint8, to_uint8
from show1_jax.media.read import read_video
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers.tiny_datasets import NUM_FRAMES, write_msrvtt, write_sampled, write_ucf101

SQUARE, FRAMES = 8, 16
WIDTHS = {"i3d": 3, "c3d": 101, "inception_v3": 3, "clip_model": 1}


def stand_in(kind: str, prepared: Counter[str]) -> FeatureNetwork:
    """Return a network without weights: the mean colour of a clip or of its frames, in CLIP with the caption."""

    def prepare(clip: np.ndarray, caption: str) -> dict[str, np.ndarray]:
        prepared[kind] += 1
        assert clip.shape[1:] == (SQUARE, SQUARE, 3)
        return {"clip": clip.astype(np.float32), "length": np.array([len(caption)], np.float32)}

    def features(module: Any, batch: Mapping[str, Array]) -> Array:
        frames = batch["clip"].mean((2, 3)) / 255
        if kind == "clip_model":
            return frames[..., :1] / (1 + batch["length"][:, None, :1])
        rows = frames if kind == "inception_v3" else frames.mean(1, keepdims=True)
        return jnp.tile(rows, (1, 1, -(-WIDTHS[kind] // 3)))[..., : WIDTHS[kind]]

    settings = {"stand-in": True}
    return FeatureNetwork(kind, settings, lambda *_: prepare, features, has_weights=False)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Numbers of clips that were prepared for each of the networks, which are replaced."""
    counts: Counter[str] = Counter()
    for kind in WIDTHS:
        monkeypatch.setitem(FEATURE_NETWORKS, kind, stand_in(kind, counts))
    return counts


def sample(out: Path) -> None:
    """Write all videos of the prompts, and one of another prompt, which must not be scored."""
    videos = read_plan(out).plan.videos
    for video in videos:
        write_sampled(out, video)
    write_sampled(out, type(videos[0])("something else", seed=1))


def mean_colours(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Return the stand-in's features of clips: the central frames, cropped and resized."""
    rows = []
    for clip in clips:
        start = (len(clip) - FRAMES) // 2
        rows.append(square_uint8(clip[start : start + FRAMES], SQUARE).mean((0, 1, 2)) / 255)
    return np.array(rows)


def read(path: Path) -> np.ndarray:
    frames, rate = read_video(path)
    return to_uint8(frames) if rate is None else np.round((frames + 1) * 127.5).astype(np.uint8)


def test_ucf101(tmp_path: Path, prepared: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    data = write_ucf101(tmp_path / "data", {"Archery": 7, "YoYo": 5}, videos=True)
    out = tmp_path / "out"
    settings = ["--classes=Archery,YoYo", "--num_videos=10", "--videos_per_prompt=6", f"--size={SQUARE}"]
    assert main(["ucf101", "prompts", "--data", str(data), "--out", str(out), *settings]) == 0
    sample(out)
    command = ["ucf101", "score", "--samples", str(out), "--data", str(data), "--weights=none"]
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "UCF-101 (Table 1 of the paper)"
    assert [line.split()[0] for line in lines[1:]] == ["IS", "FVD"]
    assert lines[1].endswith("; the paper: 35.42")
    assert lines[2].endswith("; the paper: 394.46")
    assert "16 frames, stride 1, centre cropped to a square of 8 x 8, center clip" in lines[2]
    assert "warning: only 2 of 101 classes" in printed.err
    assert "warning: FVD: the sampled videos have 8 frames a second, those of UCF-101 25, and clips are" in printed.err

    fvd = read_plan(out).plan.sets["fvd"]
    real = mean_colours([read(data / name) for name in fvd.references])
    sampled = mean_colours([read(RunDirectory.of(out, video).stage_file("superres_latent")) for video in fvd.videos])
    expected = frechet_distance(Gaussian.of(sampled), Gaussian.of(real))
    scores = json.loads((out / "scores" / "table.json").read_text())
    found = scores["scores"]["fvd"]["result"]
    assert found["score"]["value"] == pytest.approx(expected, rel=1e-4)
    assert (found["sets"]["videos"]["clips"], found["sets"]["reference"]["clips"]) == (10, 10)
    assert scores["settings"]["num_videos"] == 10
    assert scores["scores"]["is"]["result"]["sets"]["videos"]["clips"] == 12
    table = (out / "scores" / "table.md").read_text()
    assert "| FVD (lower is better) | " in table
    assert "| 394.46 |" in table
    assert "- prompts: ours, one sentence a class" in table
    assert "- config.superres_latent.width: 576" in table
    assert scores["sampled"]["checkpoint.superres_latent"] == "0"

    assert prepared == {"c3d": 12, "i3d": 20}
    assert main(command) == 0  # saved features are used again
    assert prepared == {"c3d": 12, "i3d": 20}


def test_msrvtt(tmp_path: Path, prepared: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    data = write_msrvtt(tmp_path / "data", {f"video{n}": [f"caption {n}", "b"] for n in range(11)}, videos=True)
    out = tmp_path / "out"
    settings = ["--num_videos=10", f"--size={SQUARE}"]
    assert main(["msrvtt", "prompts", "--data", str(data), "--out", str(out), *settings]) == 0
    sample(out)
    command = ["msrvtt", "score", "--samples", str(out), "--data", str(data), "--weights=none"]
    assert main([*command, "--metrics=fvd"]) == 0
    assert prepared == {"i3d": 20}
    capsys.readouterr()
    assert main(command) == 0
    assert prepared == {"i3d": 20, "inception_v3": 20, "clip_model": 22}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["FID-vid", "FVD", "CLIPSIM"]
    assert lines[3].endswith("; the paper: 0.3072 (the paper's text says 0.3076)")
    assert f"whole videos, stride 1, centre cropped to a square of {SQUARE} x {SQUARE}" in lines[3]
    scores = json.loads((out / "scores" / "table.json").read_text())["scores"]
    assert scores["clipsim"]["result"]["sets"]["videos"]["rows"] == 22 * NUM_FRAMES
    texts = [video.text for video in read_plan(out).plan.sets["clipsim"].videos]
    reds = [
        read(RunDirectory.of(out, video).stage_file("superres_latent"))[:, :, 4:28, 0].mean() / 255
        for video in read_plan(out).plan.sets["clipsim"].videos
    ]
    expected = np.mean([red / (1 + len(text)) for red, text in zip(reds, texts, strict=True)])
    assert scores["clipsim"]["result"]["score"]["value"] == pytest.approx(expected, rel=0.01)  # resizing keeps the mean
    assert scores["fid-vid"]["result"]["sets"]["reference"]["rows"] == 10 * FRAMES


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], prepared: Counter[str]) -> None:
    data = write_ucf101(tmp_path / "data", {"Archery": 12}, videos=True)
    out = tmp_path / "out"
    settings = ["--classes=Archery", "--num_videos=10", "--metrics=fvd", f"--size={SQUARE}"]
    command = ["ucf101", "score", "--samples", str(out), "--data", str(data), "--weights=none"]

    def refusal(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*command, *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert not (out / "scores").exists()
        return printed.err

    assert "there is no" in refusal()
    assert main(["ucf101", "prompts", "--data", str(data), "--out", str(out), *settings]) == 0
    assert "10 of 10 videos are missing or unfinished" in refusal()
    command[0] = "msrvtt"
    assert "has the prompts of ucf101, not of msrvtt" in refusal()
    command[0] = "ucf101"
    assert "--metrics=is: the prompts are those of fvd; choose from these" in refusal("--metrics=is")
    sample(out)
    (data / read_plan(out).plan.sets["fvd"].references[3]).unlink()
    assert "1 of the 10 drawn videos of UCF-101 are missing" in refusal()
    FEATURE_NETWORKS["i3d"] = FeatureNetwork("i3d", {}, lambda *_: lambda *_: {}, lambda *_: jnp.zeros((1, 1, 3)))
    command[-1] = f"--weights={tmp_path / 'nowhere'}"
    assert "nowhere: no checkpoint" in refusal()
