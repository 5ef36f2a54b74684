"""The command line: the prompts of a protocol, its dry run, and every mistake as one line with exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from show1_jax.evaluation.protocols.command import main
from show1_jax.evaluation.protocols.plan_files import read_plan
from tests.helpers.tiny_datasets import write_msrvtt, write_ucf101

CLASSES = ("--classes=Archery,YoYo", "--videos_per_prompt=2", "--num_videos=4")


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    """Two classes with three videos."""
    return write_ucf101(tmp_path / "ucf101", {"Archery": 3, "YoYo": 3})


def test_prompts(tmp_path: Path, ucf101: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["ucf101", "prompts", "--data", str(ucf101), "--out", str(out), *CLASSES]
    assert main(command) == 0
    stored = read_plan(out)
    assert stored.protocol.settings()["classes"] == ["Archery", "YoYo"]
    assert {name: len(part.videos) for name, part in stored.plan.sets.items()} == {"is": 4, "fvd": 4}
    printed = capsys.readouterr()
    assert f"{out}/prompts.jsonl: " in printed.out
    assert "written; sample them: python sample.py --config full" in printed.out
    assert "note: only 2 of 101 classes" in printed.err
    assert main(command) == 0
    assert "there already" in capsys.readouterr().out
    assert main([*command, "--seed=1"]) == 2
    assert "has the prompts of another seed" in capsys.readouterr().err
    assert main([*command, "--seed=1", "--metrics=is", "--overwrite"]) == 0
    assert list(read_plan(out).plan.sets) == ["is"]


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_msrvtt(tmp_path / "msrvtt", {"video1": ["a", "b"], "video2": ["c"]})
    before = sorted(tmp_path.rglob("*"))
    options = ["--num_videos=2", "--dry_run", "--hosts=2", "--seconds_per_video=3600"]
    config = ["--config", str(Path(__file__).parents[3] / "configs" / "demo.py")]
    assert main(["msrvtt", "prompts", "--data", str(data), *options, *config]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "msrvtt (Table 2 of the paper): 3 videos to sample"
    assert "time: 3.0 hours on one host at 3600 s a video" in lines
    assert "  on 2 hosts: 2.0 hours, at most 2 videos on each (--shard I/2)" in lines
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ucf101", "prompts", "--data", "DATA"], "no --out; give the folder of the evaluation, or --dry_run"),
        (["ucf101", "prompts", "--data", "nowhere", "--out", "OUT"], "there is no folder nowhere; give UCF-101"),
        (["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--metrics=clipsim"], "ucf101 has is, fvd; choose"),
        (["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--metrics="], "ucf101 has is, fvd; choose"),
        (
            ["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--num_frames=8", "--metrics=fvd"],
            "--num_frames=8: FVD needs clips of at least 11 frames",
        ),
        (["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--num_frames=20"], "IS needs clips of 16 frames"),
        (
            ["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--hosts=0"],
            "argument --hosts: 0 must be at least 1",
        ),
        (["ucf101", "prompts", "--data", "DATA", "--dry_run", "--seconds_per_video=nan"], "nan must be at least 0.001"),
        (["ucf101", "prompts", "--data", "DATA", "--dry_run", "--seconds_per_video=inf"], "inf must be at most"),
        (["ucf101", "prompts", "--data", "DATA", "--out", "OUT"], "DATA/UCF-101 has no folders for ApplyEyeMakeup"),
        (["ucf101", "prompts", "--data", "DATA", "--out", "OUT", "--seed=x"], "argument --seed: invalid int value"),
        (["msrvtt", "prompts", "--data", "DATA", "--out", "OUT"], "DATA has no test_videodatainfo.json and no MSRVTT"),
        (["kinetics", "prompts"], "invalid choice: 'kinetics'"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    ucf101: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ucf101.rename("DATA")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("protocols: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DATA"]


def test_jax_that_cannot_start_is_one_line() -> None:
    command = [sys.executable, "-m", "show1_jax.evaluation.protocols", "ucf101", "prompts", "--data=x", "--dry_run"]
    variables = os.environ | {"JAX_ENABLE_X64": "maybe"}
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], env=variables, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("protocols: JAX does not start (invalid truth value 'maybe'")
    assert ended.stderr.count("\n") == 1
