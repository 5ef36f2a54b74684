"""DDIM inversion on Gaussian data, whose noise prediction and probability flow are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.diffusion.inversion import Inversion, make_inversion
from show1_jax.diffusion.samplers import Sampler, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig, alphas_cumprod
from show1_jax.errors import UserError

MEAN, STD = np.array([0.5, -0.2, 0.0], np.float32), np.array([0.1, 0.3, 0.5], np.float32)
CLEAN = (MEAN + STD * np.random.default_rng(0).standard_normal((2, 8, 8, 3))).astype(np.float32)
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def ddim(**changes: object) -> SchedulerConfig:
    unclipped = {"_class_name": "DDIMScheduler", "clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}
    return SchedulerConfig.from_json(unclipped | changes)


def exact_output(config: SchedulerConfig, x: np.ndarray, timestep: int) -> np.ndarray:
    """Return the output of the best network for data of independent Gaussian channels, with a variance after it."""
    squared = float(alphas_cumprod(config)[timestep])
    alpha, sigma = np.sqrt(squared), np.sqrt(1 - squared)
    eps = sigma * (x - alpha * MEAN) / (squared * STD**2 + sigma**2)
    x0 = (x - sigma * eps) / alpha
    outputs = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}
    output = outputs[config.prediction_type]
    return np.concatenate([output, np.full_like(output, 9)], axis=-1).astype(np.float32)


def exact_noise(config: SchedulerConfig, timestep: int) -> np.ndarray:
    """Return where the probability flow takes `CLEAN`: it keeps (x - mean) / standard deviation of every timestep."""
    squared = float(alphas_cumprod(config)[timestep])
    std = np.sqrt(squared * STD**2 + 1 - squared)
    return np.sqrt(squared) * MEAN + std * (CLEAN - MEAN) / STD


def run(sampler: Sampler, start: np.ndarray) -> np.ndarray:
    state = sampler.init(jnp.asarray(start))
    for step, timestep in enumerate(sampler.timesteps):
        output = jnp.asarray(exact_output(sampler.config, np.asarray(state.sample), timestep))
        state = sampler.step(state, output, sampler.coefficients(step))
    return np.asarray(state.sample)


def error(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square difference."""
    return float(np.sqrt(np.mean((one - other) ** 2)))


def round_trip(config: SchedulerConfig, num_steps: int, iterations: int = 1) -> float:
    noise = run(make_inversion(config, num_steps, iterations=iterations), CLEAN)
    return error(run(make_sampler(config, num_steps), noise), CLEAN)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_more_steps_come_nearer_to_the_sample_and_to_the_exact_noise(prediction_type: str) -> None:
    config = ddim(prediction_type=prediction_type)
    back = [round_trip(config, steps) for steps in (10, 25, 75)]
    assert back[0] <= 0.1
    assert back[1] <= 0.05
    assert back[2] <= 0.015
    inversions = [make_inversion(config, steps, last_timestep=900) for steps in (10, 100)]
    coarse, fine = (error(run(inversion, CLEAN), exact_noise(config, 900)) for inversion in inversions)
    assert fine <= coarse / 5
    assert fine <= 0.08


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_iterations_converge_to_the_inverse_of_the_sampler(prediction_type: str) -> None:
    config = ddim(prediction_type=prediction_type)
    back = [round_trip(config, 25, iterations) for iterations in (1, 2, 4, 12)]
    assert back == sorted(back, reverse=True)
    assert back[1] <= back[0] / 3
    assert back[3] <= 1e-4


@settings(max_examples=25)
@given(
    num_steps=st.integers(1, 60),
    share=st.floats(0, 1),
    iterations=st.integers(1, 3),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    last_alpha_is_one=st.booleans(),
)
def test_timesteps_are_those_of_sampling_up_to_the_last_one(
    num_steps: int, share: float, iterations: int, spacing: str, last_alpha_is_one: bool
) -> None:
    config = ddim(timestep_spacing=spacing, set_alpha_to_one=last_alpha_is_one, beta_schedule="scaled_linear")
    sampled = make_sampler(config, num_steps).timesteps[::-1]
    last = int(share * 999)
    inversion = make_inversion(config, num_steps, last_timestep=last, iterations=iterations)
    once = inversion.timesteps[::iterations]
    np.testing.assert_array_equal(inversion.timesteps, np.repeat(once, iterations))
    assert once[-1] == last
    np.testing.assert_array_equal(once[:-1], sampled[sampled < last])
    assert {len(table) for table in inversion.tables} == {len(inversion.timesteps)}
    assert np.isfinite(run(inversion, CLEAN)).all()
    np.testing.assert_array_equal(make_inversion(config, num_steps).timesteps, sampled)


@settings(max_examples=20)
@given(num_steps=st.integers(1, 50), strength=st.floats(0.05, 1), spacing=st.sampled_from(["leading", "trailing"]))
def test_a_step_with_the_noise_of_its_result_is_the_inverse_of_sampling(
    num_steps: int, strength: float, spacing: str
) -> None:
    """One step of sampling returns from each step, if both have the same noise prediction; also at part strength."""
    if not int(num_steps * strength):
        return
    config = ddim(timestep_spacing=spacing)
    sampler = make_sampler(config, num_steps, strength)
    inversion = make_inversion(config, num_steps, last_timestep=int(sampler.timesteps[0]))
    assert len(inversion.timesteps) == len(sampler.timesteps)
    eps = jnp.asarray(np.random.default_rng(1).standard_normal(CLEAN.shape), jnp.float32)
    for step in range(len(sampler.timesteps)):
        noised = inversion.step(inversion.init(jnp.asarray(CLEAN)), eps, inversion.coefficients(step))
        back = sampler.step(sampler.init(noised.sample), eps, sampler.coefficients(len(sampler.timesteps) - 1 - step))
        np.testing.assert_allclose(back.sample, CLEAN, atol=2e-4 / float(sampler.tables.alpha.min()))


def test_the_schedule_of_any_sampler_is_inverted_and_one_program_serves_every_step() -> None:
    noisy = SchedulerConfig.from_json({"_class_name": "DDPMScheduler", "thresholding": True})
    traces = []

    def step(inversion: Inversion, *arguments: object) -> object:
        traces.append(inversion)
        return inversion.step(*arguments)  # type: ignore[arg-type]

    compiled = jax.jit(step, static_argnums=0)
    for num_steps, iterations in ((3, 1), (4, 2)):
        inversion = make_inversion(noisy, num_steps, iterations=iterations)
        assert not inversion.takes_noise
        state = inversion.init(jnp.asarray(10 * CLEAN))  # which clipping or thresholding would change
        for number in range(num_steps * iterations):
            state = compiled(inversion, state, jnp.zeros_like(state.sample), inversion.coefficients(number))
        alpha = np.sqrt(alphas_cumprod(noisy)[inversion.timesteps[-1]])
        np.testing.assert_allclose(state.sample, 10 * CLEAN * alpha, rtol=1e-5)
    assert len(traces) == 1
    assert make_inversion(noisy, 3) != make_sampler(noisy.with_sampler("ddim"), 3)  # they are different programs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"iterations": 0}, "iterations = 0: use at least 1"),
        ({"num_steps": 1001}, "num_steps = 1001: use 1 to num_train_timesteps = 1000"),
        ({"last_timestep": 1000}, "last_timestep = 1000: use 0 to 999"),
        ({"last_timestep": -1}, "last_timestep = -1: use 0 to 999"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_inversion(ddim(), **{"num_steps": 5, **arguments})
