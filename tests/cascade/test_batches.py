"""Batches are checked before anything is computed, and padded so that the devices can share them."""

import jax
import numpy as np
import pytest

from show1_jax.cascade.batches import PreparedBatch, VideoBatch
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.checkpoints.random import described_manifest
from show1_jax.config.sampling import STAGES
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from tests.helpers import tiny_config

KEYFRAMES = np.linspace(-1, 1, 3 * 8 * 8 * 3, dtype=np.float32).reshape(1, 3, 8, 8, 3)


@pytest.fixture(scope="module")
def spec() -> CascadeSpec:
    """A cascade on two devices, which sample one video each."""
    config = tiny_config.settings()
    return CascadeSpec.of(config, described_manifest(config.architecture, config.schedulers, {}), jax.devices()[:2])


def test_the_last_video_fills_the_devices(spec: CascadeSpec) -> None:
    pictures = np.zeros((3, 30, 40, 3), np.float32)
    batch = VideoBatch(["a fox", Prompt("a cat", seed=9), "a dog"], [4, 5, 6], image=pictures)
    prepared = PreparedBatch.of(batch, spec, STAGES)
    assert [prompt.text for prompt in prepared.prompts] == ["a fox", "a cat", "a dog", "a dog"]
    assert prepared.num_videos == 3
    assert prepared.image is not None
    assert prepared.image.shape == (4, 1, 16, 16, 3)
    assert [stage for stage in STAGES if not prepared.needs_network(stage)] == ["first_frame"]
    assert prepared.own_result("first_frame") is prepared.image


def test_given_videos_and_starts_are_padded(spec: CascadeSpec) -> None:
    prepared = PreparedBatch.of(VideoBatch(["a"], given={"keyframes": KEYFRAMES}), spec, ["interpolation"])
    np.testing.assert_array_equal(prepared.videos["keyframes"], np.concatenate([KEYFRAMES] * 2))
    edit = VideoEdit("keyframes", strength=0.0)
    prepared = PreparedBatch.of(VideoBatch(["a"], video=KEYFRAMES), spec, ["keyframes"], edit=edit)
    assert not prepared.needs_network("keyframes")
    np.testing.assert_array_equal(prepared.own_result("keyframes"), np.concatenate([KEYFRAMES] * 2))


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        (VideoBatch([]), "no prompts; give at least one"),
        (VideoBatch([" "]), "the prompt is empty"),
        (VideoBatch([Prompt("a", negative="b" * 20_000)]), "the negative prompt 'b"),
        (VideoBatch(["a", "b"], [1]), "1 seeds for 2 prompts; give one for each prompt"),
        (VideoBatch(["a"], given={"keyframes": KEYFRAMES[0]}), "the video given for keyframes has shape"),
        (VideoBatch(["a", "b"], given={"keyframes": KEYFRAMES}), "not (2 prompts, time, height, width, 3)"),
        (VideoBatch(["a"], video=KEYFRAMES), "a video to start from needs an edit"),
        (VideoBatch(["a"], image=np.zeros((2, 8, 8, 3), np.float32)), "the image to begin with has shape (2, 8, 8, 3)"),
    ],
)
def test_a_batch_that_cannot_be_sampled_is_refused(spec: CascadeSpec, batch: VideoBatch, line: str) -> None:
    with pytest.raises(UserError) as refused:
        PreparedBatch.of(batch, spec, STAGES[1:] if batch.given else STAGES)
    assert line in str(refused.value)
