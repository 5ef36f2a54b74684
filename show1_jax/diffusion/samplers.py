"""DDPM, DPM-Solver++ and DDIM as one pure step, and classifier-free guidance, for any network.

All three are the same linear update with different coefficients (tables made on the host, one row a step):

    x0       = threshold or clip(clean sample predicted by the model output)
    x_next   = a x_t + c_0 x0 + c_1 x0' + c_2 x0'' + e eps + s noise

with x0', x0'' the predictions of the two steps before (DPM-Solver++), eps the predicted noise (DDIM) and s the standard
deviation of fresh noise (DDPM). The rows are arguments of the compiled step, so one program serves every step.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from show1_jax.diffusion.schedule import (
    Scale,
    SchedulerConfig,
    alphas_cumprod,
    learned_log_variance,
    posterior,
    predict_eps,
    predict_x0,
    split_variance,
)
from show1_jax.errors import UserError
from show1_jax.ops.quantile import magnitude_quantile

DDPM, DPM_SOLVER, DDIM = "DDPMScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"


class Coefficients(NamedTuple):
    """The coefficients of one step, or with a leading axis those of all steps; see the module's formula."""

    alpha: Scale  # x_t = alpha x0 + sigma eps
    sigma: Scale
    sample: Scale  # a
    x0: Scale  # c, the newest prediction's first
    eps: Scale  # e
    noise: Scale  # s; 0 where no noise is drawn, 1 where the network predicts the variance
    log_variance: Scale  # bounds between which a learned_range variance interpolates


class SamplerState(NamedTuple):
    """The state between steps: the noisy sample and the x0 predictions of the previous steps, newest first."""

    sample: Float32[Array, "*batch height width channel"]
    history: tuple[Float32[Array, "*batch height width channel"], ...]


@dataclass(frozen=True)
class Sampler:
    """A sampler's timesteps and coefficients.

    Samplers are compared and hashed by their settings alone, which determine `step`.
    """

    config: SchedulerConfig
    timesteps: Int32[np.ndarray, " steps"] = field(compare=False)
    tables: Coefficients = field(compare=False)

    @property
    def takes_noise(self) -> bool:
        """True if `step` requires noise."""
        return self.config.class_name == DDPM

    def needs_noise(self, step: int) -> bool:
        """Return whether noise is drawn at this step; otherwise `step` ignores its values."""
        return self.takes_noise and bool(self.timesteps[step] > 0)

    def coefficients(self, step: int) -> Coefficients:
        """Return the coefficients of one step, counted from 0."""
        return jax.tree.map(lambda table: table[step, ...], self.tables)

    @property
    def history_length(self) -> int:
        """Number of arrays in the state's history."""
        return _solver_order(self.config) - 1

    def init(self, sample: Float[Array, "*batch height width channel"]) -> SamplerState:
        """Return the state before the first step, from the sample that it starts with."""
        sample = sample.astype(jnp.float32)
        return SamplerState(sample, (jnp.zeros_like(sample),) * self.history_length)

    def step(
        self,
        state: SamplerState,
        model_output: Float[Array, "*batch height width output_channel"],
        coefficients: Coefficients,
        noise: Float[Array, "*batch height width channel"] | None = None,
    ) -> SamplerState:
        """Compute one denoising step in float32. Pure: jit it with `coefficients` as an argument.

        Args:
            state: the state before the step.
            model_output: guided output of the network, with the sample's channels or twice as many; the second half is
                a variance.
            coefficients: `self.coefficients(step)`.
            noise: a standard Gaussian draw, required at every step if `takes_noise` (any finite values where
                `needs_noise` is false), otherwise unused.

        Returns:
            The state after the step.

        Raises:
            UserError: the network's channels do not fit the sample or the variance type.
            ValueError: the sampler requires noise, and none is given.
        """
        config, at = self.config, coefficients
        output, variance = split_variance(model_output.astype(jnp.float32), state.sample.shape[-1])
        x0 = predict_x0(config.prediction_type, state.sample, output, at.alpha, at.sigma)
        predictions = (_threshold_or_clip(config, x0), *state.history)
        sample = state.sample * at.sample
        for i, prediction in enumerate(predictions):
            sample += prediction * at.x0[i]
        if config.class_name == DDIM:
            sample += predict_eps(config.prediction_type, state.sample, output, at.alpha, at.sigma) * at.eps
        if self.takes_noise:
            if noise is None:
                raise ValueError("DDPM requires noise at every step: pass any array where needs_noise is false")
            sample += noise.astype(jnp.float32) * _noise_scale(config, at, variance)
        return SamplerState(sample, predictions[: len(state.history)])


def guide(
    negative: Float[Array, "*batch channel"],
    prompt: Float[Array, "*batch channel"],
    scale: float | Float[Array, ""],
    sample_channels: int,
) -> Float32[Array, "*batch channel"]:
    """Combine the unconditional and the conditional branch (Ho and Salimans 2022, arXiv 2207.12598), in float32.

    Args:
        negative: the network's output for the negative prompt (unconditional branch).
        prompt: the network's output for the prompt (conditional branch).
        scale: guidance scale; 1 returns the conditional branch.
        sample_channels: number of channels that are guided. The channels after them, a variance, are those of the
            conditional branch, as in the original.
    """
    negative, prompt = negative.astype(jnp.float32), prompt.astype(jnp.float32)
    low, high = negative[..., :sample_channels], prompt[..., :sample_channels]
    guided = low + jnp.asarray(scale, jnp.float32) * (high - low)
    return jnp.concatenate([guided, prompt[..., sample_channels:]], axis=-1)


def make_sampler(config: SchedulerConfig, num_steps: int, strength: float = 1.0) -> Sampler:
    """Return the timesteps and coefficients of a whole trajectory, with the spacing of diffusers 0.19.3.

    Args:
        config: schedule and sampler.
        num_steps: number of steps of the full trajectory, at most `num_train_timesteps`. Rounding may merge a few.
        strength: in (0, 1]; below 1 only the last int(num_steps * strength) steps are computed, from a sample noised
            to the first of them (SDEdit, arXiv 2108.01073).

    Raises:
        UserError: steps or strength are out of range, or the settings lead to a timestep outside the schedule.
    """
    if not 1 <= num_steps <= config.num_train_timesteps:
        raise UserError(f"num_steps = {num_steps}: use 1 to num_train_timesteps = {config.num_train_timesteps} steps")
    if not 0 < strength <= 1:
        raise UserError(f"strength = {strength}: it must be above 0 and at most 1")
    schedule = alphas_cumprod(config)
    timesteps = _timesteps(config, num_steps, schedule)
    if timesteps.max(initial=0) >= config.num_train_timesteps:
        raise UserError(
            f"steps_offset = {config.steps_offset} with num_steps = {num_steps} leads to timestep {timesteps.max()}, "
            f"past the last of {config.num_train_timesteps}: use a smaller steps_offset"
        )
    first = num_steps - int(num_steps * strength)
    if first >= len(timesteps):
        raise UserError(f"strength = {strength} of num_steps = {num_steps} leaves no step: raise one of them")
    with np.errstate(divide="ignore", invalid="ignore"):
        tables = _TABLE_BUILDERS[config.class_name](config, num_steps, schedule, timesteps, first)
    if not all(np.isfinite(table).all() for table in tables) or not (tables.alpha * tables.sigma).all():
        raise UserError(
            f"{config.class_name} cannot use this noise schedule: alpha or sigma is 0 at a timestep it uses; "
            "use another beta_start, beta_end, trained_betas or timestep_spacing"
        )
    return Sampler(config, timesteps[first:].astype(np.int32), tables)


def _solver_order(config: SchedulerConfig) -> int:
    return config.solver_order if config.class_name == DPM_SOLVER else 1


def _threshold_or_clip(
    config: SchedulerConfig, x0: Float32[Array, "*batch height width channel"]
) -> Float32[Array, "*batch height width channel"]:
    """Apply dynamic thresholding to each frame independently (Imagen, arXiv 2205.11487, section 2.3), or clip."""
    if config.thresholding:
        largest = magnitude_quantile(x0, config.dynamic_thresholding_ratio)
        largest = jnp.clip(largest, 1.0, config.sample_max_value)
        return jnp.clip(x0, -largest, largest) / largest
    if config.clip_sample and config.class_name != DPM_SOLVER:
        return jnp.clip(x0, -config.clip_sample_range, config.clip_sample_range)
    return x0


def _noise_scale(config: SchedulerConfig, at: Coefficients, variance: Float32[Array, "*batch channel"] | None) -> Scale:
    """Return the standard deviation of the noise of a DDPM step."""
    if config.variance_type not in ("learned", "learned_range"):
        return at.noise
    if variance is None:
        raise UserError(
            f"scheduler setting variance_type = {config.variance_type!r} needs a network that predicts a variance, "
            "and this one has no channels for it: set variance_type to 'fixed_small'"
        )
    if config.variance_type == "learned":
        scale = jnp.sqrt(variance)
    else:
        scale = jnp.exp(0.5 * learned_log_variance(variance, at.log_variance[0], at.log_variance[1]))
    return jnp.where(at.noise > 0, scale, 0)  # the variance of timestep 0 has no meaning and may have no root


def _timesteps(config: SchedulerConfig, num_steps: int, schedule: np.ndarray) -> np.ndarray:
    """Return all timesteps of the full trajectory, descending; DPM-Solver++ counts its end, timestep 0, as one more."""
    num_train = config.num_train_timesteps
    is_dpm_solver = config.class_name == DPM_SOLVER
    last = _last_timestep(config, schedule) if is_dpm_solver else num_train
    count = num_steps + 1 if is_dpm_solver else num_steps
    if config.timestep_spacing == "linspace":
        descending = np.linspace(0, last - 1, count).round()[::-1][:num_steps]
    elif config.timestep_spacing == "leading":
        if last < count:
            raise UserError(f"num_steps = {num_steps} is too many for timestep_spacing = 'leading': use fewer")
        descending = (np.arange(0.0, count) * (last // count))[::-1][:num_steps] + config.steps_offset
    else:
        descending = np.arange(last, 0, -num_train / num_steps).round() - 1
    # The float arange of "trailing" may reach one step too far, -1; a fine "linspace" may round to one timestep twice.
    return np.unique(descending[descending >= 0].astype(np.int64))[::-1]


def _last_timestep(config: SchedulerConfig, schedule: np.ndarray) -> int:
    """Return the number of timesteps whose lambda = log(alpha / sigma) is not below `lambda_min_clipped`."""
    with np.errstate(divide="ignore"):
        log_snr = np.log(np.sqrt(schedule)) - np.log(np.sqrt(1 - schedule))
    count = int((log_snr >= np.float32(config.lambda_min_clipped)).sum())
    if count < 2:
        raise UserError(f"scheduler setting lambda_min_clipped = {config.lambda_min_clipped} leaves no timesteps")
    return count


def _build_tables(schedule: np.ndarray, timesteps: np.ndarray, x0: np.ndarray, **rows: np.ndarray) -> Coefficients:
    steps = len(timesteps)
    alpha_squared = schedule[timesteps]
    zeros: dict[str, np.ndarray] = {
        "eps": np.zeros(steps),
        "noise": np.zeros(steps),
        "log_variance": np.zeros((steps, 2)),
    }
    columns = zeros | {"alpha": np.sqrt(alpha_squared), "sigma": np.sqrt(1 - alpha_squared), "x0": x0} | rows
    return Coefficients(**{name: column.astype(np.float32) for name, column in columns.items()})


def _previous_alphas_cumprod(
    config: SchedulerConfig, num_steps: int, schedule: np.ndarray, timesteps: np.ndarray, at_end: np.float32
) -> np.ndarray:
    """Return alphas_cumprod after each DDPM or DDIM step, num_train // num_steps timesteps lower; below 0, `at_end`."""
    previous = timesteps - config.num_train_timesteps // num_steps
    return np.where(previous >= 0, schedule[previous], at_end)


def _ddpm_tables(
    config: SchedulerConfig, num_steps: int, schedule: np.ndarray, timesteps: np.ndarray, first: int
) -> Coefficients:
    """Return the DDPM coefficients: the posterior of Ho et al. 2020, equation 7, over the respaced schedule.

    Computed in float32, as in the original: the rounding of the small beta changes the sample (by 4e-5 of it at 100
    steps).
    """
    timesteps = timesteps[first:]
    now = schedule[timesteps]
    previous = _previous_alphas_cumprod(config, num_steps, schedule, timesteps, np.float32(1))
    step = posterior(now, previous)
    variance = np.maximum(step.variance, np.float32(1e-20))
    if config.variance_type in ("learned", "learned_range"):
        noise = np.ones_like(now)
    else:
        noise = np.sqrt(step.beta if config.variance_type == "fixed_large" else variance)
    return _build_tables(
        schedule,
        timesteps,
        x0=step.x0[:, None],
        sample=step.sample,
        noise=np.where(timesteps > 0, noise, 0),
        log_variance=np.log(np.stack([variance, step.beta], axis=-1)),
    )


def _ddim_tables(
    config: SchedulerConfig, num_steps: int, schedule: np.ndarray, timesteps: np.ndarray, first: int
) -> Coefficients:
    """Return the DDIM coefficients: Song et al. 2021 (arXiv 2010.02502), equation 12, without noise (eta = 0)."""
    timesteps = timesteps[first:]
    at_end = np.float32(1) if config.set_alpha_to_one else schedule[0]
    previous = _previous_alphas_cumprod(config, num_steps, schedule, timesteps, at_end)
    return _build_tables(
        schedule,
        timesteps,
        x0=np.sqrt(previous)[:, None],
        sample=np.zeros_like(previous),
        eps=np.sqrt(1 - previous),
    )


def _dpm_solver_tables(
    config: SchedulerConfig, num_steps: int, schedule: np.ndarray, timesteps: np.ndarray, first: int
) -> Coefficients:
    """Return the multistep DPM-Solver++ coefficients (Lu et al. 2022, arXiv 2211.01095, algorithm 2), to timestep 0."""
    exact = schedule.astype(np.float64)
    alpha, sigma = np.sqrt(exact), np.sqrt(1 - exact)
    log_snr = np.log(alpha) - np.log(sigma)
    points = np.append(timesteps, 0)
    x0 = np.zeros((len(timesteps), config.solver_order))
    for i in range(first, len(timesteps)):
        order = min(config.solver_order, i - first + 1)
        if config.lower_order_final and len(timesteps) < 15:
            order = min(order, len(timesteps) - i)
        lambdas = log_snr[points[i + 1 - order : i + 2]][::-1]
        x0[i, :order] = alpha[points[i + 1]] * _multistep_weights(lambdas, config.solver_type)
    ratio = sigma[points[1:]] / sigma[timesteps]
    return _build_tables(schedule, timesteps[first:], x0=x0[first:], sample=ratio[first:])


def _multistep_weights(lambdas: np.ndarray, solver_type: str) -> np.ndarray:
    """Return the weights, divided by alpha, of the last one to three x0 predictions, newest first.

    They integrate exp(lambda - lambda_target) times a Taylor expansion of x0 in lambda, whose derivatives are estimated
    from the predictions (Lu et al. 2022, arXiv 2211.01095, appendix B; the terms of third order are those of diffusers
    0.19.3).

    Args:
        lambdas: log(alpha / sigma) of the target, of the current timestep and of the previous steps.
        solver_type: `midpoint` or `heun`; they differ in the second order alone.
    """
    order = len(lambdas) - 1
    h = lambdas[0] - lambdas[1]
    if h == 0:
        return np.zeros(order)
    constant = -np.expm1(-h)
    if order == 1:
        return np.array([constant])
    linear = constant / 2 if order == 2 and solver_type == "midpoint" else 1 - constant / h
    r0 = (lambdas[1] - lambdas[2]) / h
    if order == 2:
        return np.array([constant + linear / r0, -linear / r0])
    r1 = (lambdas[2] - lambdas[3]) / h
    quadratic = 0.5 - (h - constant) / h**2
    newer = linear + (linear * r0 + quadratic) / (r0 + r1)
    older = -(linear * r0 + quadratic) / (r0 + r1)
    return np.array([constant + newer / r0, older / r1 - newer / r0, -older / r1])


_TABLE_BUILDERS = {DDPM: _ddpm_tables, DPM_SOLVER: _dpm_solver_tables, DDIM: _ddim_tables}
