"""Samplers against the recorded run, against diffusers 0.19.3's own trajectories and by analytic identities."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from show1_jax.diffusion.samplers import Coefficients, Sampler, SamplerState, _multistep_weights, guide, make_sampler
from show1_jax.diffusion.schedule import SAMPLERS, SchedulerConfig, alphas_cumprod, prediction_target
from show1_jax.errors import UserError
from tests.helpers.recorded import SHIPPED_EMITTERS

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = json.loads((GOLDEN / "schedulers.json").read_text())["settings"]

# Name in the recorded run: the folder whose scheduler it used, and the recorded noise of its DDPM steps.
STAGES = {
    "base": "show-1-base",
    "interpolation/0": "show-1-interpolation",
    "interpolation/1": "show-1-interpolation",
    "interpolation/2": "show-1-interpolation",
    "image_sr": "IF-II-L-v1.0",
    "sr1/0": "show-1-sr1",
    "sr1/4": "show-1-sr1",
    "sr1/8": "show-1-sr1",
    "sr2": "show-1-sr2",
}
STEP_NOISE = {"image_sr": (4, 5, 6)}
STEP = jax.jit(Sampler.step, static_argnums=0, compiler_options=SHIPPED_EMITTERS)


def relative_error(value: jax.Array, reference: jax.Array) -> float:
    return float(np.linalg.norm(np.asarray(value) - reference) / np.linalg.norm(reference))


def as_video(frames: np.ndarray) -> jax.Array:
    """Transpose (frame, channel, height, width) to (1, frame, height, width, channel)."""
    return jnp.asarray(np.moveaxis(frames, 1, -1)[None], jnp.float32)


def scheduler(sampler: str = "ddpm", **settings: object) -> SchedulerConfig:
    return SchedulerConfig.from_json({"_class_name": SAMPLERS[sampler], **settings})


def replay(
    sampler: Sampler,
    samples: np.ndarray,
    outputs: np.ndarray,
    noise: dict[int, np.ndarray],
) -> tuple[float, float]:
    """Return the largest error of a single step from the recorded sample, and the error of the whole trajectory.

    The history of a single step is that of the recorded steps before it.
    """
    state = recorded = sampler.init(as_video(samples[0]))
    worst = 0.0
    for i in range(len(sampler.timesteps)):
        draw = as_video(noise[i]) if i in noise else jnp.zeros_like(state.sample) if sampler.takes_noise else None
        row, output = sampler.coefficients(i), as_video(outputs[i])
        state = STEP(sampler, state, output, row, draw)
        recorded = STEP(sampler, SamplerState(as_video(samples[i]), recorded.history), output, row, draw)
        worst = max(worst, relative_error(recorded.sample, as_video(samples[i + 1])))
    return worst, relative_error(state.sample, as_video(samples[-1]))


@pytest.mark.parametrize("stage", STAGES)
def test_every_recorded_solver_step(stage: str, golden: Path, trace: dict[str, np.ndarray]) -> None:
    run = json.loads((golden / "trace.json").read_text())
    folder = golden / "checkpoints" / STAGES[stage]
    config = SchedulerConfig.from_json(json.loads((folder / "scheduler/scheduler_config.json").read_text()))
    name = stage.split("/")[0]
    sampler = make_sampler(config, run["steps"][name], run["strength"] if name == "sr2" else 1.0)
    np.testing.assert_array_equal(sampler.timesteps, trace[f"steps/{stage}/timestep"])

    drawing_steps = [i for i in range(len(sampler.timesteps)) if sampler.needs_noise(i)]
    draws = STEP_NOISE.get(stage, ())
    assert len(drawing_steps) == len(draws)
    noise = {i: trace[f"noise/{draw:03d}"] for i, draw in zip(drawing_steps, draws, strict=True)}
    samples, outputs = trace[f"steps/{stage}/sample"], trace[f"steps/{stage}/model_output"]
    worst_step, trajectory = replay(sampler, samples, outputs, noise)
    assert worst_step <= 1e-5
    assert trajectory <= 1e-5


def test_noise_is_drawn_in_the_recorded_order(golden: Path) -> None:
    """The draws are the initial and the augmentation noise, then one for each DDPM step above timestep 0."""
    run = json.loads((golden / "trace.json").read_text())
    sampler = make_sampler(scheduler(), run["steps"]["image_sr"])
    draws = sum(sampler.needs_noise(i) for i in range(len(sampler.timesteps)))
    assert run["noise_draws"].count("image_sr") == 2 + draws
    assert not sampler.needs_noise(len(sampler.timesteps) - 1)


@pytest.fixture(scope="module")
def diffusers_runs() -> dict[str, np.ndarray]:
    return load_file(GOLDEN / "schedulers.safetensors")


def _describe(setting: dict) -> str:
    config = dict(setting["config"])
    return f"{config.pop('_class_name')[:4]}-{setting['num_steps']}-{setting['strength']}-" + "-".join(
        f"{value}" for value in config.values()
    )


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=[f"{i}-{_describe(s)}" for i, s in enumerate(SETTINGS)])
def test_diffusers_own_trajectories(index: int, diffusers_runs: dict[str, np.ndarray]) -> None:
    setting = SETTINGS[index]
    sampler = make_sampler(SchedulerConfig.from_json(setting["config"]), setting["num_steps"], setting["strength"])
    run = {name: diffusers_runs[f"{index:03d}/{name}"] for name in ("timesteps", "samples", "outputs")}
    draws = diffusers_runs.get(f"{index:03d}/noise")
    np.testing.assert_array_equal(sampler.timesteps, run["timesteps"])
    noise = {} if draws is None else dict(enumerate(draws))
    worst_step, trajectory = replay(sampler, run["samples"], run["outputs"], noise)
    assert worst_step <= 1e-5
    assert trajectory <= 2e-5  # errors of all steps add up


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_one_program_serves_every_step_and_number_of_steps(sampler_name: str) -> None:
    traces = []

    def step(
        sampler: Sampler, state: SamplerState, output: jax.Array, coefficients: Coefficients, noise: jax.Array
    ) -> SamplerState:
        traces.append(sampler)
        return sampler.step(state, output, coefficients, noise)

    compiled = jax.jit(step, static_argnums=0)
    config = scheduler(sampler_name, variance_type="fixed_small", thresholding=True)
    for num_steps in (3, 20):
        sampler = make_sampler(config, num_steps)
        state = sampler.init(jnp.ones((1, 2, 2, 3, 3), jnp.bfloat16))
        for i in range(num_steps):
            output = jnp.ones((1, 2, 2, 3, 6), jnp.bfloat16)
            state = compiled(sampler, state, output, sampler.coefficients(i), jnp.zeros_like(state.sample))
        assert state.sample.dtype == jnp.float32
        assert np.isfinite(state.sample).all()
    assert len(traces) == 1


@given(
    sampler_name=st.sampled_from(["dpm_solver++", "ddim"]),
    beta_schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    timestep_spacing=st.sampled_from(["linspace", "leading", "trailing"]),
    solver_order=st.integers(1, 3),
    solver_type=st.sampled_from(["midpoint", "heun"]),
    num_steps=st.integers(4, 130),
    strength=st.floats(0.5, 1.0),
)
@settings(max_examples=60)
def test_a_deterministic_step_keeps_the_line_between_x0_and_eps(
    sampler_name: str, num_steps: int, strength: float, **settings: object
) -> None:
    """x_t = alpha_t x0 + sigma_t eps solves the ODE where x0 and eps are constant: each step lands on it exactly."""
    config = scheduler(sampler_name, **settings)
    sampler = make_sampler(config, num_steps, strength)
    table = sampler.tables
    signal = table.sample * table.alpha + table.x0.sum(-1)
    noise = table.sample * table.sigma + table.eps
    if sampler_name == "ddim":
        previous = sampler.timesteps - 1000 // num_steps
        end = 1.0
    else:
        previous = np.append(sampler.timesteps[1:], 0)
        end = np.nan  # no step lands before the schedule
    squared = alphas_cumprod(config)
    landing = np.asarray(np.where(previous >= 0, squared[previous], end), np.float32)
    np.testing.assert_allclose(signal, np.sqrt(landing), atol=1e-5)
    np.testing.assert_allclose(noise, np.sqrt(1 - landing), atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_a_perfect_model_recovers_x0(sampler_name: str, prediction_type: str) -> None:
    config = scheduler(sampler_name, clip_sample=False, beta_schedule="scaled_linear", prediction_type=prediction_type)
    sampler = make_sampler(config, 25)
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.uniform(-2, 2, (1, 2, 3, 4, 3)), jnp.float32)
    state = sampler.init(jnp.asarray(rng.standard_normal(x0.shape), jnp.float32))
    for i in range(25):
        row = sampler.coefficients(i)
        eps = (state.sample - row.alpha * x0) / row.sigma
        output = prediction_target(prediction_type, x0, eps, row.alpha, row.sigma)
        noise = jnp.asarray(rng.standard_normal(x0.shape), jnp.float32)
        state = sampler.step(state, output, row, noise)
    tolerance = 0.1 if sampler_name == "dpm_solver++" else 1e-4  # DPM-Solver++ ends at timestep 0, a little noisy
    np.testing.assert_allclose(state.sample, x0, atol=tolerance)


def test_thresholding_is_per_frame() -> None:
    """One frame with large values must not change its neighbours, nor another video of the batch."""
    sampler = make_sampler(scheduler(thresholding=True, prediction_type="sample", sample_max_value=10.0), 1)
    rng = np.random.default_rng(0)
    output = rng.standard_normal((2, 3, 4, 5, 3)).astype(np.float32)
    output[1, 2] *= 5
    state = sampler.init(jnp.zeros(output.shape))
    whole = sampler.step(state, jnp.asarray(output), sampler.coefficients(0), state.sample).sample
    for video, frame in np.ndindex(2, 3):
        x0 = output[video, frame]
        largest = np.clip(np.quantile(np.abs(x0), 0.995), 1, 10)
        np.testing.assert_allclose(whole[video, frame], np.clip(x0, -largest, largest) / largest, atol=2e-6)


def test_thresholding_does_not_amplify_small_values() -> None:
    sampler = make_sampler(scheduler(thresholding=True, prediction_type="sample"), 1)
    output = jnp.full((1, 1, 2, 2, 3), 0.25)
    state = sampler.init(jnp.zeros_like(output))
    np.testing.assert_allclose(sampler.step(state, output, sampler.coefficients(0), output).sample, 0.25, rtol=1e-6)


def test_learned_range_mixes_between_posterior_variance_and_beta() -> None:
    """An output of -1 is the log posterior variance and 1 is log beta, over the respaced schedule."""
    sampler = make_sampler(scheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2"), 10)
    schedule = alphas_cumprod(sampler.config).astype(np.float64)
    t, previous = int(sampler.timesteps[3]), int(sampler.timesteps[3]) - 100
    beta = 1 - schedule[t] / schedule[previous]
    posterior = (1 - schedule[previous]) / (1 - schedule[t]) * beta
    noise = jnp.ones((1, 1, 1, 1, 3))
    for v, variance in ((-1.0, posterior), (1.0, beta), (0.0, np.sqrt(posterior * beta))):
        output = jnp.concatenate([jnp.zeros_like(noise), jnp.full_like(noise, v)], -1)
        state = sampler.init(jnp.zeros_like(noise))
        stepped = sampler.step(state, output, sampler.coefficients(3), noise).sample
        np.testing.assert_allclose(stepped, np.sqrt(variance), rtol=1e-4)


def test_the_posterior_variance_has_a_floor() -> None:
    """With an offset the last timestep is above 0 but lands past the schedule: variance 0, floor 1e-20, noise drawn."""
    sampler = make_sampler(scheduler(variance_type="learned_range", steps_offset=1), 10)
    assert sampler.needs_noise(9)
    np.testing.assert_allclose(sampler.tables.log_variance[9, 0], np.log(1e-20), rtol=1e-6)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
@pytest.mark.parametrize("variance", [-1.0, 12.0, 1e30, np.inf, np.nan])
def test_the_variance_has_no_effect_at_timestep_0(variance_type: str, variance: float) -> None:
    sampler = make_sampler(scheduler(variance_type=variance_type, beta_schedule="squaredcos_cap_v2"), 10)
    assert sampler.timesteps[9] == 0
    sample = jnp.full((1, 1, 2, 2, 3), 0.5)
    outputs = (jnp.concatenate([sample, jnp.full_like(sample, value)], -1) for value in (variance, 0.5))
    one, other = (sampler.step(sampler.init(sample), out, sampler.coefficients(9), sample).sample for out in outputs)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_an_unused_variance_is_ignored(sampler_name: str) -> None:
    sampler = make_sampler(scheduler(sampler_name), 4)
    rng = np.random.default_rng(0)
    output = jnp.asarray(rng.standard_normal((1, 2, 3, 3, 6)), jnp.float32)
    state = sampler.init(output[..., :3])
    both, alone = (
        sampler.step(state, out, sampler.coefficients(0), output[..., 3:]) for out in (output, output[..., :3])
    )
    np.testing.assert_array_equal(both.sample, alone.sample)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_a_missing_variance_is_refused(variance_type: str) -> None:
    sampler = make_sampler(scheduler(variance_type=variance_type), 4)
    state = sampler.init(jnp.zeros((1, 1, 2, 2, 3)))
    with pytest.raises(UserError, match=f"variance_type = '{variance_type}'"):
        jax.eval_shape(sampler.step, state, state.sample, sampler.coefficients(0), state.sample)


def test_a_wrong_number_of_channels_is_refused() -> None:
    sampler = make_sampler(scheduler(), 4)
    state = sampler.init(jnp.zeros((1, 1, 2, 2, 3)))
    with pytest.raises(UserError, match="5 channels for a sample of 3"):
        sampler.step(state, jnp.zeros((1, 1, 2, 2, 5)), sampler.coefficients(0), state.sample)


def test_ddpm_without_noise_is_an_error() -> None:
    sampler = make_sampler(scheduler(), 4)
    state = sampler.init(jnp.zeros((1, 1, 2, 2, 3)))
    with pytest.raises(ValueError, match="noise"):
        sampler.step(state, state.sample, sampler.coefficients(0))


def test_guidance_mixes_the_noise_and_keeps_the_variance_of_the_prompt() -> None:
    negative = jnp.asarray([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    prompt = jnp.asarray([2.0, 2.0, 1.0, 40.0, 50.0, 60.0])
    np.testing.assert_array_equal(guide(negative, prompt, 9.0, 3), [10, 2, -15, 40, 50, 60])
    np.testing.assert_array_equal(guide(negative, prompt, jnp.asarray(9.0), 6)[3:], [280, 290, 300])
    assert guide(negative.astype(jnp.bfloat16), prompt.astype(jnp.bfloat16), 9.0, 3).dtype == jnp.float32


@pytest.mark.parametrize(
    ("num_steps", "strength", "settings", "message"),
    [
        (0, 1.0, {}, "num_steps = 0"),
        (1001, 1.0, {}, "num_steps = 1001.*1000"),
        (50, 0.0, {}, "strength = 0.0"),
        (50, 1.1, {}, "strength = 1.1"),
        (50, float("nan"), {}, "strength = nan"),
        (4, 0.2, {}, "strength = 0.2 of num_steps = 4 leaves no step"),
        (50, 1.0, {"steps_offset": 40}, "steps_offset = 40 .* timestep 1020"),
        (1000, 1.0, {"timestep_spacing": "leading"}, "num_steps = 1000 is too many"),
        (10, 1.0, {"lambda_min_clipped": 99.0}, "lambda_min_clipped = 99.0"),
        (10, 1.0, {"beta_start": 0}, "alpha or sigma is 0"),
    ],
)
def test_invalid_steps_and_strengths_are_refused(
    num_steps: int, strength: float, settings: dict[str, object], message: str
) -> None:
    sampler = "dpm_solver++" if {"lambda_min_clipped", "timestep_spacing"} & set(settings) else "ddpm"
    with pytest.raises(UserError, match=message):
        make_sampler(scheduler(sampler, **settings), num_steps, strength)


@given(
    sampler_name=st.sampled_from(list(SAMPLERS)),
    timestep_spacing=st.sampled_from(["linspace", "leading", "trailing"]),
    num_train_timesteps=st.integers(1, 300),
    num_steps=st.integers(-1, 310),
    strength=st.floats(-0.1, 1.1),
    steps_offset=st.integers(0, 3),
    solver_order=st.integers(1, 3),
)
@settings(max_examples=150)
def test_timesteps_descend_within_the_schedule(
    sampler_name: str, num_steps: int, strength: float, **settings: object
) -> None:
    config = scheduler(sampler_name, beta_schedule="squaredcos_cap_v2", **settings)
    try:
        sampler = make_sampler(config, num_steps, strength)
    except UserError as refusal:
        message = str(refusal)
    else:
        message = ""
    if message:
        assert len(message.splitlines()) == 1
        return
    assert 1 <= len(sampler.timesteps) <= int(num_steps * strength)
    assert (np.diff(sampler.timesteps) < 0).all()
    assert sampler.timesteps.min() >= 0
    assert sampler.timesteps.max() < config.num_train_timesteps
    assert {len(table) for table in sampler.tables} == {len(sampler.timesteps)}
    assert isinstance(sampler.coefficients(0), Coefficients)


@given(
    gaps=st.lists(st.floats(0.05, 2), min_size=2, max_size=3),
    solver_type=st.sampled_from(["midpoint", "heun"]),
    slope=st.floats(-2, 2),
)
def test_multistep_weights_integrate_linear_functions_exactly(
    gaps: list[float], solver_type: str, slope: float
) -> None:
    """Orders above 1 are exact for an x0 that is linear in lambda (midpoint: for a constant one)."""
    lambdas = -np.cumsum([0.0, *gaps])
    weights = _multistep_weights(lambdas, solver_type)
    h = gaps[0]
    constant = 1 - np.exp(-h)
    np.testing.assert_allclose(weights.sum(), constant, atol=1e-12)
    if len(gaps) == 3 or solver_type == "heun":
        predictions = slope * (lambdas[1:] - lambdas[1])
        np.testing.assert_allclose(weights @ predictions, slope * (h - constant), atol=1e-10)
