"""The command that measures agreement of videos with prompts; a test double of the cascade draws the videos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from show1_jax.cascade import cascade
from show1_jax.config.sampling import STAGES
from show1_jax.data.synthetic.world import is_held_out, parse_sentence, place, render, scene_from_index
from show1_jax.evaluation.demo_world.alignment import KINDS, main, make_case
from show1_jax.evaluation.demo_world.report import MAX_FAILURES
from show1_jax.media.frames import from_uint8

DEMO = str(Path(__file__).parents[3] / "configs" / "demo.py")
SIZES = {"superres_pixel": (40, 64), "superres_latent": (80, 144)}
TIMES = np.arange(29) / 8


class Double:
    """A test double of the cascade that draws the prompts, with blue things in red, and stores its arguments."""

    opened: str = ""
    batches: list[tuple[list[str], list[int]]]

    @classmethod
    def load(cls, checkpoint: str, config: Any, *, adapters: str) -> Self:
        assert adapters == config.adapter
        cls.opened, cls.batches = checkpoint, []
        return cls()

    def check(self, stages: Sequence[str]) -> None:
        assert stages == STAGES[: len(stages)]

    @property
    def spec(self) -> Self:
        return self

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, stages: Sequence[str]) -> dict[str, np.ndarray]:
        self.batches.append((list(prompts), list(seeds)))
        shown = [
            place(parse_sentence(text.replace("blue", "red")), seed) for text, seed in zip(prompts, seeds, strict=True)
        ]
        return {stages[-1]: from_uint8(np.stack([render(placed, TIMES, *SIZES[stages[-1]]) for placed in shown]))}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> type[Double]:
    monkeypatch.setattr(cascade, "Cascade", Double)
    return Double


def run(out: Path, *arguments: str) -> int:
    return main(["--config", DEMO, "--config.compilation_cache=", "--out", str(out), *arguments])


def read(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def row(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_prompts_are_of_their_kind_and_never_trained_on() -> None:
    kinds = {"one": (1, False), "held_out": (1, True), "two": (2, False), "same_color": (2, False)}
    assert kinds.keys() == KINDS.keys()
    for kind, (num_things, must_be_held_out) in kinds.items():
        asked = [make_case(kind, index, 5) for index in range(20)]
        assert [case.seed for case in asked] == list(range(5, 25))
        assert all(len(case.placed.scene.things) == num_things for case in asked)
        assert all(is_held_out(case.placed.scene.things[0]) for case in asked) == must_be_held_out
        assert all(case.placed != scene_from_index(case.index) for case in asked)
        if num_things == 2:
            colors = [{thing.color for thing in case.placed.scene.things} for case in asked]
            assert all((len(pair) == 1) == (kind == "same_color") for pair in colors)
    assert all(kind.world_seed >= 2**32 for kind in KINDS.values())


@pytest.mark.usefixtures("double")
def test_the_report_has_the_table_the_numbers_and_pictures_of_failures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--num_prompts", "6", "--first", "3", "--seed", "100", "--kinds", "two,one") == 0
    table = capsys.readouterr().out
    assert table.strip() in (tmp_path / "report.md").read_text()
    answers = read(tmp_path)["answers"]
    assert [(a["kind"], a["index"], a["seed"]) for a in answers[:6]] == [("two", i, 100 + i) for i in range(3, 9)]
    blue = [answer for answer in answers if "blue" in answer["prompt"]]
    assert 0 < len(blue) < len(answers)
    assert [answer for answer in answers if not answer["right"]["core"]] == blue
    pictures = sorted(path.name for path in (tmp_path / "failures").iterdir())
    names = [f"{a['kind']}_{a['index']:05}_{a['prompt'].replace(' ', '_')}.png" for a in blue]
    assert pictures == sorted(names)
    for column, kind in enumerate(("two", "one")):
        right = 6 - sum(answer["kind"] == kind for answer in blue)
        assert row(table, "**everything**")[column] == f"{right / 6:.1%} ({right}/6)"
    assert row(table, "background")[0] == "100.0% (6/6)"
    assert "seconds per video" in table
    assert "peak memory" in table
    assert len(answers[0]["measured"]["things"][0]["path"]) == 29


def test_batches_have_one_size_and_end_with_the_stage(double: type[Double], tmp_path: Path) -> None:
    arguments = ("--num_prompts", "5", "--kinds", "one", "--batch_size", "3", "--checkpoint", "a,b")
    assert run(tmp_path, *arguments, "--stage", "superres_pixel", "--upscale", "bilinear") == 0
    assert double.opened == "a,b"
    assert [seeds for _, seeds in double.batches] == [[0, 1, 2], [3, 4, 4]]
    report = read(tmp_path)
    assert len(report["answers"]) == 5
    assert all(answer["right"]["shape"] and answer["right"]["size"] for answer in report["answers"])
    assert report["settings"]["overrides"] == ["--config.compilation_cache="]


@pytest.mark.usefixtures("double")
def test_pictures_of_failures_are_few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gray = {STAGES[-1]: np.zeros((8, 1, 80, 144, 3), np.float32)}
    monkeypatch.setattr(Double, "sample", lambda *_, **__: gray)
    assert run(tmp_path, "--num_prompts", str(MAX_FAILURES + 5), "--kinds", "one") == 0
    assert len(list((tmp_path / "failures").iterdir())) == MAX_FAILURES


def test_truth_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--truth", "--num_prompts", "4") == 0
    assert row(capsys.readouterr().out, "**everything**") == ["100.0% (4/4)"] * len(KINDS)
    assert not (tmp_path / "failures").exists()


def test_a_report_is_replaced_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--truth", "--num_prompts", "1", "--kinds", "one")
    assert run(tmp_path, *arguments) == 0
    assert run(tmp_path, *arguments, "--seed", "7") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(tmp_path, *arguments, "--seed", "7", "--overwrite") == 0
    assert read(tmp_path)["settings"]["seed"] == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kinds", "one,three"], "there is no 'three'; choose from one, held_out, two, same_color"),
        (["--stage", "keyframes"], "--stage=keyframes: choose one of interpolation, superres_pixel, superres_latent"),
        (["--upscale", "cubic"], "invalid choice: 'cubic'"),
        (["--num_prompts", "0"], "--num_prompts=0 must be at least 1"),
        (["--num_prompts", "few"], "invalid int value: 'few'"),
        (["--first", "-1"], "--first=-1 must be at least 0"),
        (["--seed", str(2**32 - 1)], "is above 4294967295; lower --seed or --first"),
        (["--config.keyframes.num_step=1"], "did you mean --config.keyframes.num_steps?"),
        (["--config.keyframes.num_steps=0"], "num_steps=0"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--config", "nowhere.py"], "there is no config nowhere.py"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
