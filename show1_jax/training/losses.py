"""Losses of a network's output, per example. This module calls no network and draws nothing at random."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float32, Int32

from show1_jax.config.training import ReconstructionError
from show1_jax.diffusion.schedule import (
    SchedulerConfig,
    exact_alphas_cumprod,
    learned_log_variance,
    posterior,
    split_variance,
    x0_output_derivative,
)
from show1_jax.nn.array_types import Latents, Video

PerExample = Float32[Array, " b"]

_HALF_BIN = 1 / 255
"""Half the distance between neighbours among the 256 pixel levels in [-1, 1]."""

_MIN_SQUARE = 1e-16
"""Lower limit of the sum of the squared changes of a pixel over time."""


class Losses(NamedTuple):
    """Losses of a batch, one value per example.

    Attributes:
        loss: the trained loss.
        timestep: timestep of the example; None for the autoencoder.
        parts: terms of the loss and other statistics, by name. Their means over any number of examples are meaningful.
    """

    loss: PerExample
    timestep: Int32[Array, " b"] | None
    parts: dict[str, PerExample]


def band_sums(
    losses: Losses, num_timesteps: int, num_bands: int
) -> tuple[Float32[Array, " {num_bands}"], Float32[Array, " {num_bands}"]]:
    """Return sums and counts of the losses in equal bands of timesteps.

    Band k contains the timesteps t with k num_timesteps / num_bands <= t < (k + 1) num_timesteps / num_bands. Sums and
    counts of several batches may be added before the division. Losses without timesteps are in no band.

    Args:
        losses: losses of a batch.
        num_timesteps: timesteps are from 0 to this - 1.
        num_bands: number of bands.
    """
    if losses.timestep is None:
        return jnp.zeros(num_bands), jnp.zeros(num_bands)
    bands = jnp.arange(num_bands, dtype=jnp.int32)
    in_band = (losses.timestep * num_bands // num_timesteps == bands[:, None]).astype(jnp.float32)
    return (in_band * losses.loss).sum(axis=1), in_band.sum(axis=1)


def diffusion_losses(
    scheduler: SchedulerConfig,
    variational_weight: float,
    x0: Video,
    target: Video,
    output: Float32[Array, "b t h w o"],
    timestep: Int32[Array, " b"],
) -> Losses:
    """Compute the mean squared error and, for a network that predicts a variance, the variational bound.

    The mean squared error is that of Show-1, equations 5 and 6. The hybrid objective of Nichol and Dhariwal 2021 (arXiv
    2102.09672, equation 16) is L_simple + lambda L_vlb. L_vlb is the sum of the T terms L_t of all timesteps, which is
    estimated by T L_t of one random timestep. T is the length of the whole schedule, also if fewer timesteps are
    trained, so that the proportion of both terms is the same at each timestep.

    A network predicts a variance if its output has twice the sample's channels. The scheduler's `variance_type` does
    not matter: DPM-Solver and DDIM ignore the learned variance, and DDPM can be chosen later.

    Args:
        scheduler: schedule and prediction type.
        variational_weight: lambda.
        x0: the clean sample.
        target: the ideal prediction.
        output: the network's output, with the sample's channels or twice as many; the second half is a variance
            of the type `learned_range`.
        timestep: timestep of each example.

    Raises:
        UserError: `output` has neither the number of the sample's channels nor twice that number.
    """
    prediction, variance = split_variance(output, x0.shape[-1])
    error = prediction - target
    simple = _mean_per_example(jnp.square(error))
    if variance is None:
        return Losses(simple, timestep, {"simple": simple})
    variational = variational_bound(scheduler, x0, error, variance, timestep)
    loss = simple + variational_weight * scheduler.num_train_timesteps * variational
    return Losses(loss, timestep, {"simple": simple, "variational": variational})


def motion_losses(predicted: Video, noise: Video, timestep: Int32[Array, " b"]) -> Losses:
    """Compute the motion loss: 1 - cosine similarity of the changes from frame to frame, of predicted and true noise.

    The changes are absolute values, and the cosine is over time, one for each pixel and channel, as in the code of
    Video Motion Customization (Jeong et al. 2023, arXiv 2312.00845). The paper's equation aligns signed changes. The
    loss does not depend on the size of the changes, and only on the change, not on what changes.

    Args:
        predicted: the network's noise, whatever it predicts.
        noise: the true noise.
        timestep: timestep of each example.
    """
    change, true = (jnp.abs(jnp.diff(frames, axis=1)) for frames in (predicted, noise))
    # The norm of the squares is bounded below, as its derivative is infinite where no frame changes.
    lengths = [jnp.sqrt(jnp.maximum(jnp.square(changes).sum(axis=1), _MIN_SQUARE)) for changes in (change, true)]
    cosine = (change * true).sum(axis=1) / (lengths[0] * lengths[1])
    loss = 1 - cosine.mean(axis=(1, 2, 3))
    return Losses(loss, timestep, {"motion": loss})


class BoundTables(NamedTuple):
    """Constants of the variational bound for every timestep of a schedule; computed in float64, stored in float32."""

    slope: np.ndarray  # error of x0 per error of the network's output
    low: np.ndarray  # log of beta tilde, the posterior's variance
    spread: np.ndarray  # log of beta over beta tilde
    weight: np.ndarray  # squared error of the mean over beta tilde, per squared error of the output


def bound_tables(scheduler: SchedulerConfig) -> BoundTables:
    """Compute the constants of the bound for a schedule.

    Beta tilde is 0 at timestep 0, where the variance cannot be interpolated from its logarithm. It is replaced by beta
    tilde of timestep 1, as in the published training code of improved DDPM. No sampler uses the variance there.
    """
    now = exact_alphas_cumprod(scheduler)
    step = posterior(now, np.append(1.0, now[:-1]))
    slope = x0_output_derivative(scheduler.prediction_type, np.sqrt(now), np.sqrt(1 - now))
    variance = np.append(step.variance[1:2], step.variance[1:])
    low = np.log(variance)
    tables = BoundTables(slope, low, np.log(step.beta) - low, (step.x0 * slope) ** 2 / variance)
    return BoundTables(*(table.astype(np.float32) for table in tables))


def variational_bound(
    scheduler: SchedulerConfig, x0: Video, error: Video, variance: Video, timestep: Int32[Array, " b"]
) -> PerExample:
    """Compute the term L_t of the variational bound, in bits per dimension; it trains only the variance.

    For t > 0, L_t is the KL divergence of the network's step p(x_{t-1} | x_t) from the posterior q(x_{t-1} | x_t, x0);
    for t = 0, the negative log likelihood of x0's 8-bit levels (Ho et al. 2020, arXiv 2006.11239, equations 5 and 13).
    Latents have no such levels and are treated as if they had (as in DiT, arXiv 2212.09748).

    Args:
        scheduler: schedule and prediction type.
        x0: the clean sample.
        error: error of the network's prediction; no gradient flows through it.
        variance: the network's variance, from -1 (beta tilde) to 1 (beta).
        timestep: timestep of each example.
    """
    error = jax.lax.stop_gradient(error)
    tables = bound_tables(scheduler)
    divergence = _divergence(tables, error, variance, timestep)
    likelihood = _decoder_log_likelihood(tables, x0, error, variance)
    nats = jnp.where(timestep == 0, -_mean_per_example(likelihood), _mean_per_example(divergence))
    return nats / math.log(2)


def _divergence(tables: BoundTables, error: Video, variance: Video, timestep: Int32[Array, " b"]) -> Video:
    """Return KL(q || p) of two Gaussians, from the ratio of their variances and the squared distance of their means."""
    spread, weight = (
        jnp.asarray(table)[timestep][:, None, None, None, None] for table in (tables.spread, tables.weight)
    )
    log_ratio = learned_log_variance(variance, jnp.zeros_like(spread), spread)
    # expm1: the ratio is close to 1, and exp(-log_ratio) - 1 + log_ratio would lose the digits that count.
    return 0.5 * (log_ratio + jnp.expm1(-log_ratio) + weight * jnp.square(error) * jnp.exp(-log_ratio))


def _decoder_log_likelihood(tables: BoundTables, x0: Video, error: Video, variance: Video) -> Video:
    """Return the log of the probability that the step at timestep 0 gives to the 8-bit level of `x0`.

    The outer levels reach to infinity. Every example uses the constants of timestep 0; for examples of other timesteps
    the result is finite and unused.
    """
    distance = -tables.slope[0] * error
    log_variance = learned_log_variance(variance, tables.low[0], tables.low[0] + tables.spread[0])
    precision = jnp.exp(-0.5 * log_variance)
    lower, upper = (distance - _HALF_BIN) * precision, (distance + _HALF_BIN) * precision
    # log(Phi(upper) - Phi(lower)), on the side of the Gaussian where both are small, so that no digits cancel.
    mirrored = distance > 0
    log_low = log_ndtr(jnp.where(mirrored, -upper, lower))
    log_high = log_ndtr(jnp.where(mirrored, -lower, upper))
    inner = log_high + jnp.log1p(-jnp.exp(log_low - log_high))
    return jnp.where(x0 < -1 + _HALF_BIN, log_ndtr(upper), jnp.where(x0 > 1 - _HALF_BIN, log_ndtr(-lower), inner))


def autoencoder_losses(
    error: ReconstructionError,
    kl_weight: float,
    video: Video,
    reconstruction: Video,
    mean: Latents,
    logvar: Latents,
    latents: Latents,
) -> Losses:
    """Compute Latent Diffusion's objective (arXiv 2112.10752, appendix G), per pixel value of the clip.

    Its perceptual and adversarial terms are omitted. The remaining terms are the error and, with a weight, the KL
    divergence of the latents' Gaussians from the unit Gaussian, summed over all latents.

    Args:
        error: `absolute`, as in Latent Diffusion, or `squared`.
        kl_weight: weight of the divergence.
        video: clips in [-1, 1].
        reconstruction: the decoder's output for `latents`.
        mean: mean of the posterior.
        logvar: log variance of the posterior.
        latents: unscaled latents, sampled from the posterior.

    Returns:
        The losses. The parts `latent_mean` and `latent_mean_square`, averaged over examples, give `latent_std`.
    """
    difference = reconstruction - video
    distance = _mean_per_example(jnp.abs(difference) if error == "absolute" else jnp.square(difference))
    divergence = 0.5 * (jnp.square(mean) + jnp.expm1(logvar) - logvar)
    kl = divergence.sum(axis=(1, 2, 3, 4)) / math.prod(video.shape[1:])
    parts = {
        "reconstruction": distance,
        "kl": kl,
        "latent_mean": _mean_per_example(latents),
        "latent_mean_square": _mean_per_example(jnp.square(latents)),
    }
    return Losses(distance + kl_weight * kl, None, parts)


def latent_std(latent_mean: float, latent_mean_square: float) -> float:
    """Return the standard deviation of all latents; an autoencoder's `scaling_factor` is 1 over it.

    Args:
        latent_mean: mean of the part of that name.
        latent_mean_square: mean of the part of that name.
    """
    return math.sqrt(max(latent_mean_square - latent_mean**2, 0.0))


def _mean_per_example(values: Video) -> PerExample:
    return values.mean(axis=(1, 2, 3, 4))
