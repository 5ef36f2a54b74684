"""A result as a line, a table and JSON."""

import dataclasses
import json
from pathlib import Path

import pytest

from show1_jax.errors import UserError
from show1_jax.evaluation.metrics.metric import Score
from show1_jax.evaluation.report import Result, SetResult, versions

ABOUT = {"path": "a|b", "stage of run directories": "superres_latent", "frame rates": {"8": 3, "unknown": 1}}
RESULT = Result(
    metric="FVD",
    better="lower",
    digits=2,
    source="a paper",
    score=Score(12.3456789, {"rank": 4, "error": None}, ("too few",)),
    sets={"videos": SetResult(3, 3, {"x.mp4": "it is\ncut"}, ABOUT, "0123")},
    settings={
        "clips": {"num_frames": 16},
        "clips in words": "16 frames",
        "features": {"kind": "i3d", "weights": "ab" * 32, "dtype": "float32", "resize": "asymmetric"},
    },
    weights={"files": {"i3d.ckpt": "cd" * 32}},
    versions=versions(),
    warnings=["too few"],
)


def test_the_line_has_the_number_and_the_settings() -> None:
    assert RESULT.line() == (
        "FVD 12.35 (lower is better): 3 clips of a|b (superres_latent, 8 frames a second); 16 frames; i3d, weights "
        "abababababab; resize: asymmetric"
    )


def test_the_table_has_everything_and_is_whole() -> None:
    lines = RESULT.table().splitlines()
    assert "| FVD | 12.35 (lower is better) |" in lines
    assert "| error | unknown |" in lines
    assert "| videos: path | a\\|b |" in lines
    assert "| videos: unreadable: x.mp4 | it is cut |" in lines
    assert f"| weights: files | i3d.ckpt: {'cd' * 32} |" in lines
    assert "| warning | too few |" in lines
    assert all(line.startswith("|") and line.endswith("|") for line in lines[2:])


def test_files_of_other_settings_have_other_names(tmp_path: Path) -> None:
    other = dataclasses.replace(RESULT, settings={**RESULT.settings, "seed": 1})
    moved = dataclasses.replace(RESULT, sets={"videos": dataclasses.replace(RESULT.sets["videos"], features="4567")})
    paths = {result.write(tmp_path) for result in (RESULT, RESULT, other, moved)}
    assert len(paths) == 3
    for path in paths:
        assert json.loads(path.with_suffix(".json").read_text())["score"]["value"] == 12.3456789


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        RESULT.write(tmp_path / "file")
