"""The motion loss against its definition in NumPy's float64, and through the objective for every prediction type."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.config.sampling import CascadeConfig
from show1_jax.config.training import DenoisingTrainingConfig, TrainedStage, TrainingConfig
from show1_jax.diffusion.schedule import SchedulerConfig, alpha_and_sigma, alphas_cumprod, prediction_target
from show1_jax.errors import UserError
from show1_jax.nn.config import UNetConfig
from show1_jax.training.losses import motion_losses
from show1_jax.training.objectives import make_objective

CLIP = (5, 4, 3, 3)
BATCH = 3
KEYS = jax.random.split(jax.random.key(0), BATCH)
SCHEDULE = SchedulerConfig.from_json({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"})
TIMESTEP = jnp.zeros(BATCH, jnp.int32)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the loss of each example: a mean over pixels and channels of 1 - cosine over time, written out."""
    losses = []
    for one, other in zip(predicted.astype(np.float64), noise.astype(np.float64), strict=True):
        change, true = np.abs(one[1:] - one[:-1]), np.abs(other[1:] - other[:-1])
        cosines = [
            np.dot(change[:, y, x, c], true[:, y, x, c])
            / (np.linalg.norm(change[:, y, x, c]) * np.linalg.norm(true[:, y, x, c]))
            for y, x, c in np.ndindex(*change.shape[1:])
        ]
        losses.append(1 - np.mean(cosines))
    return np.array(losses)


def test_it_is_one_minus_the_cosine_over_time_of_absolute_changes() -> None:
    predicted, noise = normal(1, BATCH, *CLIP), normal(2, BATCH, *CLIP)
    losses = motion_losses(jnp.asarray(predicted), jnp.asarray(noise), TIMESTEP)
    np.testing.assert_allclose(losses.loss, expected(predicted, noise), rtol=1e-5)
    assert list(losses.parts) == ["motion"]


@given(st.floats(0.01, 100), st.floats(-10, 10), st.booleans())
@settings(max_examples=20, deadline=None)
def test_size_sign_and_still_parts_do_not_matter(scale: float, offset: float, flipped: bool) -> None:
    noise = jnp.asarray(normal(3, BATCH, *CLIP))
    other = (-scale if flipped else scale) * noise + offset
    np.testing.assert_allclose(motion_losses(other, noise, TIMESTEP).loss, 0, atol=1e-4)


def test_a_prediction_without_change_has_a_finite_gradient() -> None:
    noise = jnp.asarray(normal(4, BATCH, *CLIP))
    gradient = jax.grad(lambda x: motion_losses(x, noise, TIMESTEP).loss.sum())(jnp.zeros_like(noise))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(motion_losses(jnp.zeros_like(noise), noise, TIMESTEP).loss, 1)


def make(stage: TrainedStage, prediction_type: str = "epsilon", variance: bool = False, extra: int = 0) -> Any:
    training = TrainingConfig().stage(stage)
    assert isinstance(training, DenoisingTrainingConfig)
    training = dataclasses.replace(training, loss="motion")
    architecture = UNetConfig(
        in_channels=3 + extra,
        out_channels=6 if variance else 3,
        block_out_channels=(32,),
        layers_per_block=(1,),
        attention_levels=(True,),
        down_head_dim=(16,),
        mid_head_dim=16,
        up_head_dim=(16,),
        cross_attention_dim=4,
        noise_level_embedding=extra == 3,
    )
    schedule = dataclasses.replace(SCHEDULE, prediction_type=prediction_type)
    return make_objective(stage, training, CascadeConfig(), schedule, schedule, architecture)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_networks_that_predict_noise_x0_or_v_are_compared_as_noise(prediction_type: str, variance: bool) -> None:
    """The same error of the predicted noise gives the same loss, and a predicted variance has no gradient."""
    clip = jnp.asarray(np.clip(normal(5, BATCH, *CLIP), -1, 1))
    schedule = alphas_cumprod(SCHEDULE)
    error = jnp.asarray(0.3 * normal(6, BATCH, *CLIP))
    seen: dict[str, Any] = {}

    def loss(unused: jax.Array) -> jax.Array:
        def network(sample: Any, timestep: Any, text: Any, noise_level: Any) -> jax.Array:
            alpha, sigma = alpha_and_sigma(schedule, timestep, clip.ndim)
            eps = (sample - alpha * clip) / sigma
            predicted = eps + error
            x0 = (sample - sigma * predicted) / alpha
            seen.update(eps=eps, predicted=predicted)
            output = prediction_target(prediction_type, x0, predicted, alpha, sigma)
            return jnp.concatenate([output, unused], axis=-1) if variance else output

        return make("keyframes", prediction_type, variance)(network, clip, jnp.ones((BATCH, 2, 4)), KEYS).loss

    losses = loss(jnp.zeros_like(clip))
    np.testing.assert_allclose(losses, expected(np.asarray(seen["predicted"]), np.asarray(seen["eps"])), rtol=1e-3)
    gradient = jax.grad(lambda unused: loss(unused).sum())(jnp.zeros_like(clip))
    np.testing.assert_array_equal(gradient, 0)


def test_clips_of_two_frames_have_no_changes_to_compare() -> None:
    with pytest.raises(UserError, match=r"stage first_frame: .* takes 3 frames, and its clips have 1"):
        make("first_frame", extra=3)
