"""The files of an evaluation are written once, read back, and refused if they are of another plan or damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.prompts import Prompt
from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.msrvtt import Msrvtt
from show1_jax.evaluation.protocols.plan_files import PLAN_FILE, PROMPTS_FILE, read_plan, write_plan
from show1_jax.evaluation.protocols.protocol import Plan, VideoSet
from show1_jax.evaluation.protocols.ucf101 import Ucf101
from show1_jax.sampling.prompt_files import read_prompts

VIDEOS = tuple(Prompt(text, seed=seed) for seed, text in enumerate(["a cat", 'a "dog"', "ein Bär", "{}", "# x"]))
PLAN = Plan({"is": VideoSet(VIDEOS[1:4]), "fvd": VideoSet(VIDEOS[:3], ("a/b.avi", "c.avi", "d.avi"))}, ("a note",))
PROTOCOL = Ucf101(num_videos=3, classes=("Archery", "YoYo"))


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    assert write_plan(tmp_path / "new", PROTOCOL, PLAN)
    stored = read_plan(tmp_path / "new")
    assert (stored.protocol, stored.plan) == (PROTOCOL, PLAN)
    assert tuple(read_prompts(tmp_path / "new" / PROMPTS_FILE)) == PLAN.videos
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [PROMPTS_FILE, PLAN_FILE]


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


@given(st.lists(st.tuples(_TEXTS, st.integers(0, 9)), min_size=1, unique=True))
def test_any_captions_are_read_back(tmp_path_factory: pytest.TempPathFactory, videos: list[tuple[str, int]]) -> None:
    folder = tmp_path_factory.mktemp("captions")
    plan = Plan({"clipsim": VideoSet(tuple(Prompt(text, seed=seed) for text, seed in videos))})
    write_plan(folder, Msrvtt(), plan)
    assert read_plan(folder).plan == plan


def test_the_same_plan_is_not_written_again(tmp_path: Path) -> None:
    write_plan(tmp_path, PROTOCOL, PLAN)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert not write_plan(tmp_path, PROTOCOL, PLAN)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / PLAN_FILE).unlink()  # as after a kill between the files
    assert write_plan(tmp_path, PROTOCOL, PLAN)


def test_another_plan_is_refused_without_overwrite(tmp_path: Path) -> None:
    write_plan(tmp_path, PROTOCOL, PLAN)
    with pytest.raises(
        UserError, match="has the prompts of another seed, num_videos; choose another --out, or replace"
    ):
        write_plan(tmp_path, Ucf101(seed=1, classes=PROTOCOL.classes), Plan({"is": VideoSet(VIDEOS[:1])}))
    with pytest.raises(UserError, match="has the prompts of other metrics or another copy of the dataset"):
        write_plan(tmp_path, PROTOCOL, Plan({"is": VideoSet(VIDEOS[:1])}))
    with pytest.raises(UserError, match="has the prompts of the protocol ucf101"):
        write_plan(tmp_path, Msrvtt(), PLAN)
    assert read_plan(tmp_path).plan == PLAN
    smaller = Plan({"is": VideoSet(VIDEOS[:1])})
    assert write_plan(tmp_path, PROTOCOL, smaller, overwrite=True)
    assert read_plan(tmp_path).plan == smaller


def test_too_many_prompts_for_a_file(tmp_path: Path) -> None:
    videos = tuple(Prompt("a" * 400, seed=seed) for seed in range(45_000))
    with pytest.raises(UserError, match="45,000 prompts are more than one file may have"):
        write_plan(tmp_path / "new", Msrvtt(), Plan({"clipsim": VideoSet(videos)}))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "is no plan of a protocol"),
        ({"protocol": "kinetics"}, "is no plan of a protocol"),
        ({"settings": {}}, "settings must have classes, fps, num_frames"),
        ({"settings": {**PROTOCOL.settings(), "seed": "1"}}, "settings.seed has a wrong type"),
        ({"settings": {**PROTOCOL.settings(), "size": 0}}, "--size=0 must be at least 1"),
        ({"metrics": {}}, "metrics must be an object with is, fvd"),
        ({"metrics": {"clipsim": {}}}, "metrics must be an object with is, fvd"),
        ({"metrics": {"is": {"videos": [5], "references": []}}}, "metrics.is.videos must be a list of places"),
        ({"metrics": {"is": {"videos": [0]}}}, "metrics.is.references must be a list of paths"),
        ({"metrics": {"is": {"videos": [0], "references": ["../x"]}}}, "metrics.is.references must be a list of paths"),
        ({"metrics": {"is": {"videos": [0], "references": ["/x"]}}}, "metrics.is.references must be a list of paths"),
        ({"prompts_sha256": "0"}, "is not the one of protocol.json"),
    ],
)
def test_damaged_plans(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_plan(tmp_path, PROTOCOL, PLAN)
    values = json.loads((tmp_path / PLAN_FILE).read_text()) | change
    (tmp_path / PLAN_FILE).write_text(json.dumps(values))
    with pytest.raises(UserError, match=said) as refused:
        read_plan(tmp_path)
    assert "; make it again with the command `prompts`" in str(refused.value)


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*protocol\.json; make it again with the command `prompts`"):
        read_plan(tmp_path / "nowhere")
    write_plan(tmp_path, PROTOCOL, PLAN)
    (tmp_path / PROMPTS_FILE).unlink()
    with pytest.raises(UserError, match=r"there is no .*prompts\.jsonl"):
        read_plan(tmp_path)
