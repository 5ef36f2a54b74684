"""Noise schedules, the forward process and scheduler files: against diffusers 0.19.3's numbers and by identities."""

import json
import re
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from show1_jax.diffusion.schedule import (
    SAMPLERS,
    SchedulerConfig,
    add_noise,
    alphas_cumprod,
    predict_eps,
    predict_x0,
    prediction_target,
)
from show1_jax.errors import UserError

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {},
}


def scheduler(class_name: str = "DDPMScheduler", **settings: object) -> SchedulerConfig:
    return SchedulerConfig.from_json({"_class_name": class_name, **settings})


@pytest.fixture(scope="session")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    return load_file(golden / "schedulers.safetensors")


@pytest.mark.parametrize("name", SCHEDULES)
def test_alphas_cumprod_is_the_recorded_one_bit_for_bit(name: str, recorded: dict[str, np.ndarray]) -> None:
    schedule = alphas_cumprod(scheduler(beta_schedule=name, **SCHEDULES[name]))
    assert schedule.dtype == np.float32
    np.testing.assert_array_equal(schedule, recorded[f"alphas_cumprod/{name}"])


def test_squared_cosine_betas_stop_at_0_999() -> None:
    schedule = alphas_cumprod(scheduler(beta_schedule="squaredcos_cap_v2")).astype(np.float64)
    np.testing.assert_allclose(1 - schedule[-1] / schedule[-2], 0.999, rtol=1e-6)


def test_trained_betas_replace_the_schedule() -> None:
    betas = [0.1, 0.2, 0.5]
    schedule = alphas_cumprod(scheduler(num_train_timesteps=3, trained_betas=betas))
    np.testing.assert_allclose(schedule, np.cumprod(1 - np.array(betas)), rtol=1e-6)


def test_add_noise_is_the_recorded_one(recorded: dict[str, np.ndarray]) -> None:
    schedule = alphas_cumprod(scheduler(beta_schedule="squaredcos_cap_v2"))
    x0, noise, timesteps = (recorded[f"add_noise/{name}"] for name in ("x0", "noise", "timesteps"))
    noisy = add_noise(schedule, jnp.asarray(x0), jnp.asarray(noise), timesteps)
    np.testing.assert_allclose(noisy, recorded["add_noise/squaredcos_cap_v2"], rtol=1e-6, atol=1e-6)


def test_add_noise_works_in_float32() -> None:
    schedule = alphas_cumprod(scheduler())
    x0 = jnp.full((2, 1, 1), 0.5, jnp.bfloat16)
    assert add_noise(schedule, x0, x0, np.array([0, 999])).dtype == jnp.float32


@given(
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
    x0=st.floats(-2, 2, width=32),
    eps=st.floats(-4, 4, width=32),
    timestep=st.integers(0, 900),
)
@settings(max_examples=50)
def test_a_perfect_prediction_gives_back_x0_and_eps(prediction_type: str, x0: float, eps: float, timestep: int) -> None:
    squared = alphas_cumprod(scheduler())[timestep]
    alpha, sigma = jnp.sqrt(squared), jnp.sqrt(1 - squared)
    clean, noise = jnp.float32(x0), jnp.float32(eps)
    sample = alpha * clean + sigma * noise
    output = prediction_target(prediction_type, clean, noise, alpha, sigma)
    np.testing.assert_allclose(predict_x0(prediction_type, sample, output, alpha, sigma), x0, atol=1e-4)
    np.testing.assert_allclose(predict_eps(prediction_type, sample, output, alpha, sigma), eps, atol=1e-4)


def test_absent_fields_mean_the_defaults_of_the_class() -> None:
    ddpm, ddim, dpm_solver = (scheduler(SAMPLERS[name]) for name in ("ddpm", "ddim", "dpm_solver++"))
    assert (ddpm.timestep_spacing, ddim.timestep_spacing, dpm_solver.timestep_spacing) == (
        "leading",
        "leading",
        "linspace",
    )
    assert (ddpm.clip_sample, ddim.clip_sample) == (True, True)
    assert (ddpm.variance_type, dpm_solver.variance_type) == ("fixed_small", None)
    for config in (ddpm, ddim, dpm_solver):
        assert config.num_train_timesteps == 1000
        assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.0001, 0.02, "linear")
        assert (config.prediction_type, config.thresholding, config.steps_offset) == ("epsilon", False, 0)
        assert (config.dynamic_thresholding_ratio, config.sample_max_value) == (0.995, 1.0)
    assert (ddim.set_alpha_to_one, ddim.clip_sample_range) == (True, 1.0)
    assert (dpm_solver.solver_order, dpm_solver.solver_type, dpm_solver.lower_order_final) == (2, "midpoint", True)
    assert dpm_solver.lambda_min_clipped == float("-inf")


def test_every_recorded_file_is_read(golden: Path) -> None:
    files = sorted(golden.glob("checkpoints/*/*scheduler/scheduler_config.json"))
    assert len(files) == 7
    for file in files:
        content = json.loads(file.read_text())
        config = SchedulerConfig.from_json(content)
        for field, value in content.items():
            if not field.startswith("_"):
                assert getattr(config, field) == value, (file, field)


@pytest.mark.parametrize(
    ("class_name", "field", "value"),
    [
        ("PNDMScheduler", "_class_name", "PNDMScheduler"),
        ("DDPMScheduler", "beta_schedule", "sigmoid"),
        ("DDPMScheduler", "prediction_type", "score"),
        ("DDPMScheduler", "timestep_spacing", "karras"),
        ("DDPMScheduler", "variance_type", "fixed_large_log"),
        ("DDPMScheduler", "thresholding", "yes"),
        ("DDPMScheduler", "num_train_timesteps", 0),
        ("DDPMScheduler", "num_train_timesteps", 1000.5),
        ("DDPMScheduler", "num_train_timesteps", None),
        ("DDPMScheduler", "steps_offset", -1),
        ("DDPMScheduler", "beta_end", 1.0),
        ("DDPMScheduler", "beta_start", float("nan")),
        ("DDPMScheduler", "dynamic_thresholding_ratio", 95),
        ("DDPMScheduler", "sample_max_value", 0),
        ("DDPMScheduler", "trained_betas", "0.1"),
        ("DDIMScheduler", "rescale_betas_zero_snr", True),
        ("DPMSolverMultistepScheduler", "solver_order", 4),
        ("DPMSolverMultistepScheduler", "algorithm_type", "sde-dpmsolver++"),
        ("DPMSolverMultistepScheduler", "algorithm_type", "dpmsolver"),
        ("DPMSolverMultistepScheduler", "solver_type", "bh2"),
        ("DPMSolverMultistepScheduler", "use_karras_sigmas", True),
        ("DPMSolverMultistepScheduler", "lambda_min_clipped", "-inf"),
        ("DPMSolverMultistepScheduler", "final_sigmas_type", "zero"),
        ("DPMSolverMultistepScheduler", "final_sigmas_type", None),
        ("DPMSolverMultistepScheduler", "euler_at_final", True),
        ("DPMSolverMultistepScheduler", "use_exponential_sigmas", True),
        ("DPMSolverMultistepScheduler", "use_beta_sigmas", True),
        ("DPMSolverMultistepScheduler", "use_lu_lambdas", True),
        ("DPMSolverMultistepScheduler", "use_flow_sigmas", True),
        ("DPMSolverMultistepScheduler", "use_dynamic_shifting", True),
        ("DPMSolverMultistepScheduler", "rescale_betas_zero_snr", True),
        ("DPMSolverMultistepScheduler", "prediction_type", "flow_prediction"),
        ("DDPMScheduler", "rescale_betas_zero_snr", True),
        ("DDPMScheduler", "beta_schedule", "laplace"),
        ("DDPMScheduler", "snr_shift_scale", 3.0),
    ],
)
def test_unsupported_values_are_refused_by_field_and_value(class_name: str, field: str, value: object) -> None:
    with pytest.raises(UserError) as refusal:
        SchedulerConfig.from_json({"_class_name": class_name, field: value})
    assert f"{field} = {value!r}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("betas", [[0.1, 0.2], [0.1, 0.2, 1.0], [0.1, 0.2, "0.3"], []])
def test_wrong_trained_betas_are_refused(betas: list[object]) -> None:
    with pytest.raises(UserError, match="trained_betas = "):
        scheduler(num_train_timesteps=3, trained_betas=betas)


LATER: dict[str, dict[str, object]] = {
    "DDPMScheduler": {"rescale_betas_zero_snr": False},
    "DDIMScheduler": {"rescale_betas_zero_snr": False},
    "DPMSolverMultistepScheduler": {
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "final_sigmas_type": "sigma_min",
        "rescale_betas_zero_snr": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    },
}
"""Additional fields of diffusers 0.20 to 0.36, with the values that have no effect."""


@pytest.mark.parametrize("class_name", LATER)
def test_files_of_later_releases_mean_the_same_schedule(class_name: str, golden: Path) -> None:
    released = [json.loads(path.read_text()) for path in golden.glob("checkpoints/*/*scheduler/scheduler_config.json")]
    files = [{}, *(file for file in released if file["_class_name"] == class_name)]
    assert class_name == "DDIMScheduler" or len(files) > 1
    for file in files:
        file = {"_class_name": class_name, "_diffusers_version": "0.36.0"} | file
        assert SchedulerConfig.from_json(file | LATER[class_name]) == SchedulerConfig.from_json(file)


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({}, "flow_shift", 3.0),
        ({}, "time_shift_type", "linear"),
        ({"solver_order": 1}, "euler_at_final", True),
        ({}, "sigma_min", 0.002),
        ({}, "_use_default_values", ["flow_shift"]),
    ],
)
def test_a_setting_of_dpm_solver_without_effect_is_ignored(
    settings: dict[str, object], field: str, value: object
) -> None:
    name = SAMPLERS["dpm_solver++"]
    assert scheduler(name, **settings, **{field: value}) == scheduler(name, **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_flow_sigmas": True, "flow_shift": 3.0}, "flow_shift = 3.0 is not supported: it shifts the steps of"),
        ({"use_dynamic_shifting": True, "time_shift_type": "exponential"}, "time_shift_type = 'exponential'"),
        ({"solver_order": 2, "euler_at_final": True}, "euler_at_final = True is not supported: it makes the last step"),
        ({"final_sigmas_type": "zero"}, "only 'sigma_min' ends the last step at timestep 0"),
    ],
)
def test_a_setting_of_dpm_solver_with_an_effect_is_refused_with_the_reason(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        scheduler(SAMPLERS["dpm_solver++"], **settings)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_later_settings_of_dpm_solver_do_not_affect_other_samplers(name: str) -> None:
    """Diffusers copies the settings in `from_config`."""
    copied = LATER[SAMPLERS["dpm_solver++"]] | {
        "final_sigmas_type": "zero",
        "use_flow_sigmas": True,
        "solver_order": 3,
    }
    plain = scheduler(SAMPLERS[name], solver_order=3)
    assert scheduler(SAMPLERS[name], **copied | {"rescale_betas_zero_snr": False}) == plain


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_timesteps", 10**12),
        ("num_train_timesteps", 100_001),
        ("steps_offset", 10**12),
        ("beta_start", 10**400),
        ("beta_end", 10**400),
        ("beta_end", -(10**400)),
        ("sample_max_value", 10**400),
        ("sample_max_value", 1e300),
        ("sample_max_value", 1e-300),
        ("clip_sample_range", 1e300),
        ("lambda_min_clipped", -1e300),
        ("trained_betas", [10**400]),
        ("trained_betas", [0.1] * 200_000),
        ("unheard_of", "x" * 10**6),
        ("unheard_of", [[[[[[1]]]]]] * 10**5),
    ],
)
@pytest.mark.parametrize("class_name", SAMPLERS.values())
def test_numbers_out_of_range_are_refused_at_once(class_name: str, field: str, value: object) -> None:
    start = time.process_time()
    with pytest.raises(UserError, match=rf"scheduler setting {field} = .* is not supported: ") as refusal:
        scheduler(class_name, **{field: value})
    assert time.process_time() - start < 5  # shapes and types are checked, too
    assert len(str(refusal.value)) < 500


def test_settings_of_other_schedulers_are_ignored() -> None:
    config = scheduler("DDIMScheduler", skip_prk_steps=True, use_exponential_sigmas=False, _diffusers_version="0.30.0")
    assert config == scheduler("DDIMScheduler")


def test_solver_settings_are_checked_only_with_the_solver() -> None:
    config = scheduler("DDPMScheduler", algorithm_type="dpmsolver")
    with pytest.raises(UserError, match=r"algorithm_type = 'dpmsolver'"):
        config.with_sampler("dpm_solver++")


@given(
    settings=st.dictionaries(
        st.sampled_from([*SchedulerConfig.__dataclass_fields__, *LATER[SAMPLERS["dpm_solver++"]], "unheard_of"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.floats()),
    ),
    class_name=st.sampled_from(list(SAMPLERS.values())),
)
def test_any_json_is_read_or_refused_in_one_line(settings: dict[str, object], class_name: str) -> None:
    try:
        config = SchedulerConfig.from_json({"_class_name": class_name} | settings)
    except UserError as refusal:
        message = str(refusal)
    else:
        message = str(hash(config))
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_sampler_keeps_the_schedule_and_the_thresholding(name: str) -> None:
    pixel = scheduler(
        "DPMSolverMultistepScheduler",
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        sample_max_value=1.5,
        prediction_type="v_prediction",
        variance_type="learned_range",
    )
    other = pixel.with_sampler(name)
    assert other.class_name == SAMPLERS[name]
    for field in ("beta_schedule", "thresholding", "sample_max_value", "prediction_type", "variance_type"):
        assert getattr(other, field) == getattr(pixel, field)
    assert other.timestep_spacing == scheduler(SAMPLERS[name]).timestep_spacing


def test_a_latent_sampler_does_not_clip() -> None:
    latent = scheduler("DPMSolverMultistepScheduler", beta_schedule="scaled_linear", clip_sample=True)
    assert not latent.with_sampler("ddim").clip_sample
    assert latent.with_sampler("ddpm").variance_type == "fixed_small"


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UserError, match=r"sampler = 'euler'.*'ddpm'"):
        scheduler().with_sampler("euler")
