"""Many prompts in one command: the weights of each network are read once, and every video is as if sampled alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from show1_jax.cascade.conditions import SAMPLING
from show1_jax.cascade.prompts import Prompt
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.sampling import job
from show1_jax.sampling.run_directory import RunDirectory
from tests.helpers.adapter_files import COMPONENT, pairs, write_adapter
from tests.helpers.sample_runs import PROMPT, SEED, Sampler, snapshot, stage_bytes

PROMPTS = (PROMPT, "a red circle", "a square")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Sampler:
    """A sampler whose three videos were sampled by one command each."""
    sampler = Sampler(tiny_checkpoint, tmp_path_factory.mktemp("alone"))
    for text in PROMPTS:
        assert sampler(prompts=[text]) == 0
    return sampler


def runs(sampler: Sampler) -> list[RunDirectory]:
    return [RunDirectory.of(sampler.folder / "out", Prompt(text, seed=SEED)) for text in PROMPTS]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of loads of each component."""
    counts: Counter[str] = Counter()
    load = CheckpointSet.load

    def counted(checkpoints: CheckpointSet, component: str, *arguments: Any, **options: Any) -> LoadedNetwork:
        counts.update([component])
        return load(checkpoints, component, *arguments, **options)

    monkeypatch.setattr(CheckpointSet, "load", counted)
    return counts


@pytest.mark.parametrize("option", ["--config.resident_weights=all", "--config.resident_weights=one", "--batch_size=2"])
def test_every_video_is_as_if_sampled_alone(sampler: Sampler, alone: Sampler, loads: Counter[str], option: str) -> None:
    assert sampler(option, prompts=PROMPTS) == 0
    assert loads == dict.fromkeys([*STAGES, "text_t5", "text_clip", "vae"], 1)
    is_exact = option != "--batch_size=2"
    for run, expected in zip(runs(sampler), runs(alone), strict=True):
        assert {path.name for path in run.path.iterdir()} == {path.name for path in expected.path.iterdir()}
        if is_exact:
            assert stage_bytes(run) == stage_bytes(expected)
        record, expected_record = run.record(), expected.record()
        assert record is not None
        assert expected_record is not None
        assert set(record.made["times"]) == set(STAGES)
        assert record.matches(expected_record.request, {})
    assert sampler.capsys is not None
    printed = sampler.capsys.readouterr().out
    for number in (1, 2, 3):
        assert f"[{number}/3] {runs(sampler)[number - 1].path}: " in printed
    assert printed.count("done: ") == 3


@pytest.mark.parametrize("resident_weights", ["all", "one"])
def test_finished_videos_are_skipped(sampler: Sampler, resident_weights: str, loads: Counter[str]) -> None:
    assert sampler("--stages=keyframes") == 0
    before = snapshot(sampler.run.path)
    assert sampler("--stages=keyframes", f"--config.resident_weights={resident_weights}", prompts=PROMPTS) == 0
    assert snapshot(sampler.run.path) == before
    assert all(run.has("keyframes") for run in runs(sampler))
    assert loads == {"keyframes": 2, "text_t5": 2}


def test_more_videos_than_wait_together_are_sampled_in_rounds(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch, loads: Counter[str]
) -> None:
    monkeypatch.setattr(job, "_MAX_WAITING", 2)
    assert sampler("--stages=keyframes,interpolation", "--config.resident_weights=one", prompts=PROMPTS) == 0
    assert all(run.has("interpolation") for run in runs(sampler))
    assert loads == {"keyframes": 2, "interpolation": 2, "text_t5": 2}


def test_after_ctrl_c_finished_stages_of_all_videos_can_be_resumed_from(
    sampler: Sampler, alone: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stages: dict[Stage, Any] = SAMPLING
        patch.setitem(stages, "first_frame", interrupted)
        assert sampler("--config.resident_weights=one", prompts=PROMPTS) == 130
    assert all(run.has("interpolation") and not run.has("first_frame") for run in runs(sampler))
    assert sampler("--from_stage=first_frame", "--config.resident_weights=one", prompts=PROMPTS) == 0
    for run, expected in zip(runs(sampler), runs(alone), strict=True):
        assert stage_bytes(run) == stage_bytes(expected)


def test_windows_that_start_from_images_can_be_resumed_from(sampler: Sampler, alone: Sampler) -> None:
    every_window, prompts = "--config.first_frame.frames=window_starts", PROMPTS[:1]
    assert sampler("--stages=keyframes,interpolation,first_frame", every_window, prompts=prompts) == 0
    assert sampler("--from_stage=superres_pixel", "--stages=superres_pixel", every_window, prompts=prompts) == 0
    run, usual = runs(sampler)[0], runs(alone)[0]
    images, video, expected = run.load("first_frame"), run.load("superres_pixel"), usual.load("superres_pixel")
    assert len(images) == 2  # of 5 frames, the windows are the first four and the last four
    np.testing.assert_allclose(images[:1], usual.load("first_frame"), atol=1e-5)
    np.testing.assert_allclose(video[:1], expected[:1], atol=1e-5)
    assert np.abs(video[1:] - expected[1:]).max() > 1e-3


def test_a_video_with_an_adapter_is_another_video(sampler: Sampler, tiny_checkpoint: Path) -> None:
    adapter = write_adapter(sampler.folder / "adapter", tiny_checkpoint, pairs())
    assert sampler("--stages=keyframes") == 0
    plain = stage_bytes(sampler.run)
    assert f"another checkpoint.{COMPONENT}" in sampler.refusal("--stages=keyframes", f"--adapter={adapter}:0.5")
    assert sampler("--stages=keyframes", f"--adapter={adapter}:0.5", "--overwrite") == 0
    assert stage_bytes(sampler.run) != plain
    assert sampler("--stages=keyframes", f"--adapter={adapter}:0", "--overwrite") == 0
    assert stage_bytes(sampler.run) == plain
    other = write_adapter(sampler.folder / "other", tiny_checkpoint, pairs(), base="1" * 64)
    for flag in ("--overwrite", "--dry_run"):
        assert "belongs to other weights" in sampler.refusal("--stages=keyframes", f"--adapter={other}", flag)
