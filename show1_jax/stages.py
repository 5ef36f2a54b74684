"""The four stages of the cascade (Show-1, section 3.2; the first frame's image network is a stage of its own here).

Each is a function from the result of the stage before to its own: it makes what its network is conditioned on, and
leaves the sampling to `denoise`. Videos are (batch, time, height, width, channel) in about [-1, 1], never clamped
between stages, as in the original.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from show1_jax.compiler import network_program
from show1_jax.config import VAEConfig
from show1_jax.denoise import Condition, OnStep, denoise
from show1_jax.diffusion import SchedulerConfig, add_noise, alphas_cumprod
from show1_jax.models import LoadedNetwork
from show1_jax.noise import Draw, NoiseSource, Purpose
from show1_jax.parallel import check_finite, constrain_batch, gather, put_batch
from show1_jax.resize import resize_bilinear
from show1_jax.samplers import make_sampler
from show1_jax.sampling_config import (
    Between,
    FirstFrameConfig,
    InterpolationConfig,
    KeyframesConfig,
    Stage,
    StageConfig,
    SuperresLatentConfig,
    SuperresPixelConfig,
)
from show1_jax.vae import Autoencoder
from show1_jax.video import from_uint8, resize_uint8, to_uint8
from show1_jax.windows import superres_starts

Video = Float32[Array, "b t h w c"]


@dataclass(frozen=True)
class StageContext:
    """What every stage runs with.

    Attributes:
        stage: its name.
        network: its UNet, with weights on the devices.
        scheduler: the noise schedule and sampler.
        noising_scheduler: the schedule that noises the low-resolution condition, where the stage has one.
        text: states of negative prompt and prompt, or of the prompt alone.
        noise: of every draw.
        mesh: of devices.
        on_step: is called after every denoising step with the steps done and their total over all windows.
        halves_in_turn: of guidance; see `guided_output`.
        window: which of several windows this is, in words.
    """

    stage: Stage
    network: LoadedNetwork
    scheduler: SchedulerConfig
    noising_scheduler: SchedulerConfig | None
    text: Float[Array, "b g n d"]
    noise: NoiseSource
    mesh: Mesh
    on_step: OnStep
    halves_in_turn: bool = False
    window: str = ""

    def sample(
        self,
        config: StageConfig,
        start: Video,
        *,
        step_noise: Callable[[int], Video],
        channels: Video | None = None,
        noise_level: int | None = None,
        windows_per_video: int = 1,
        strength: float = 1.0,
    ) -> Video:
        """Sample from `start`. `windows_per_video` windows of each video lie side by side in its batch."""
        sampler = make_sampler(self.scheduler, config.num_steps, strength)
        return denoise(
            self.network,
            sampler,
            start,
            Condition(repeat(self.text, "b g n d -> (b v) g n d", v=windows_per_video), channels, noise_level),
            config.guidance_scale,
            step_noise,
            self.mesh,
            self.on_step,
            self.halves_in_turn,
            f"stage {self.stage}{self.window}",
        )

    def in_window(self, window: int, num_windows: int) -> Self:
        """The context of one of several windows that run in turn: its steps are counted over all of them."""

        def on_step(done: int, total: int) -> None:
            self.on_step(window * total + done, num_windows * total)

        return dataclasses.replace(self, on_step=on_step, window=f", window {window + 1} of {num_windows}")

    def draw(self, purpose: Purpose, shape: tuple[int, ...], *, step: int = 0, window: int = 0) -> Video:
        """The noise of one draw of this stage."""
        return self.noise(Draw(self.stage, purpose, step, window), shape)


def sample_keyframes(context: StageContext, config: KeyframesConfig) -> Video:
    """Stage 1: keyframes from noise alone (section 3.3)."""
    shape = (config.num_frames, config.height, config.width, 3)
    return context.sample(
        config,
        context.draw("initial", shape),
        step_noise=functools.partial(_step_noise, context, shape, 0),
    )


def interpolation_condition(
    keyframes: Video, num_between: int, between: Between = "blend"
) -> Float32[Array, "b*v t h w 4"]:
    """Condition of every window between two keyframes: both keyframes with a filling, and a mask that is 1 at them.

    The released network was trained and is run with their linear blend between them; the paper (eq. 6) has zeros.
    """
    share = np.linspace(0, 1, num_between + 2, dtype=np.float32)[:, None, None, None]
    is_end = np.isin(share, (0, 1)).astype(np.float32)
    frames = keyframes[:, :-1, None] * (1 - share) + keyframes[:, 1:, None] * share
    if between == "zeros":
        frames *= is_end
    mask = jnp.broadcast_to(is_end, (*frames.shape[:-1], 1))
    return rearrange(jnp.concatenate([frames, mask], axis=-1), "b v t h w c -> (b v) t h w c")


def interpolate(context: StageContext, config: InterpolationConfig, keyframes: Video) -> Video:
    """Stage 2: frames between the keyframes (section 3.4), all windows in one batch: none needs another's result.

    Of the frame that two windows share, the later window's is kept, as in the original.
    """
    num_windows, (height, width) = keyframes.shape[1] - 1, keyframes.shape[2:4]
    if num_windows == 0:
        return keyframes
    shape = (config.num_between + 2, height, width, 3)

    def draw(purpose: Purpose, step: int = 0) -> Video:
        draws = [context.draw(purpose, shape, step=step, window=window) for window in range(num_windows)]
        return rearrange(jnp.stack(draws, axis=1), "b v t h w c -> (b v) t h w c")

    clips = context.sample(
        config,
        draw("initial"),
        step_noise=lambda step: draw("step", step),
        channels=interpolation_condition(keyframes, config.num_between, config.between),
        windows_per_video=num_windows,
    )
    clips = rearrange(clips, "(b v) t h w c -> b v t h w c", v=num_windows)
    starts = rearrange(clips[:, :, :-1], "b v t h w c -> b (v t) h w c")
    return jnp.concatenate([starts, clips[:, -1, -1:]], axis=1)


def _step_noise(context: StageContext, shape: tuple[int, ...], window: int, step: int) -> Video:
    return context.draw("step", shape, step=step, window=window)


def _noised(scheduler: SchedulerConfig, video: Video, noise: Video, timestep: int) -> Video:
    return add_noise(alphas_cumprod(scheduler), video, noise, np.full(len(video), timestep, np.int32))


def superres_condition(context: StageContext, low: Video, scale: int, noise_level: int, window: int) -> Video:
    """The low-resolution clip, upsampled and noised up to `noise_level` (section 3.5)."""
    assert context.noising_scheduler is not None
    upsampled = resize_bilinear(low, low.shape[2] * scale, low.shape[3] * scale)
    noise = context.draw("augmentation", upsampled.shape[1:], window=window)
    return _noised(context.noising_scheduler, upsampled, noise, noise_level)


def superres_first_frame(context: StageContext, config: FirstFrameConfig, low: Video) -> Video:
    """Stage 3a: super-resolution of the first frame, with the image network."""
    channels = superres_condition(context, low[:, :1], config.scale, config.noise_level, 0)
    shape = channels.shape[1:]
    return context.sample(
        config,
        context.draw("initial", shape),
        step_noise=functools.partial(_step_noise, context, shape, 0),
        channels=channels,
        noise_level=config.noise_level,
    )


def superres_pixel(
    context: StageContext, config: SuperresPixelConfig, low: Video, first_frame: Video, scale: int
) -> Video:
    """Stage 3b: super-resolution in windows; each is told its first frame clean, from the window before.

    Windows overlap: of a shared frame the later window's version is kept, as in the original.
    """
    starts = superres_starts(low.shape[1], config.window, config.stride)
    known, finished = first_frame, []
    for window, start in enumerate(starts):
        channels = superres_condition(context, low[:, start : start + config.window], scale, config.noise_level, window)
        channels = jnp.concatenate([known, channels[:, 1:]], axis=1)
        shape = channels.shape[1:]
        clip = context.in_window(window, len(starts)).sample(
            config,
            context.draw("initial", shape, window=window),
            step_noise=functools.partial(_step_noise, context, shape, window),
            channels=channels,
            noise_level=config.noise_level,
        )
        kept = starts[window + 1] - start if window + 1 < len(starts) else clip.shape[1]
        known = clip[:, kept : kept + 1]
        finished.append(clip[:, :kept])
    return jnp.concatenate(finished, axis=1)


def resize_for_latents(video: Video, height: int, width: int, mesh: Mesh) -> Video:
    """The video as 8-bit frames, resized on the host by Pillow's bicubic, as the original does; back in [-1, 1]."""
    frames = to_uint8(gather(video, mesh))
    return put_batch(np.stack([from_uint8(resize_uint8(clip, height, width)) for clip in frames]), mesh)


def sample_latents(autoencoder: Autoencoder, video: Video, noise: Video) -> Video:
    """Scaled latents of `video`, sampled from the posterior by `noise`; frame after frame, to bound memory."""

    def encode_frame(arguments: tuple[Array, Array]) -> Array:
        frame, noise = arguments
        mean, logvar = autoencoder.encode(frame[:, None])
        return (mean[:, 0] + jnp.exp(0.5 * logvar[:, 0]) * noise) * autoencoder.config.scaling_factor

    frames = (rearrange(video, "b t h w c -> t b h w c"), rearrange(noise, "b t h w c -> t b h w c"))
    return rearrange(jax.lax.map(encode_frame, frames), "t b h w c -> b t h w c")


def encoder_program(graph: "nnx.GraphDef[nnx.Module]", mesh: Mesh) -> Any:
    """Weights of an autoencoder, a video and noise to scaled latents, compiled; see `sample_latents`."""
    return network_program(_encode_frames, mesh, graph)


def decoder_program(graph: "nnx.GraphDef[nnx.Module]", mesh: Mesh) -> Any:
    """Weights of an autoencoder and scaled latents to a video, compiled; frame after frame, to bound memory."""
    return network_program(_decode_latents, mesh, graph)


def _encode_frames(graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, video: Video, noise: Video) -> Video:
    autoencoder = nnx.merge(graph, weights)
    assert isinstance(autoencoder, Autoencoder)
    return constrain_batch(sample_latents(autoencoder, video, noise))


def _decode_latents(graph: "nnx.GraphDef[nnx.Module]", weights: nnx.State, latents: Video) -> Video:
    autoencoder = nnx.merge(graph, weights)
    assert isinstance(autoencoder, Autoencoder)

    def decode_frame(frame: Array) -> Array:
        return autoencoder.decode(frame[:, None] / autoencoder.config.scaling_factor)[:, 0]

    frames = jax.lax.map(decode_frame, rearrange(latents, "b t h w c -> t b h w c"))
    return constrain_batch(rearrange(frames, "t b h w c -> b t h w c"))


def superres_latent(
    context: StageContext, config: SuperresLatentConfig, low: Video, autoencoder: LoadedNetwork
) -> Video:
    """Stage 4: repaint the resized video in latent space, from noise up to `strength` (section 3.6; SDEdit)."""
    vae = autoencoder.architecture
    assert isinstance(vae, VAEConfig)
    video = resize_for_latents(low, config.height, config.width, context.mesh)
    sides = (config.height // vae.size_multiple, config.width // vae.size_multiple)
    shape = (low.shape[1], *sides, vae.latent_channels)
    first = make_sampler(context.scheduler, config.num_steps, config.strength).timesteps[0]
    with jax.set_mesh(context.mesh):
        encode, decode = (make(autoencoder.graph, context.mesh) for make in (encoder_program, decoder_program))
        latents = encode(autoencoder.weights, video, context.draw("posterior", shape))
        check_finite(latents, context.mesh, f"stage {context.stage}: the autoencoder's encoder")
        latents = context.sample(
            config,
            _noised(context.scheduler, latents, context.draw("initial", shape), int(first)),
            step_noise=functools.partial(_step_noise, context, shape, 0),
            strength=config.strength,
        )
        frames: Video = decode(autoencoder.weights, latents)
        check_finite(frames, context.mesh, f"stage {context.stage}: the autoencoder's decoder")
        return frames
