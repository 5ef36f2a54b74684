"""The noise schedule, the forward process and the parameterisations of a diffusion model, for any network.

A noisy sample is x_t = alpha_t x0 + sigma_t eps with alpha_t^2 = alphas_cumprod[t] and sigma_t^2 = 1 - alpha_t^2
(Ho et al. 2020, arXiv 2006.11239, equation 4). Schedules are float32, rounded where the original rounds.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Float32, Int

from show1_jax.config.bounds import MAX_TIMESTEPS
from show1_jax.config.sampling import SAMPLER_CLASSES
from show1_jax.config.without_effect import refused_fields
from show1_jax.errors import UserError, shown

Scale = Float32[Array | np.ndarray, "..."]

SAMPLERS = {sampler: row.name for sampler, row in SAMPLER_CLASSES.items()}

_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    row.name: {name: value for name, value in row._asdict().items() if name != "name"}
    for row in SAMPLER_CLASSES.values()
}

_CHOICES: dict[str, tuple[Any, ...]] = {
    "class_name": tuple(_CLASS_DEFAULTS),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
}
_DDPM_CHOICES: dict[str, tuple[Any, ...]] = {
    # fixed_large_log is the square root of a negative number in diffusers 0.19.3: every sample is NaN.
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"),
}
_DPM_SOLVER_CHOICES: dict[str, tuple[Any, ...]] = {
    "solver_order": (1, 2, 3),
    "algorithm_type": ("dpmsolver++",),
    "solver_type": ("midpoint", "heun"),
    "use_karras_sigmas": (False,),
}

_RANGES: dict[str, tuple[float, float]] = {
    "num_train_timesteps": (1, MAX_TIMESTEPS),
    "steps_offset": (0, MAX_TIMESTEPS),
    "beta_start": (0, math.nextafter(1, 0)),
    "beta_end": (0, math.nextafter(1, 0)),
    "dynamic_thresholding_ratio": (0, 1),
    "sample_max_value": (1e-6, math.inf),
    "clip_sample_range": (1e-6, math.inf),
    "lambda_min_clipped": (-math.inf, math.inf),
}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """A noise schedule and its sampler: the fields of a diffusers `scheduler_config.json`.

    `from_json` fills absent fields with the defaults of the class in diffusers 0.19.3. Fields of the other classes in
    that release are kept for `with_sampler`, whose samplers otherwise have the defaults of that release.

    Raises:
        UserError: a value that is not supported, named with its field.
    """

    class_name: str
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str
    steps_offset: int = 0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    # DDPM and DDIM
    clip_sample: bool
    clip_sample_range: float = 1.0
    # DDPM; the other samplers ignore a variance that the network predicts
    variance_type: str | None
    # DDIM
    set_alpha_to_one: bool = True
    # DPM-Solver++
    solver_order: int = 2
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    use_karras_sigmas: bool = False
    lambda_min_clipped: float = -math.inf

    def __post_init__(self) -> None:
        choices = dict(_CHOICES)
        if self.class_name == "DDPMScheduler":
            choices |= _DDPM_CHOICES
        if self.class_name == "DPMSolverMultistepScheduler":
            choices |= _DPM_SOLVER_CHOICES
        for field, (low, high) in _RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                _refuse(field, value, f"it must be from {low:g} to {high:g}")
            if _LARGEST < abs(value) < math.inf:
                _refuse(field, value, "it is larger than the largest float32; infinity is allowed")
        for field, supported in choices.items():
            if getattr(self, field) not in supported:
                _refuse(field, getattr(self, field), "use one of " + ", ".join(map(repr, supported)))
        betas = self.trained_betas
        if betas is not None and (len(betas) != self.num_train_timesteps or not all(0 <= beta < 1 for beta in betas)):
            _refuse("trained_betas", betas, f"give num_train_timesteps = {self.num_train_timesteps} values in [0, 1)")

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "SchedulerConfig":
        """Build from the parsed content of a `scheduler_config.json`, as diffusers 0.19.3 does.

        Raises:
            UserError: an unsupported class or value, or a field of later releases that is unknown or has an effect.
        """
        class_name = config.get("_class_name")
        if not isinstance(class_name, str) or class_name not in _CLASS_DEFAULTS:
            _refuse("_class_name", class_name, "use one of " + ", ".join(map(repr, _CLASS_DEFAULTS)))
        settings = {"class_name": class_name} | _CLASS_DEFAULTS[class_name]
        known = {field.name: field.type for field in fields(cls) if field.name != "class_name"}
        rest = {field: value for field, value in config.items() if field not in known}
        for problem in refused_fields(class_name, rest, config):
            raise UserError(f"scheduler setting {problem}")
        for field in known.keys() & config.keys():
            settings[field] = _from_json_value(field, known[field], config[field])
        if class_name == "DPMSolverMultistepScheduler":
            settings["clip_sample"] = False
        return cls(**settings)

    def with_sampler(self, name: str) -> "SchedulerConfig":
        """Return the config with another sampler, and the same schedule, prediction type, thresholding and clipping.

        The sampler's own settings, such as the spacing of the timesteps, are its defaults.

        Args:
            name: `"ddpm"`, `"dpm_solver++"` or `"ddim"`.

        Raises:
            UserError: there is no such sampler.
        """
        if name not in SAMPLERS:
            _refuse("sampler", name, "use one of " + ", ".join(map(repr, SAMPLERS)))
        class_name = SAMPLERS[name]
        if class_name == self.class_name:
            return self
        defaults = _CLASS_DEFAULTS[class_name]
        return replace(
            self,
            class_name=class_name,
            timestep_spacing=defaults["timestep_spacing"],
            variance_type=self.variance_type or defaults["variance_type"],
        )


def _from_json_value(field: str, kind: Any, value: Any) -> Any:
    """Return a JSON value in the type of the dataclass field."""
    if kind is bool and value is None:
        return False
    if field == "trained_betas":
        if value is None or (isinstance(value, list) and all(map(_is_number, value))):
            return None if value is None else tuple(_as_float(field, beta) for beta in value)
        _refuse(field, value, "it must be null or a list of numbers")
    if kind is float and _is_number(value):
        return _as_float(field, value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _refuse(field, value, f"it must be {getattr(kind, '__name__', kind)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(field: str, value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # integers of JSON are unbounded
        _refuse(field, value, "it is larger than any floating-point number")


def _refuse(field: str, value: Any, why: str) -> NoReturn:
    raise UserError(f"scheduler setting {field} = {shown(value)} is not supported: {why}")


def _linspace(start: float, stop: float, num: int) -> Float32[np.ndarray, " {num}"]:
    """Return the float32 values of torch's linspace: a float32 step, counted from the nearer end and rounded once."""
    first, last = np.float32(start), np.float32(stop)
    step = np.float64((last - first) / np.float32(max(num - 1, 1)))
    index = np.arange(num)
    rising = np.float64(first) + step * index
    falling = np.float64(last) - step * (num - 1 - index)
    return np.where(index < num // 2, rising, falling).astype(np.float32)


def _squared_cosine_betas(num: int) -> Float32[np.ndarray, " {num}"]:
    """Return the betas of Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17, at most 0.999."""
    alpha_bars = [math.cos((i / num + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(alpha_bars)]
    return np.array(betas, np.float32)


def _betas(config: SchedulerConfig) -> Float32[np.ndarray, " timesteps"]:
    if config.trained_betas is not None:
        return np.array(config.trained_betas, np.float32)
    num, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "linear":
        return _linspace(start, end, num)
    if config.beta_schedule == "scaled_linear":
        return _linspace(start**0.5, end**0.5, num) ** 2
    return _squared_cosine_betas(num)


def alphas_cumprod(config: SchedulerConfig) -> Float32[np.ndarray, " timesteps"]:
    """Return the product of 1 - beta up to and including each timestep: alpha_t squared, rounded as in the original."""
    # torch accumulates in float64 on the CPU and rounds each product to float32.
    return np.cumprod(1 - _betas(config), dtype=np.float64).astype(np.float32)


def exact_alphas_cumprod(config: SchedulerConfig) -> Float[np.ndarray, " timesteps"]:
    """Return `alphas_cumprod` in float64, of the float32 betas, for uses where rounding to float32 is harmful."""
    return np.cumprod(1 - _betas(config).astype(np.float64))


def alpha_and_sigma(
    schedule: Float[ArrayLike, " timesteps"], timesteps: Int[ArrayLike, " batch"], ndim: int
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
    """Return alpha_t and sigma_t of each item, with `ndim` axes to broadcast against a batch.

    Args:
        schedule: `alphas_cumprod`.
        timesteps: from 0 to the schedule's length - 1.
        ndim: number of axes of the array to multiply, the batch axis included.
    """
    squared = jnp.asarray(schedule, jnp.float32)[jnp.asarray(timesteps)]
    squared = squared.reshape(squared.shape + (1,) * (ndim - 1))
    return jnp.sqrt(squared), jnp.sqrt(1 - squared)


def add_noise(
    schedule: Float[ArrayLike, " timesteps"],
    x0: Float[Array, "batch *shape"],
    noise: Float[Array, "batch *shape"],
    timesteps: Int[ArrayLike, " batch"],
) -> Float32[Array, "batch *shape"]:
    """Apply the forward process x_t = alpha_t x0 + sigma_t noise (Ho et al. 2020, equation 4), in float32.

    Args:
        schedule: `alphas_cumprod`.
        x0: clean sample.
        noise: standard Gaussian draw.
        timesteps: one per item, from 0 to the schedule's length - 1.
    """
    alpha, sigma = alpha_and_sigma(schedule, timesteps, x0.ndim)
    return alpha * x0.astype(jnp.float32) + sigma * noise.astype(jnp.float32)


def predict_x0(
    prediction_type: str,
    sample: Float32[Array, "*shape"],
    output: Float32[Array, "*shape"],
    alpha: Scale,
    sigma: Scale,
) -> Float32[Array, "*shape"]:
    """Return the clean sample that a network's output predicts.

    Args:
        prediction_type: `epsilon`, `sample` or `v_prediction` (Salimans and Ho 2022, arXiv 2202.00512).
        sample: the noisy sample x_t.
        output: the network's output for it.
        alpha: alpha_t.
        sigma: sigma_t.
    """
    if prediction_type == "epsilon":
        return (sample - output * sigma) / alpha
    if prediction_type == "sample":
        return output
    return sample * alpha - output * sigma


def predict_eps(
    prediction_type: str,
    sample: Float32[Array, "*shape"],
    output: Float32[Array, "*shape"],
    alpha: Scale,
    sigma: Scale,
) -> Float32[Array, "*shape"]:
    """Return the noise that a network's output predicts; see `predict_x0`."""
    if prediction_type == "epsilon":
        return output
    if prediction_type == "sample":
        return (sample - output * alpha) / sigma
    return output * alpha + sample * sigma


def prediction_target(
    prediction_type: str,
    x0: Float32[Array, "*shape"],
    eps: Float32[Array, "*shape"],
    alpha: Scale,
    sigma: Scale,
) -> Float32[Array, "*shape"]:
    """Return the training target for x_t = alpha x0 + sigma eps: the noise, the clean sample or v."""
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x0
    return eps * alpha - x0 * sigma


def x0_output_derivative(prediction_type: str, alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the derivative of `predict_x0` with respect to the output: the error of x0 per error of the output."""
    return {"epsilon": -sigma / alpha, "sample": np.ones_like(alpha), "v_prediction": -sigma}[prediction_type]


class Posterior(NamedTuple):
    """The Gaussian q(x_s | x_t, x0), s < t (Ho et al. 2020, equations 6 and 7).

    Its mean is a x0 + b x_t, where a is the field `x0` and b the field `sample`.
    """

    x0: np.ndarray
    sample: np.ndarray
    variance: np.ndarray  # beta tilde; 0 where x_s is x0 itself
    beta: np.ndarray  # of the step from s to t; an upper bound of the variance


def posterior(now: np.ndarray, previous: np.ndarray) -> Posterior:
    """Return the posterior of steps from `alphas_cumprod` = `now` down to `previous`, in their precision."""
    alpha = now / previous
    beta = 1 - alpha
    return Posterior(
        x0=np.sqrt(previous) * beta / (1 - now),
        sample=np.sqrt(alpha) * (1 - previous) / (1 - now),
        variance=(1 - previous) / (1 - now) * beta,
        beta=beta,
    )


def split_variance(
    output: Float32[Array, "*batch output_channel"], channels: int
) -> tuple[Float32[Array, "*batch channel"], Float32[Array, "*batch channel"] | None]:
    """Split a network's output into the prediction and the variance.

    Args:
        output: `channels` channels of the prediction, then the same number of a variance if there is one.
        channels: channels of the sample.

    Returns:
        The prediction, and the variance or None.

    Raises:
        UserError: the output has neither `channels` channels nor twice as many.
    """
    if output.shape[-1] == channels:
        return output, None
    if output.shape[-1] == 2 * channels:
        return output[..., :channels], output[..., channels:]
    raise UserError(
        f"the network returns {output.shape[-1]} channels for a sample of {channels}: "
        f"it must return {channels}, or {2 * channels} with a variance"
    )


def learned_log_variance(
    variance: Float32[Array, "*shape"], low: Float32[ArrayLike, "..."], high: Float32[ArrayLike, "..."]
) -> Float32[Array, "*shape"]:
    """Return the log variance of a `learned_range` network (Nichol and Dhariwal 2021, equation 15).

    Args:
        variance: the network's output.
        low: log variance at -1, that of the posterior.
        high: log variance at 1, that of beta.
    """
    fraction = (variance + 1) / 2
    return fraction * high + (1 - fraction) * low
