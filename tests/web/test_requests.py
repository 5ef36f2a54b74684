"""Forms become the configs and requests that sample.py would have; every other value is refused with one line."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cli import load_config
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES
from show1_jax.errors import UserError
from show1_jax.sampling import job
from show1_jax.sampling.request import Request
from show1_jax.web.requests import Form, Limits, make_task, roll_seed, stage_name, video_stages
from show1_jax.web.vocabulary import UnknownPromptError, Vocabulary
from tests.helpers import sample_runs
from tests.helpers.web_pages import PROMPT, ROOT, manifest_of, settings

LIMITS = Limits(prompt_length=60, videos=3, steps=20)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("requests"))


@pytest.fixture(scope="module")
def vocabulary(config: Config) -> Vocabulary:
    return Vocabulary.of(config, manifest_of(config))


def test_a_form_gives_what_the_command_line_gives(
    config: Config, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[Config, Request]] = []
    monkeypatch.setattr(job, "sample_videos", lambda config, request: taken.append((config, request)))
    own = ["--config.keyframes.num_steps=7", "--config.superres_pixel.guidance_scale=2.5"]
    sample_runs.sample.sample(
        [
            *("sample.py", "--config", str(ROOT / "configs" / "demo.py"), f"--prompt={PROMPT}", "--seed=9"),
            *("--negative_prompt=blur", "--videos_per_prompt=2", "--from_stage=first_frame", "--overwrite"),
            *(f"--out={config.out}", *own),
        ]
    )
    base = dataclasses.replace(load_config(ROOT / "configs" / "demo.py"), out=config.out)
    form = Form(
        PROMPT,
        "blur",
        9,
        2,
        steps={"keyframes": 7},
        guidance={"superres_pixel": 2.5},
        start="first_frame",
        replace=True,
    )
    assert make_task(form, base, vocabulary, LIMITS) == taken[0]


def test_a_picture_gives_what_the_command_line_gives(
    config: Config, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[Config, Request]] = []
    monkeypatch.setattr(job, "sample_videos", lambda config, request: taken.append((config, request)))
    demo = str(ROOT / "configs" / "demo.py")
    flags = ("--image=own.png", "--batch_size=2", "--videos_per_prompt=2", f"--out={config.out}")
    sample_runs.sample.sample(["sample.py", "--config", demo, f"--prompt={PROMPT}", *flags])
    base = dataclasses.replace(load_config(ROOT / "configs" / "demo.py"), out=config.out)
    form = Form(PROMPT, base.negative_prompt, videos=2, image=Path("own.png"))
    assert make_task(form, base, vocabulary, dataclasses.replace(LIMITS, batch_size=2)) == taken[0]


def test_a_video_is_used_as_its_form_says(config: Config, vocabulary: Vocabulary) -> None:
    form = Form(PROMPT, start="first_frame", video=Path("own.mp4"))
    request = make_task(form, config, vocabulary, LIMITS).request
    assert (request.video, request.edit, request.video_stages) == (Path("own.mp4"), None, ("interpolation",))
    noised = dataclasses.replace(form, start="keyframes", use="noise", strength=0.25)
    edit = make_task(noised, config, vocabulary, LIMITS).request.edit
    assert edit is not None
    assert (edit.stage, edit.strength, edit.inversion_steps) == ("keyframes", 0.25, 0)
    inverted = dataclasses.replace(noised, use="invert", inversion_steps=12)
    edit = make_task(inverted, config, vocabulary, LIMITS).request.edit
    assert edit is not None
    assert edit.inversion_steps == 12
    for stage in video_stages("replace"):
        assert make_task(dataclasses.replace(form, start=stage), config, vocabulary, LIMITS).request.stages[0] == stage
    assert video_stages("noise") == STAGES


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": None}, "the prompt must be text"),
        ({"prompt": "a" * 61}, "the prompt has 61 characters, more than 60"),
        ({"negative": "a" * 61}, "the negative prompt has 61 characters"),
        ({"negative": "\ud800"}, "not valid Unicode"),
        ({"seed": -1}, "the seed must be a whole number from 0"),
        ({"seed": MAX_SEED, "videos": 2}, "is above"),
        ({"seed": 1.5}, "the seed must be a whole number"),
        ({"seed": math.nan}, "the seed must be a number"),
        ({"seed": 10**400}, "the seed must be a number"),
        ({"seed": True}, "the seed must be a number"),
        ({"videos": 4}, "the number of videos must be a whole number from 1 to 3"),
        ({"videos": 0}, "the number of videos"),
        ({"steps": {"keyframes": 21}}, "the number of steps of keyframes must be a whole number from 1 to 20"),
        ({"steps": {"superres_pixel": "2"}}, "the number of steps of pixel super-resolution must be a number"),
        ({"guidance": {"keyframes": math.inf}}, "the guidance of keyframes must be a number"),
        ({"guidance": {"keyframes": 1e9}}, "guidance_scale"),
        ({"start": "nothing"}, "the stage 'nothing' is none of keyframes"),
        ({"start": ["keyframes"]}, "is none of"),
        ({"start": "superres_pixel", "video": Path("own.mp4")}, "--from_stage"),
        ({"video": Path("own.mp4")}, "--from_stage"),
        ({"start": "keyframes", "video": Path("own.mp4"), "use": "noise", "strength": 1.5}, "strength=1.5"),
        ({"start": "keyframes", "video": Path("own.mp4"), "use": "invert", "inversion_steps": 0}, "inversion steps"),
    ],
)
def test_other_values_are_refused_with_one_line(
    config: Config, vocabulary: Vocabulary, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as refused:
        make_task(dataclasses.replace(Form(PROMPT), **changes), config, vocabulary, LIMITS)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_config_with_more_steps_than_the_limit_can_have_them(config: Config, vocabulary: Vocabulary) -> None:
    many = dataclasses.replace(config, keyframes=dataclasses.replace(config.keyframes, num_steps=30))
    form = Form(PROMPT, steps={"keyframes": 30})
    assert make_task(form, many, vocabulary, LIMITS).config.keyframes.num_steps == 30


_JSON = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@given(_JSON, _JSON, _JSON, _JSON, _JSON, st.sampled_from(["prompt", "steps", "guidance", "start", "strength"]), _JSON)
def test_any_json_is_taken_or_refused(
    config: Config,
    vocabulary: Vocabulary,
    negative: Any,
    seed: Any,
    videos: Any,
    use: Any,
    inversion_steps: Any,
    field: str,
    value: Any,
) -> None:
    form = Form(PROMPT, negative, seed, videos, use=use, inversion_steps=inversion_steps)
    changes: dict[str, Any] = {field: {"keyframes": value} if field in ("steps", "guidance") else value}
    line, task = "", None
    try:
        task = make_task(dataclasses.replace(form, **changes), config, vocabulary, LIMITS)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert line or (task is not None and 1 <= len(task.request.prompts) <= LIMITS.videos)


def test_an_unknown_prompt_is_answered_before_other_checks(config: Config, vocabulary: Vocabulary) -> None:
    with pytest.raises(UnknownPromptError):
        make_task(Form("a cat", videos=99), config, vocabulary, LIMITS)


def test_seeds_and_names_are_short() -> None:
    assert all(0 <= roll_seed() < 10**6 for _ in range(50))
    assert len({roll_seed() for _ in range(50)}) > 30
    assert [stage_name(stage) for stage in STAGES][3:] == ["pixel super-resolution", "latent super-resolution"]
