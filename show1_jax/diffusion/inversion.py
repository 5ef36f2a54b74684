"""DDIM inversion: DDIM sampling run backwards, from a clean sample to the noise that it is sampled from.

A DDIM step (Song et al. 2021, arXiv 2010.02502, equation 12, eta = 0) goes from timestep t to a lower noise level s:

    x_s = alpha_s x0 + sigma_s eps,    x0 = (x_t - sigma_t eps) / alpha_t,    eps = eps(x_t, t)

Solved for x_t, it is an equation whose right side contains x_t itself:

    x_t = a x_s + b eps(x_t, t),    a = alpha_t / alpha_s,    b = sigma_t - a sigma_s

The usual inversion evaluates the network once, with timestep t but at x_s in place of x_t, which hardly differs within
a short step. More iterations evaluate it again at the x_t that the last one gave: a fixed-point iteration, which comes
nearer to the inverse of the step where it converges (Pan et al. 2023, arXiv 2309.04907).

The output is read as that for x_t at every iteration. So all prediction types give the same, and one that predicts x0
can start from a clean sample, at whose noise level 0 its eps would be undefined.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from show1_jax.diffusion.samplers import Coefficients, Sampler, SamplerState, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig, alphas_cumprod, predict_eps, split_variance
from show1_jax.errors import UserError


@dataclass(frozen=True)
class Inversion(Sampler):
    """The timesteps and coefficients of an inversion; it is run as a sampler is, and its result is noise.

    Every evaluation of the network is one step. A table's `sample` and `x0` are the factors of the state's sample and
    history: a is that of `sample` at the first evaluation for a timestep, and that of the history, which has x_s, at
    the others.
    """

    @property
    def history_length(self) -> int:
        """See `Sampler.history_length`."""
        return 1

    def step(
        self,
        state: SamplerState,
        model_output: Float[Array, "*batch height width output_channel"],
        coefficients: Coefficients,
        noise: Float[Array, "*batch height width channel"] | None = None,
    ) -> SamplerState:
        """Compute one step in float32; see `Sampler.step`. A predicted variance is not used, and x0 is not clipped.

        Clipping and thresholding lose what they cut off, so that they have no inverse.
        """
        at = coefficients
        output, _ = split_variance(model_output.astype(jnp.float32), state.sample.shape[-1])
        eps = predict_eps(self.config.prediction_type, state.sample, output, at.alpha, at.sigma)
        start = jnp.where(at.sample > 0, state.sample, state.history[0])
        return SamplerState(start * (at.sample + at.x0[0]) + eps * at.eps, (start,))


def make_inversion(
    config: SchedulerConfig, num_steps: int, *, last_timestep: int | None = None, iterations: int = 1
) -> Inversion:
    """Return the inversion of DDIM sampling with some number of steps, with the timesteps of `make_sampler`.

    Args:
        config: schedule and sampler; of another sampler, the schedule alone is used.
        num_steps: number of steps from a clean sample to the highest timestep.
        last_timestep: timestep of the result; by default the highest one of DDIM sampling with `num_steps`. The steps
            up to it are those of this sampling, and a shorter last one if it is no timestep of theirs.
        iterations: evaluations of the network at every timestep.

    Raises:
        UserError: steps or iterations are out of range, or sampling with them is not possible.
    """
    if iterations < 1:
        raise UserError(f"iterations = {iterations}: use at least 1")
    config = config.with_sampler("ddim")
    sampler = make_sampler(config, num_steps)
    levels = alphas_cumprod(config)
    timesteps = sampler.timesteps[::-1]
    before = np.asarray(sampler.tables.x0)[::-1, 0]  # alpha after each step of sampling
    last = timesteps[-1] if last_timestep is None else np.int32(last_timestep)
    if not 0 <= last < len(levels):
        raise UserError(f"last_timestep = {last}: use 0 to {len(levels) - 1}")
    lower, kept = before[0], timesteps <= last
    timesteps, before = timesteps[kept], before[kept]
    if not len(timesteps) or timesteps[-1] != last:
        lower = np.sqrt(levels[timesteps[-1]]) if len(timesteps) else lower
        timesteps, before = np.append(timesteps, last), np.append(before, lower)
    return Inversion(config, np.repeat(timesteps, iterations), _tables(levels, timesteps, before, iterations))


def _tables(levels: np.ndarray, timesteps: np.ndarray, before: np.ndarray, iterations: int) -> Coefficients:
    """Return the coefficients of all evaluations; `before` is alpha before each step."""
    after, lower = np.sqrt(levels[timesteps].astype(np.float64)), before.astype(np.float64)
    factor = after / lower
    eps = np.sqrt(1 - after**2) - factor * np.sqrt(1 - lower**2)
    is_first = np.arange(iterations) == 0
    zeros = np.zeros(len(timesteps))
    columns = Coefficients(
        alpha=after,
        sigma=np.sqrt(1 - after**2),
        sample=np.outer(factor, is_first).ravel(),
        x0=np.outer(factor, ~is_first).reshape(-1, 1),
        eps=eps,
        noise=zeros,
        log_variance=np.zeros((len(timesteps), 2)),
    )
    size = len(timesteps) * iterations
    return Coefficients(
        *(np.asarray(c if len(c) == size else np.repeat(c, iterations, axis=0), np.float32) for c in columns)
    )
