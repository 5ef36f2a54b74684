"""sample.py from the user's own video: results, the record, resuming and skipping."""

import json
from pathlib import Path

import numpy as np
import pytest

from show1_jax.cascade.cascade import Cascade
from show1_jax.config.sampling import STAGES
from show1_jax.media.frames import fit
from tests.helpers.sample_runs import Sampler, snapshot, stage_bytes

STEPS = "--config.keyframes.num_steps=4"
KEYFRAMES = ("--from_stage=keyframes", "--stages=keyframes", STEPS)


@pytest.fixture
def own(sampler: Sampler) -> Path:
    path = sampler.folder / "own.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (30, 20, 40, 3)).astype(np.float32))
    return path


def request_of(sampler: Sampler) -> dict[str, object]:
    record = sampler.run.record()
    assert record is not None
    return dict(record.request)


def test_strength_of_keyframes(sampler: Sampler, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is the fitted video, 1 is sampling without it; another strength or video is another video."""
    assert sampler(*KEYFRAMES, f"--video={own}", "--strength=0") == 0
    fitted = fit(np.load(own)[np.linspace(0, 29, 3).round().astype(int)], 8, 8)
    np.testing.assert_array_equal(sampler.run.load("keyframes"), fitted)

    assert "a video with another edit.strength" in sampler.refusal(*KEYFRAMES, f"--video={own}", "--strength=0.5")
    assert sampler(*KEYFRAMES, f"--video={own}", "--strength=0.5", "--overwrite") == 0
    assert request_of(sampler)["edit"] == {
        "stage": "keyframes",
        "strength": 0.5,
        "inversion_steps": 0,
        "inversion_iterations": 1,
        "video": request_of(sampler)["edit"]["video"],  # type: ignore[index]
    }
    half, files = stage_bytes(sampler.run), snapshot(sampler.folder)
    with monkeypatch.context() as patch:
        patch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled again"))
        assert sampler(*KEYFRAMES, f"--video={own}", "--strength=0.5") == 0
    assert snapshot(sampler.folder) == files
    other = sampler.folder / "other.npy"
    np.save(other, -np.load(own))
    assert "a video with another edit.video" in sampler.refusal(*KEYFRAMES, f"--video={other}", "--strength=0.5")
    assert "another edit.inversion_iterations, edit.inversion_steps, " in sampler.refusal("--stages=keyframes", STEPS)

    assert sampler(*KEYFRAMES, f"--video={own}", "--strength=1", "--overwrite") == 0
    whole = stage_bytes(sampler.run)
    assert sampler("--stages=keyframes", STEPS, "--overwrite") == 0
    assert "edit" not in request_of(sampler)
    assert stage_bytes(sampler.run) == whole != half


def test_later_stages_resume_from_an_inverted_video(
    sampler: Sampler, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no flag of the start, and the record keeps it."""
    inverted = ("--from_stage=keyframes", "--invert", "--inversion_steps=3", f"--video={own}", STEPS)
    assert sampler(*inverted, "--stages=keyframes") == 0
    edit = request_of(sampler)["edit"]
    assert isinstance(edit, dict)
    assert (edit["strength"], edit["inversion_steps"]) == (1.0, 3)
    assert sampler("--from_stage=interpolation", "--stages=interpolation", STEPS) == 0
    record = sampler.run.record()
    assert record is not None
    assert record.stages == ("keyframes", "interpolation")
    assert record.request["edit"] == edit
    monkeypatch.setattr(Cascade, "sample_batches", lambda *_, **__: pytest.fail("sampled again"))
    assert sampler(*inverted, "--stages=keyframes,interpolation") == 0
    assert sampler("--from_stage=interpolation", "--stages=interpolation", STEPS) == 0
    path = sampler.run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "other"}))
    assert "format is not" in sampler.refusal("--from_stage=interpolation", "--stages=interpolation", STEPS)


def test_the_video_gives_the_conditions_of_its_stage(sampler: Sampler, own: Path) -> None:
    start = ("--from_stage=superres_pixel", "--stages=superres_pixel", f"--video={own}", "--strength=0.4")
    assert sampler(*start) == 0  # 0.4 of one step: the video itself
    frames = np.load(own)[np.linspace(0, 29, 5).round().astype(int)]
    assert set(stage_bytes(sampler.run)) == {"interpolation", "first_frame", "superres_pixel"}
    np.testing.assert_array_equal(sampler.run.load("interpolation"), fit(frames, 8, 8))
    np.testing.assert_array_equal(sampler.run.load("first_frame"), fit(frames[:1], 16, 16))
    np.testing.assert_array_equal(sampler.run.load("superres_pixel"), fit(frames, 16, 16))


@pytest.mark.parametrize("stage", STAGES)
def test_bad_videos_and_strengths(sampler: Sampler, stage: str) -> None:
    path = sampler.folder / "short.npy"
    np.save(path, np.zeros((0, 8, 8, 3), np.float32))
    start = (f"--from_stage={stage}", f"--video={path}")
    assert "short.npy" in sampler.refusal(*start, "--strength=0.5")
    assert "strength=2 must be from 0" in sampler.refusal(*start, "--strength=2")
    assert "--strength=much" in sampler.refusal(*start, "--strength=much")
    assert "there is no" in sampler.refusal(start[0], "--video=none.mp4", "--strength=0.5")
