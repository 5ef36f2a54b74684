"""Stages that start from a video of the user: with noise of some strength (SDEdit), or inverted."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import Array

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.noise import Draw
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from tests.helpers import tiny_config

PROMPT, SEED, STEPS = "a red circle moves right", 5, 4
GIVEN: dict[Stage, tuple[Stage, ...]] = {
    "keyframes": (),
    "interpolation": ("keyframes",),
    "first_frame": ("interpolation",),
    "superres_pixel": ("interpolation", "first_frame"),
    "superres_latent": ("superres_pixel",),
}


@pytest.fixture(scope="module")
def cascade(tiny_checkpoint: Path) -> Cascade:
    config = tiny_config.settings()
    stages: dict[str, Any] = {stage: dataclasses.replace(config.stage(stage), num_steps=STEPS) for stage in STAGES}
    return Cascade.load(tiny_checkpoint, dataclasses.replace(config, **stages), jax.devices()[:1])


def video_of(cascade: Cascade, stage: Stage) -> np.ndarray:
    frames = {"keyframes": 3, "first_frame": 1}.get(stage, 5)
    shape = (1, frames, *cascade.spec.sizes({})[stage], 3)
    return np.random.default_rng(STAGES.index(stage)).uniform(-1, 1, shape).astype(np.float32)


def edited(cascade: Cascade, edit: VideoEdit | None, stage: Stage, **options: Any) -> np.ndarray:
    """Return the stage's result; its inputs, and its start if there is an edit, are always the same videos."""
    return cascade.sample(
        [PROMPT],
        [SEED],
        stages=[stage],
        given={name: video_of(cascade, name) for name in GIVEN[stage]},
        edit=edit,
        video=None if edit is None or stage == "superres_latent" else video_of(cascade, stage),
        **options,
    )[stage]


@pytest.mark.parametrize("stage", ["keyframes", "superres_latent"])
def test_strength_is_from_the_video_itself_to_sampling_from_noise(cascade: Cascade, stage: Stage) -> None:
    whole = edited(cascade, VideoEdit(stage, 1.0), stage)
    own = cascade.spec.config
    if stage == "superres_latent":  # it has a strength without an edit
        own = dataclasses.replace(own, superres_latent=dataclasses.replace(own.superres_latent, strength=1.0))
    np.testing.assert_array_equal(whole, edited(cascade.with_config(own), None, stage))
    steps: list[tuple[int, int]] = []
    half = edited(cascade, VideoEdit(stage, 0.5), stage, on_step=lambda _, *step: steps.append(step))
    assert steps == [(step, STEPS // 2) for step in range(1, STEPS // 2 + 1)]
    assert half.shape == whole.shape
    assert np.abs(half - whole).max() > 1e-3
    same = edited(cascade, VideoEdit(stage, 0.2), stage)  # 0.8 of a step
    if stage != "superres_latent":
        np.testing.assert_array_equal(same, video_of(cascade, stage))
    else:  # resized to the stage's size
        assert same.shape == whole.shape
        corners = video_of(cascade, "superres_pixel")[:, :, ::15, ::15]
        np.testing.assert_allclose(same[:, :, ::23, ::23], corners, atol=0.35)


@pytest.mark.parametrize("stage", ["superres_pixel", "superres_latent"])
def test_an_inverted_start_is_the_same_for_every_seed(cascade: Cascade, stage: Stage) -> None:
    """The inversion depends on the video alone, and DDIM draws no noise; what remains is that of the conditions."""
    steps: list[tuple[int, int]] = []
    edit = VideoEdit(stage, 0.5, inversion_steps=3)
    result = edited(cascade, edit, stage, on_step=lambda _, *step: steps.append(step))
    total = (2 + 2) * (2 if stage == "superres_pixel" else 1)  # half of 3 steps and the first one of sampling
    assert steps == [(step, total) for step in range(1, total + 1)]
    assert np.isfinite(result).all()

    def noise(draw: Draw, shape: tuple[int, ...]) -> Array:
        assert draw.purpose in ("augmentation", "posterior", "initial")
        return jax.numpy.full((1, *shape), 7 if draw.purpose == "initial" else 0.1, "float32")

    def other(draw: Draw, shape: tuple[int, ...]) -> Array:
        return jax.numpy.full((1, *shape), -7 if draw.purpose == "initial" else 0.1, "float32")

    one, another = (edited(cascade, edit, stage, noise=each) for each in (noise, other))
    np.testing.assert_array_equal(one, another)


def test_edits_that_do_not_fit_are_refused(cascade: Cascade) -> None:
    video = video_of(cascade, "keyframes")
    edit = VideoEdit("keyframes", 0.5)

    def refused(said: str, stage: Stage = "keyframes", **options: Any) -> None:
        with pytest.raises(UserError, match=said):
            cascade.sample([PROMPT], stages=[stage], given={"keyframes": video}, **options)

    refused("a video to start from needs an edit", video=video)
    refused(r"must start from a video of shape \(1, 3, 8, 8, 3\), not from no video", edit=edit)
    refused(r"not from a video of shape \(1, 2, 8, 8, 3\)", edit=edit, video=video[:, :2])
    refused("must be the first stage to run", stage="interpolation", edit=edit, video=video)
    refused("has NaN or infinite values", edit=edit, video=video * np.float32("nan"))
    latent = VideoEdit("superres_latent", 0.5)
    with pytest.raises(UserError, match="starts from the video given for superres_pixel; give no other"):
        cascade.sample(
            [PROMPT],
            stages=["superres_latent"],
            given={"superres_pixel": video_of(cascade, "superres_pixel")},
            edit=latent,
            video=video,
        )
