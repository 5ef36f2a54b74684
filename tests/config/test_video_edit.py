"""Settings of an edit: their ranges, and the settings that a stage is then sampled with."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import MAX_ITERATIONS, VideoEdit
from show1_jax.errors import UserError

shares = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1)


@given(stage=st.sampled_from(STAGES), strength=shares, steps=st.integers(-5, 200), iterations=st.integers(-5, 200))
def test_numbers_in_range_give_valid_settings_and_others_one_line(
    stage: Stage, strength: float, steps: int, iterations: int
) -> None:
    is_valid = 0 <= strength <= 1 and steps >= 0 and 1 <= iterations <= MAX_ITERATIONS
    if not is_valid:
        with pytest.raises(UserError, match=r"^\w+=\S+ must be .+$"):
            VideoEdit(stage, strength, steps, iterations)
        return
    edit = VideoEdit(stage, strength, steps, iterations)
    config = CascadeConfig()
    changed = edit.settings(config)
    assert edit.settings(changed) == changed
    for other in STAGES:
        if other != stage:
            assert changed.stage(other) == config.stage(other)
    changes: dict[str, Any] = {"sampler": "ddim"} if steps else {}
    if stage == "superres_latent" and int(50 * strength):
        changes["strength"] = strength
    expected = dataclasses.replace(config.stage(stage), **changes)
    assert changed.stage(stage) == expected


@pytest.mark.parametrize(("strength", "returns"), [(0.0, True), (0.013, True), (0.014, False), (1.0, False)])
def test_the_video_is_the_result_where_no_step_is_left(strength: float, returns: bool) -> None:
    """0.0133 of 75 steps is less than one step."""
    assert VideoEdit("keyframes", strength).returns_video(CascadeConfig()) == returns
