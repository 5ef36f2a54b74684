"""The objective of every stage: from clean clips to the network's inputs and the loss of its output.

A stage adds its condition and its range of timesteps to one denoising objective. Every draw is a function of the
example's own key and of the draw's purpose, so that a clip gets the same noise however the batch is split.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array, Float, Float32, Int32

from show1_jax.cascade.conditions import interpolation_condition
from show1_jax.cascade.latents import latent_shape, sample_latents
from show1_jax.cascade.resize import resize_bilinear
from show1_jax.cascade.spec import unet_problems
from show1_jax.cascade.stages import PIXEL_CHANNELS, StageSpec, find_stage
from show1_jax.config.sampling import Between, CascadeConfig, FirstFrameConfig, SuperresPixelConfig
from show1_jax.config.training import (
    AutoencoderTrainingConfig,
    DenoisingLoss,
    DenoisingTrainingConfig,
    InterpolationTrainingConfig,
    ReconstructionError,
    StageTrainingConfig,
    SuperresLatentTrainingConfig,
    SuperresPixelTrainingConfig,
    TrainedStage,
)
from show1_jax.diffusion.random_keys import fold_in, normal, randint
from show1_jax.diffusion.schedule import (
    SchedulerConfig,
    add_noise,
    alpha_and_sigma,
    alphas_cumprod,
    exact_alphas_cumprod,
    predict_eps,
    prediction_target,
    split_variance,
)
from show1_jax.errors import UserError
from show1_jax.nn.array_types import Keys, Video
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.vae import Autoencoder
from show1_jax.training.losses import Losses, autoencoder_losses, diffusion_losses, motion_losses

DrawPurpose = Literal["timestep", "noise", "noise_level", "augmentation", "posterior", "contrast"]
_DRAW_PURPOSES: Final = get_args(DrawPurpose)
_CONTRAST_STEPS: Final = 1000
"""Number of equal steps between the factors of the contrast that are drawn."""
_MIN_MOTION_FRAMES: Final = 3
"""Frames with two changes: the cosine of single absolute changes is always 1."""


@runtime_checkable
class Objective(Protocol):
    """The loss of a batch, per example. Pure, in float32; no example depends on another."""

    def __call__(self, network: Any, video: Video, text: Float[Array, "b n d"] | None, keys: Keys) -> Losses:
        """Draw timesteps and noise, call the network, and compute the loss.

        Args:
            network: called like a `UNet`, with sample, timestep, text and noise level (None for stages without one);
                an `Autoencoder` for the autoencoder's objective.
            video: clips of the stage's training size in [-1, 1]; for stage 4 their scaled latents (`encode_latents`).
            text: states of the text encoder, padding included; None for the autoencoder.
            keys: one random key per example.

        Raises:
            UserError: the network's channels or the video's size do not fit the stage (raised while tracing).
        """


def _draw(keys: Keys, purpose: DrawPurpose, sample: Callable[[Array], Array]) -> Array:
    number = _DRAW_PURPOSES.index(purpose)
    return jax.vmap(lambda key: sample(fold_in(key, number)))(keys)


def _draw_normal(keys: Keys, purpose: DrawPurpose, shape: tuple[int, ...]) -> Float32[Array, "b ..."]:
    return _draw(keys, purpose, lambda key: normal(key, shape))


def _draw_below(keys: Keys, purpose: DrawPurpose, bound: int) -> Int32[Array, " b"]:
    return _draw(keys, purpose, lambda key: randint(key, bound))


def encode_latents(autoencoder: Autoencoder, video: Video, keys: Keys) -> Float32[Array, "b t _ _ z"]:
    """Encode clips into the scaled latents that stage 4 trains on, sampled from the posterior of each frame.

    Args:
        autoencoder: the frozen autoencoder.
        video: clips in [-1, 1].
        keys: one random key per example.
    """
    noise = _draw_normal(keys, "posterior", latent_shape(autoencoder.config, *video.shape[1:4]))
    return sample_latents(autoencoder, video, noise)


class ClipCondition(NamedTuple):
    """Conditions of a network besides text and timestep; see `show1_jax.cascade.denoise.Condition`.

    Attributes:
        channels: concatenated to the noisy sample, along the channels; None for a stage without a condition.
        noise_level: timestep of the noise in these channels; None if the network is not conditioned on it.
    """

    channels: Float32[Array, "b t h w e"] | None = None
    noise_level: Int32[Array, " b"] | None = None


def no_condition(video: Video, keys: Keys) -> ClipCondition:
    """Return the empty condition, of stages without one."""
    return ClipCondition()


@dataclass(frozen=True)
class InterpolationCondition:
    """The condition of interpolation: both end frames, a filling between them, and a mask of given frames.

    See section 3.4 of the Show-1 paper. Both end frames are noised to one random timestep from 0 to `max_noise_level`
    - 1 of the stage's own schedule. The network is not conditioned on that timestep; 0 is the least noisy one. With a
    `max_noise_level` of 0 the frames are clean.

    Attributes:
        scheduler: noise schedule of the stage.
        num_between: number of frames between the end frames.
        between: filling of these frames, see `InterpolationConfig`.
        max_noise_level: number of timesteps that the noise level is drawn from.
    """

    scheduler: SchedulerConfig
    num_between: int
    between: Between
    max_noise_level: int

    def __call__(self, video: Float32[Array, "b {self.num_between}+2 h w 3"], keys: Keys) -> ClipCondition:
        ends = video[:, :: self.num_between + 1]
        if self.max_noise_level:
            level = _draw_below(keys, "noise_level", self.max_noise_level)
            noise = _draw_normal(keys, "augmentation", ends.shape[1:])
            ends = add_noise(alphas_cumprod(self.scheduler), ends, noise, level)
        return ClipCondition(interpolation_condition(ends, self.num_between, self.between))


@dataclass(frozen=True)
class SuperresCondition:
    """The condition of super-resolution: the clip at low resolution, upsampled and noised to a random level.

    See section 3.5 of the Show-1 paper. The network is conditioned on the level too.

    Attributes:
        noising_scheduler: noise schedule of the condition.
        scale: side of the blocks of pixels whose averages are the low resolution.
        max_noise_level: levels are timesteps of `noising_scheduler` from 0, the least noisy one, to this - 1.
        max_contrast: largest factor of the low resolution's contrast, see `with_contrast`; the least is 1.
        first_frame_given: the first frame of the condition is the clean full-resolution frame, as when windows are
            sampled.
    """

    noising_scheduler: SchedulerConfig
    scale: int
    max_noise_level: int
    max_contrast: float
    first_frame_given: bool

    def __call__(self, video: Video, keys: Keys) -> ClipCondition:
        height, width = video.shape[2:4]
        if height % self.scale or width % self.scale:
            raise UserError(
                f"clips of {height}x{width} (height x width) cannot be downsampled by scale={self.scale}: "
                "use a height and a width that it divides"
            )
        low = reduce(video, "b t (h i) (w j) c -> b t h w c", "mean", i=self.scale, j=self.scale)
        if self.max_contrast > 1:
            share = _draw_below(keys, "contrast", _CONTRAST_STEPS + 1) / _CONTRAST_STEPS
            factor = 1 + (self.max_contrast - 1) * share
            low = with_contrast(low, factor, video)
        level = _draw_below(keys, "noise_level", self.max_noise_level)
        noise = _draw_normal(keys, "augmentation", video.shape[1:])
        channels = add_noise(alphas_cumprod(self.noising_scheduler), resize_bilinear(low, height, width), noise, level)
        if self.first_frame_given:
            channels = jnp.concatenate([video[:, :1], channels[:, 1:]], axis=1)
        return ClipCondition(channels, level)


def with_contrast(
    low: Float32[Array, "b t h w c"], factor: Float32[Array, " b"], video: Float32[Array, "b t height width c"]
) -> Float32[Array, "b t h w c"]:
    """Return clips with more contrast, within the range that each channel of a clip has at full resolution.

    Outlines and stripes become paler when pixels are averaged. More contrast gives them back the strength that things
    without the pattern have.

    Args:
        low: clips at low resolution.
        factor: factor of the distance from the clip's median colour.
        video: the same clips at full resolution.
    """
    middle = jnp.median(low, axis=(1, 2, 3), keepdims=True)
    spread = middle + factor[:, None, None, None, None] * (low - middle)
    return spread.clip(video.min((1, 2, 3), keepdims=True), video.max((1, 2, 3), keepdims=True))


@dataclass(frozen=True)
class DenoisingObjective:
    """The objective of all stages but the autoencoder; see `Objective` and `diffusion_losses`.

    Attributes:
        scheduler: noise schedule and prediction type.
        num_timesteps: timesteps are drawn from 0 to this - 1.
        variational_weight: weight of the variational bound, for networks that predict a variance.
        condition: computes the stage's condition from clean clips and keys.
        loss: see `DenoisingTrainingConfig`.
    """

    scheduler: SchedulerConfig
    num_timesteps: int
    variational_weight: float
    condition: Callable[[Video, Keys], ClipCondition] = no_condition
    loss: DenoisingLoss = "squared"

    def __call__(self, network: Any, video: Video, text: Float[Array, "b n d"] | None, keys: Keys) -> Losses:
        schedule = alphas_cumprod(self.scheduler)
        timestep = _draw_below(keys, "timestep", self.num_timesteps)
        eps = _draw_normal(keys, "noise", video.shape[1:])
        sample = add_noise(schedule, video, eps, timestep)
        channels, noise_level = self.condition(video, keys)
        inputs = sample if channels is None else jnp.concatenate([sample, channels], axis=-1)
        output = network(inputs, timestep, text, noise_level).astype(jnp.float32)
        alpha, sigma = alpha_and_sigma(schedule, timestep, video.ndim)
        if self.loss == "motion":
            prediction, _ = split_variance(output, video.shape[-1])
            predicted = predict_eps(self.scheduler.prediction_type, sample, prediction, alpha, sigma)
            return motion_losses(predicted, eps, timestep)
        target = prediction_target(self.scheduler.prediction_type, video, eps, alpha, sigma)
        return diffusion_losses(self.scheduler, self.variational_weight, video, target, output, timestep)


@dataclass(frozen=True)
class AutoencoderObjective:
    """The objective of the autoencoder; see `Objective` and `autoencoder_losses`.

    Attributes:
        error: error of a pixel, absolute or squared.
        kl_weight: weight of the KL divergence.
    """

    error: ReconstructionError
    kl_weight: float

    def __call__(self, network: Any, video: Video, text: Float[Array, "b n d"] | None, keys: Keys) -> Losses:
        mean, logvar = network.encode(video)
        latents = mean + jnp.exp(0.5 * logvar) * _draw_normal(keys, "posterior", mean.shape[1:])
        decoded = network.decode(latents)
        return autoencoder_losses(self.error, self.kl_weight, video, decoded, mean, logvar, latents)


def make_objective(
    stage: TrainedStage,
    training: StageTrainingConfig,
    cascade: CascadeConfig,
    scheduler: SchedulerConfig | None,
    noising_scheduler: SchedulerConfig | None,
    architecture: Architecture,
) -> Objective:
    """Make the objective of a stage.

    Args:
        stage: name of the stage.
        training: training settings of the stage.
        cascade: settings of sampling; a stage is conditioned on the same inputs in training and in sampling.
        scheduler: noise schedule of the stage; None for the autoencoder.
        noising_scheduler: noise schedule of the low-resolution condition, for stages with that condition.
        architecture: architecture of the stage's network.

    Raises:
        UserError: the settings do not fit the stage, its schedules or its network.
    """
    if isinstance(training, AutoencoderTrainingConfig):
        assert isinstance(architecture, VAEConfig)
        for name in ("in_channels", "out_channels"):
            value = getattr(architecture, name)
            _require_for_stage(value == 3, stage, f"{name}={value} of its network must be 3")
        return AutoencoderObjective(training.error, training.kl_weight)
    spec = find_stage(stage)
    assert spec is not None
    assert isinstance(architecture, UNetConfig)
    if scheduler is None:
        raise UserError(f"stage {stage}: it has no scheduler; give its noise schedule")
    assert isinstance(training, DenoisingTrainingConfig)
    _check_within_schedule(stage, "num_timesteps", training.num_timesteps, scheduler)
    channels = architecture.in_channels if spec.is_latent else PIXEL_CHANNELS
    for problem in unet_problems(spec, architecture, channels):
        raise UserError(f"stage {stage}: {problem}")
    if architecture.out_channels == 2 * channels:
        _check_trainable_variance(stage, scheduler)
    condition = _make_condition(spec, training, cascade, scheduler, noising_scheduler)
    if training.loss == "motion":
        frames = spec.clip_frames(cascade)
        if isinstance(training, SuperresLatentTrainingConfig):
            frames = training.num_frames
        _require_for_stage(
            frames >= _MIN_MOTION_FRAMES,
            stage,
            f"loss='motion' compares changes over time, which takes {_MIN_MOTION_FRAMES} frames, and its clips have "
            f"{frames}; use loss='squared'",
        )
    return DenoisingObjective(scheduler, training.num_timesteps, training.variational_weight, condition, training.loss)


def _make_condition(
    spec: StageSpec,
    training: StageTrainingConfig,
    cascade: CascadeConfig,
    scheduler: SchedulerConfig,
    noising_scheduler: SchedulerConfig | None,
) -> Callable[[Video, Keys], ClipCondition]:
    stage = spec.name
    if spec.condition == "none":
        return no_condition
    if spec.condition == "keyframes":
        assert isinstance(training, InterpolationTrainingConfig)
        config = cascade.interpolation
        _check_within_schedule(stage, "max_noise_level", training.max_noise_level, scheduler)
        return InterpolationCondition(scheduler, config.num_between, config.between, training.max_noise_level)
    if noising_scheduler is None:
        raise UserError(f"stage {stage}: it has no image_noising_scheduler, which noises its condition; give one")
    sampling = cascade.stage(stage)
    assert isinstance(training, SuperresPixelTrainingConfig)
    assert isinstance(sampling, FirstFrameConfig | SuperresPixelConfig)
    levels, sampled = training.max_noise_level, sampling.noise_level
    _check_within_schedule(stage, "max_noise_level", levels, noising_scheduler)
    _require_for_stage(
        sampled < levels, stage, f"max_noise_level={levels} must be above the noise_level={sampled} of sampling"
    )
    first_frame_given = spec.condition == "low_resolution_and_first_frame"
    return SuperresCondition(
        noising_scheduler, cascade.first_frame.scale, levels, training.max_contrast, first_frame_given
    )


def _check_within_schedule(stage: TrainedStage, name: str, value: int, scheduler: SchedulerConfig) -> None:
    length = scheduler.num_train_timesteps
    _require_for_stage(
        value <= length, stage, f"{name}={value} must be at most the {length} timesteps of its scheduler"
    )


def _check_trainable_variance(stage: TrainedStage, scheduler: SchedulerConfig) -> None:
    _require_for_stage(
        scheduler.variance_type != "learned",
        stage,
        "a variance is trained as variance_type='learned_range', not 'learned'; change its scheduler",
    )
    falling = np.diff(exact_alphas_cumprod(scheduler), prepend=1.0) < 0
    _require_for_stage(
        len(falling) > 1 and bool(falling.all()),
        stage,
        "no variance can be trained on a schedule of one timestep or with a beta of 0; change its scheduler",
    )


def _require_for_stage(condition: bool, stage: TrainedStage, problem: str) -> None:
    if not condition:
        raise UserError(f"stage {stage}: {problem}")
