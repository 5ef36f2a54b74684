"""Keyframes that start from a video of the user, noised (SDEdit) or inverted, or that begin with the user's picture.

Of the other stages, the starts and conditions are tested in `test_conditions`, and the settings in `test_video_edit`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from show1_jax.cascade.cascade import Cascade
from show1_jax.config.sampling import Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from show1_jax.media.frames import fit, from_uint8, resize_uint8, to_uint8
from tests.helpers import tiny_config

PROMPT, SEED, STEPS = "a red circle moves right", 5, 4
SHARDED = 3
"""Videos that are sampled on one device, and on two with one more as padding."""


def load(checkpoint: Path, devices: int) -> Cascade:
    """Return the tiny cascade; its keyframes are sampled with DDIM with and without an inversion."""
    config = tiny_config.settings()
    keyframes = dataclasses.replace(
        config.keyframes, num_steps=STEPS, sampler="ddim", guidance_scale=1.0, image_passes=2
    )
    return Cascade.load(checkpoint, dataclasses.replace(config, keyframes=keyframes), jax.devices()[:devices])


@pytest.fixture(scope="module")
def cascade(tiny_checkpoint: Path) -> Iterator[Cascade]:
    """Yield the cascade on one device, with weights that stay there for all tests."""
    with load(tiny_checkpoint, 1) as cascade:
        yield cascade


def videos(num: int = SHARDED, frames: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (num, frames, side, side, 3)).astype(np.float32)


def keyframes(cascade: Cascade, edit: VideoEdit | None = None, *, seed: int = SEED, **options: Any) -> np.ndarray:
    """Return the keyframes of some prompts, from as many videos if there is an edit."""
    start: dict[str, Any] = {} if edit is None else {"edit": edit, "video": videos()}
    seeds = range(seed, seed + SHARDED)
    return cascade.sample([PROMPT] * SHARDED, seeds, stages=["keyframes"], **start, **options)["keyframes"]


def test_strength_is_from_the_video_itself_to_sampling_from_noise(cascade: Cascade) -> None:
    whole = keyframes(cascade, VideoEdit("keyframes", 1.0))
    np.testing.assert_array_equal(whole, keyframes(cascade))
    steps: list[tuple[int, int]] = []
    half = keyframes(cascade, VideoEdit("keyframes", 0.5), on_step=lambda _, *step: steps.append(step))
    assert steps == [(step, STEPS // 2) for step in range(1, STEPS // 2 + 1)]
    assert np.abs(half - whole).max() > 1e-3
    assert np.abs(half - videos()).max() > 1e-3


def test_an_inverted_start_is_the_same_for_every_seed(cascade: Cascade) -> None:
    """The inversion depends on the video alone, and DDIM draws no noise."""
    steps: list[tuple[int, int]] = []
    edit = VideoEdit("keyframes", 0.5, inversion_steps=3)
    result = keyframes(cascade, edit, on_step=lambda _, *step: steps.append(step))
    total = 2 + 2  # half of 3 steps and the first one of sampling
    assert steps == [(step, total) for step in range(1, total + 1)]
    np.testing.assert_array_equal(result, keyframes(cascade, edit, seed=SEED + 9))
    assert np.abs(result - keyframes(cascade, VideoEdit("keyframes", 0.5))).max() > 1e-3


def test_keyframes_begin_with_a_picture(cascade: Cascade) -> None:
    """It is scaled, cropped and the result of `first_frame`; the other keyframes depend on it, whatever the passes."""
    image = videos(side=20)[:, 0, :, 3:]
    steps: list[tuple[int, int]] = []
    results = cascade.sample(
        [PROMPT] * SHARDED,
        range(SEED, SEED + SHARDED),
        stages=["first_frame", "keyframes"],
        image=image,
        on_step=lambda _, *step: steps.append(step),
    )
    fitted = np.stack([fit(frame[None], 16, 16) for frame in image])
    np.testing.assert_array_equal(results["first_frame"], fitted)
    first = np.stack([fit(frame, 8, 8) for frame in fitted])
    np.testing.assert_allclose(results["keyframes"][:, :1], first, atol=1e-6)
    total = 2 * (STEPS - 1) + 1  # two passes of every step but the last
    assert steps == [(step, total) for step in range(1, total + 1)]
    once = dataclasses.replace(cascade.spec.config.keyframes, image_passes=1)
    single = cascade.with_config(dataclasses.replace(cascade.spec.config, keyframes=once))
    one_pass, other = keyframes(single, image=image), keyframes(single, image=-image)
    np.testing.assert_allclose(one_pass[:, :1], first, atol=1e-6)
    for different in (results["keyframes"], other, keyframes(cascade)):
        assert np.abs(one_pass - different)[:, 1:].max() > 1e-3


@pytest.mark.parametrize("stage", ["keyframes", "superres_latent"])
def test_without_a_step_no_network_is_used(cascade: Cascade, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video is the result; for the stage of latents, its input, resized."""
    edit = VideoEdit(stage, 0.2)  # 0.8 of a step
    monkeypatch.setattr(Cascade, "network", lambda *_, **__: pytest.fail("a network is used"))
    is_latent = stage == "superres_latent"
    given: dict[Stage, np.ndarray] = {"superres_pixel": videos(1, 5, 16)} if is_latent else {}
    own = None if is_latent else videos(1)
    result = cascade.sample([PROMPT], stages=[stage], given=given, edit=edit, video=own)[stage]
    if is_latent:
        np.testing.assert_array_equal(result[0], from_uint8(resize_uint8(to_uint8(videos(1, 5, 16)[0]), 24, 24)))
    else:
        np.testing.assert_array_equal(result, own)


def test_two_devices_give_the_same_videos(cascade: Cascade, tiny_checkpoint: Path) -> None:
    """Videos that start from others, and videos that begin with a picture."""
    cases: tuple[dict[str, Any], ...] = ({"edit": VideoEdit("keyframes", 0.5)}, {"image": videos(side=20)[:, 0]})
    with load(tiny_checkpoint, 2) as two:
        assert two.spec.mesh.shape["data"] == 2
        for case in cases:
            np.testing.assert_allclose(keyframes(two, **case), keyframes(cascade, **case), atol=1e-4)


def test_edits_that_do_not_fit_are_refused(cascade: Cascade) -> None:
    video, edit = videos(1), VideoEdit("keyframes", 0.5)

    def refused(said: str, stage: Stage = "keyframes", **options: Any) -> None:
        given: dict[Stage, np.ndarray] = {"keyframes": video, "superres_pixel": videos(1, 5, 16)}
        with pytest.raises(UserError, match=said):
            cascade.sample([PROMPT], stages=[stage], given=given, **options)

    refused("a video to start from needs an edit", video=video)
    refused(r"must start from a video of shape \(1, 3, 8, 8, 3\), not from no video", edit=edit)
    refused(r"not from a video of shape \(1, 2, 8, 8, 3\)", edit=edit, video=video[:, :2])
    refused("must be the first stage to run", stage="interpolation", edit=edit, video=video)
    refused("has NaN or infinite values", edit=edit, video=video * np.float32("nan"))
    latent = VideoEdit("superres_latent", 0.5)
    refused("from the video given for superres_pixel; give no other", "superres_latent", edit=latent, video=video)


def test_pictures_that_do_not_fit_are_refused(cascade: Cascade) -> None:
    image = videos(1, 1)[:, 0]

    def refused(said: str, stage: Stage = "keyframes", image: np.ndarray = image, **options: Any) -> None:
        with pytest.raises(UserError, match=said):
            cascade.sample([PROMPT], stages=[stage], image=image, **options)

    refused(r"shape \(8, 8, 3\), not \(1 prompts, height, width, 3\)", image=image[0])
    refused(r"shape \(1, 8, 8, 4\)", image=image.repeat(2, -1)[..., :4])
    refused("has NaN or infinite values", image=image * np.float32("nan"))
    refused("used by keyframes and first_frame; run one", "interpolation", given={"keyframes": videos(1)})
    refused("not both", edit=VideoEdit("keyframes", 0.5), video=videos(1))
