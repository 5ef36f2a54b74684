"""The flags that start a stage from the user's video: any combination is a request or one line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from show1_jax.sampling.request import Request, choose_edit, choose_stages

PROMPTS = (Prompt("a fox", seed=1),)
OWN = Path("own.mp4")
numbers = st.none() | st.integers(-2, 120)


@given(
    from_stage=st.none() | st.sampled_from(STAGES),
    strength=st.none() | st.floats(-0.5, 1.5),
    invert=st.booleans(),
    steps=numbers,
    iterations=numbers,
    video=st.none() | st.just(OWN),
    stages=st.none() | st.lists(st.sampled_from(STAGES), min_size=1, unique=True).map(",".join),
)
def test_flags_give_a_consistent_request_or_are_refused(
    from_stage: Stage | None,
    strength: float | None,
    invert: bool,
    steps: int | None,
    iterations: int | None,
    video: Path | None,
    stages: str | None,
) -> None:
    try:
        edit = choose_edit(from_stage, strength, invert, steps, iterations)
        request = Request(
            PROMPTS, choose_stages(stages, from_stage), resume=from_stage is not None, video=video, edit=edit
        )
    except UserError as error:
        line = str(error)
    else:
        line = ""
        assert (edit is None) == (strength is None and not invert)
        if edit is not None:
            assert request.video == OWN
            assert edit.stage == request.stages[0] == from_stage
            assert edit == VideoEdit(
                edit.stage, 1 if strength is None else strength, (steps or 75) * invert, iterations or 1
            )
            assert request.kept == ()
            assert set(request.inputs) <= set(request.video_stages)
    assert "\n" not in line


@pytest.mark.parametrize("stage", STAGES)
def test_with_a_strength_the_video_gives_all_that_the_stage_needs(stage: Stage) -> None:
    request = Request(PROMPTS, choose_stages(stage, stage), True, OWN, VideoEdit(stage, 0.5))
    assert request.video_stages == request.inputs
    if stage in ("interpolation", "first_frame", "superres_latent"):
        assert Request(PROMPTS, choose_stages(stage, stage), True, OWN).video_stages == request.video_stages


@pytest.mark.parametrize(
    ("from_stage", "strength", "more", "said"),
    [
        ("keyframes", 1.5, {}, r"strength=1\.5 must be from 0 \(the video itself\) to 1 \(noise alone\)"),
        ("keyframes", float("nan"), {}, "strength=nan must be from 0"),
        (None, 0.5, {}, "--strength and --invert need --from_stage"),
        ("last", 0.5, {}, "no stage 'last'"),
        ("keyframes", 0.5, {"inversion_steps": 5}, "--inversion_steps and --inversion_iterations need --invert"),
        ("keyframes", None, {"invert": True, "inversion_steps": 0}, "--inversion_steps=0 must be at least 1"),
        (
            "keyframes",
            None,
            {"invert": True, "inversion_iterations": 0},
            "inversion_iterations=0 must be from 1 to 100",
        ),
    ],
)
def test_wrong_flags(from_stage: str | None, strength: float | None, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        choose_edit(from_stage, strength, **{"invert": False, **more})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video": None}, "start the stage of --from_stage from --video; give both"),
        ({"resume": False}, "start the stage of --from_stage from --video; give both"),
        (
            {"stages": ("interpolation",)},
            "--from_stage=keyframes starts from --video, so that --stages must contain it",
        ),
        ({"edit": None}, "--video needs --from_stage with one of .*; with --strength or --invert, any stage"),
    ],
)
def test_edits_that_do_not_fit_the_request(changes: dict[str, object], said: str) -> None:
    fitting = {"stages": ("keyframes",), "resume": True, "video": OWN, "edit": VideoEdit("keyframes", 0.5)}
    Request(PROMPTS, **fitting)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=said):
        Request(PROMPTS, **fitting | changes)  # type: ignore[arg-type]


@given(stages=st.lists(st.sampled_from(STAGES), min_size=1, unique=True).map(",".join), resume=st.booleans())
def test_a_picture_stands_for_the_first_frame(stages: str, resume: bool) -> None:
    """Its stage needs no input and no network, and is an input of later ones; one that uses it must run."""
    chosen = choose_stages(stages, None)
    try:
        request = Request(PROMPTS, chosen, resume, image=Path("own.png"))
    except UserError as error:
        line = str(error)
        assert ("used by keyframes and first_frame" in line) == (not {"keyframes", "first_frame"} & set(chosen))
        return
    assert request.sampled(CascadeConfig()) == tuple(stage for stage in chosen if stage != "first_frame")
    assert "first_frame" not in chosen or "first_frame" not in request.inputs
    assert Request(PROMPTS, image=Path("own.png")).sampled(CascadeConfig()) == tuple(
        stage for stage in STAGES if stage != "first_frame"
    )
