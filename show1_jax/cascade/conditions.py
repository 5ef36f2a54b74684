"""Sampling of each stage (Show-1, section 3.2; here the image network of the first frame is a separate stage).

Every row of `show1_jax.cascade.stages` has one function. It takes the results of earlier stages, prepares the channels
that the stage's network is conditioned on, calls `denoise`, and returns the stage's result. Videos are (batch, time,
height, width, channel) in about [-1, 1], and are not clamped between stages, as in the original.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Float32, Int

from show1_jax.cascade.denoise import (
    EVERY_BRANCH_AND_LEVEL,
    CompiledSteps,
    Condition,
    Denoise,
    KnownFrames,
    OnStep,
    denoise,
    step_kinds,
)
from show1_jax.cascade.latents import LatentCodec, latent_shape
from show1_jax.cascade.noise import Draw, NoiseSource, Purpose
from show1_jax.cascade.resize import resize_bilinear
from show1_jax.cascade.stages import superres_starts
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import Between, CascadeConfig, Stage, StageConfig
from show1_jax.config.video_edit import VideoEdit
from show1_jax.diffusion.inversion import make_inversion
from show1_jax.diffusion.samplers import Sampler, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig, add_noise, alphas_cumprod
from show1_jax.media.frames import from_uint8, resize_uint8, to_uint8
from show1_jax.nn.array_types import Video
from show1_jax.parallel import check_finite, gather, put_batch

StageVideo = Float32[Array, "b _ _ _ _"]
"""Result of a stage; frames, height and width differ between stages."""
StageVideos = Mapping[Stage, StageVideo]


@dataclass(frozen=True)
class StageContext:
    """The network, schedules, text and noise that a stage is sampled with.

    Attributes:
        stage: name of the stage.
        network: UNet of the stage, with weights on the devices.
        scheduler: noise schedule and sampler.
        noising_scheduler: schedule that noises the low-resolution condition; None if the stage has no such condition.
        text: states of negative prompt and prompt, or of the prompt alone.
        noise: source of all draws.
        mesh: mesh of the devices.
        on_step: called after every denoising step with the number of finished steps and their total, over all windows.
        compiled: see `denoise`.
        sequential_guidance: see `guided_output`.
        codec: autoencoder between pixels and latents; None if the stage works on pixels.
        window: number of this window among several, as text for errors.
        edit: how the stage starts from `video`; None: it starts as usual, without one.
        video: clean video in the shape of the stage's result; None without `edit`, and in a stage of latents, which
            starts from its input.
        empty_text: states of the empty prompt, if `edit` has an inversion.
        image: the clean first frame of the result; None: it is not known.
        denoise: function that runs the sampler.
    """

    stage: Stage
    network: LoadedNetwork
    scheduler: SchedulerConfig
    noising_scheduler: SchedulerConfig | None
    text: Float[Array, "b g n d"]
    noise: NoiseSource
    mesh: Mesh
    on_step: OnStep
    compiled: CompiledSteps = field(default_factory=dict)
    sequential_guidance: bool = False
    codec: LatentCodec | None = None
    window: str = ""
    edit: VideoEdit | None = None
    video: StageVideo | None = None
    empty_text: Float[Array, "b 1 n d"] | None = None
    image: StageVideo | None = None
    denoise: Denoise = denoise

    def sample(
        self,
        config: StageConfig,
        start: Video,
        *,
        step_noise: Callable[[int], Video],
        channels: Float32[Array, "b t h w e"] | None = None,
        noise_level: int | None = None,
        windows_per_video: int = 1,
        strength: float | None = None,
        clip: Video | None = None,
        known: KnownFrames | None = None,
    ) -> Video:
        """Run the stage's sampler.

        Args:
            config: settings of the stage.
            start: noise or a noised video, (videos * windows_per_video, time, height, width, channel), with the windows
                of a video next to each other.
            step_noise: returns the noise of a step.
            channels: channels that the network is conditioned on.
            noise_level: timestep of the noise in `channels`.
            windows_per_video: number of windows of every video in the batch.
            strength: share of the steps that run; by default that of `edit`, and all without it.
            clip: clean video that `edit` starts from, in the shape of `start`, which is then noise; None: `start` is
                the start.
            known: see `denoise`.

        Returns:
            The clean videos or latents, in the shape of `start`.
        """
        if strength is None:
            strength = self.edit.strength if self.edit else 1.0
        sampler = make_sampler(self.scheduler, config.num_steps, strength)
        condition = Condition(_repeated(self.text, windows_per_video), channels, noise_level)
        finished = 0
        if clip is not None and self.edit is not None:
            if self.edit.inversion_steps:
                start, finished = self._invert(self.edit, clip, sampler, condition, windows_per_video)
            elif strength < 1:
                start = _noised(self.scheduler, clip, start, int(sampler.timesteps[0]))
        return self.denoise(
            self.network,
            sampler,
            start,
            condition=condition,
            guidance_scale=config.guidance_scale,
            step_noise=step_noise,
            mesh=self.mesh,
            on_step=lambda done, total: self.on_step(finished + done, finished + total),
            kinds=step_kinds(config, sampler),
            compiled=self.compiled,
            sequential_guidance=self.sequential_guidance,
            known=known,
            name=f"stage {self.stage}{self.window}",
        )

    def _invert(
        self, edit: VideoEdit, clip: Video, sampler: Sampler, condition: Condition, windows_per_video: int
    ) -> tuple[Video, int]:
        """Return the noise of a clean clip at the first timestep of a sampler, and the number of steps to it."""
        inversion = make_inversion(
            self.scheduler,
            edit.inversion_steps,
            last_timestep=int(sampler.timesteps[0]),
            iterations=edit.inversion_iterations,
        )
        assert self.empty_text is not None
        noise = self.denoise(
            self.network,
            inversion,
            clip,
            condition=dataclasses.replace(condition, text=_repeated(self.empty_text, windows_per_video)),
            guidance_scale=1.0,
            step_noise=_no_noise,
            mesh=self.mesh,
            on_step=lambda done, total: self.on_step(done, total + len(sampler.timesteps)),
            kinds=(EVERY_BRANCH_AND_LEVEL,) * len(inversion.timesteps),
            compiled={},
            sequential_guidance=False,
            known=None,
            name=f"stage {self.stage}{self.window}, inversion",
        )
        return noise, len(inversion.timesteps)

    def in_window(self, window: int, num_windows: int) -> "StageContext":
        """Return the context of one of several windows that run sequentially; steps are counted over all windows."""

        def on_step(done: int, total: int) -> None:
            self.on_step(window * total + done, num_windows * total)

        return dataclasses.replace(self, on_step=on_step, window=f", window {window + 1} of {num_windows}")

    def draw(self, purpose: Purpose, shape: tuple[int, ...], *, step: int = 0, window: int = 0) -> Video:
        """Return the noise of a draw of this stage; `shape` is (time, height, width, channel)."""
        return self.noise(Draw(self.stage, purpose, step, window), shape)

    def draw_windows(
        self, purpose: Purpose, shape: tuple[int, ...], num_windows: int, *, step: int = 0
    ) -> Float32[Array, "_ t h w c"]:
        """Return the noise of several windows as one batch, with the windows of a video next to each other."""
        return _batch_windows(
            tuple(self.draw(purpose, shape, step=step, window=window) for window in range(num_windows))
        )


# What a stage computes around its denoising loop is jitted in few pieces: operations one by one would each be compiled
# at every start.


def _repeated(text: Float[Array, "b g n d"], times: int) -> Float[Array, "b*{times} g n d"]:
    return text if times == 1 else _repeat_text(text, times)


@functools.partial(jax.jit, static_argnums=1)
def _repeat_text(text: Float[Array, "b g n d"], times: int) -> Float[Array, "b*{times} g n d"]:
    return repeat(text, "b g n d -> (b v) g n d", v=times)


@runtime_checkable
class SampleStage(Protocol):
    """A function that samples a stage."""

    def __call__(self, context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
        """Return the stage's result.

        Args:
            context: context of the stage.
            config: settings of all stages.
            videos: results of the stages that this stage needs.
        """


def sample_keyframes(context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
    """Sample stage 1: keyframes from noise alone (section 3.3), or with a picture as the first of them."""
    settings, known = config.keyframes, None
    shape = (settings.num_frames, settings.height, settings.width, 3)
    if context.image is not None:

        def renoise(step: int, number: int) -> Video:
            return context.draw("pass", shape, step=step * settings.image_passes + number)

        known = KnownFrames(context.image, settings.image_passes, renoise)
    return context.sample(
        settings,
        context.draw("initial", shape),
        step_noise=functools.partial(_step_noise, context, shape, 0),
        clip=context.video,
        known=known,
    )


@functools.partial(jax.jit, static_argnames=("num_between", "between"))
def interpolation_condition(
    keyframes: Video, num_between: int, between: Between = "blend"
) -> Float32[Array, "b*(t-1) {num_between}+2 h w c+1"]:
    """Return the condition of every window between two keyframes: the keyframes, frames between them, and a mask.

    The mask is 1 at the keyframes and 0 between them. The released network is trained and sampled with a linear blend
    of the two keyframes between them; the paper (eq. 6) has zeros.

    Args:
        keyframes: videos of keyframes.
        num_between: number of frames between two keyframes.
        between: `blend` or `zeros`, see `InterpolationConfig.between`.
    """
    share = np.linspace(0, 1, num_between + 2, dtype=np.float32)[:, None, None, None]
    is_end = np.isin(share, (0, 1)).astype(np.float32)
    frames = keyframes[:, :-1, None] * (1 - share) + keyframes[:, 1:, None] * share
    if between == "zeros":
        frames *= is_end
    mask = jnp.broadcast_to(is_end, (*frames.shape[:-1], 1))
    return rearrange(jnp.concatenate([frames, mask], axis=-1), "b v t h w c -> (b v) t h w c")


def interpolate(context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
    """Sample stage 2: frames between the keyframes (section 3.4).

    All windows are in one batch, since they are independent. A frame that two windows share comes from the later window
    in the result, as in the original.
    """
    settings, keyframes = config.interpolation, videos["keyframes"]
    num_windows, (height, width) = keyframes.shape[1] - 1, keyframes.shape[2:4]
    if num_windows == 0:
        return keyframes
    shape = (settings.num_between + 2, height, width, 3)
    clips = context.sample(
        settings,
        context.draw_windows("initial", shape, num_windows),
        step_noise=lambda step: context.draw_windows("step", shape, num_windows, step=step),
        channels=interpolation_condition(keyframes, settings.num_between, settings.between),
        windows_per_video=num_windows,
        clip=None if context.video is None else _split_windows(context.video, shape[0]),
    )
    return _join_windows(clips, num_windows)


def _batch_windows(windows: tuple[Video, ...]) -> Float32[Array, "_ t h w c"]:
    """Return the clips of every window as one batch, with the windows of a video next to each other."""
    return windows[0] if len(windows) == 1 else _stack_windows(windows)


@jax.jit
def _stack_windows(windows: tuple[Video, ...]) -> Float32[Array, "_ t h w c"]:
    return rearrange(jnp.stack(windows, axis=1), "b v t h w c -> (b v) t h w c")


@functools.partial(jax.jit, static_argnums=1)
def _split_windows(video: StageVideo, length: int) -> Float32[Array, "_ {length} h w c"]:
    """Return the windows of a video, which overlap in one frame, as one batch; see `_batch_windows`."""
    starts = range(0, video.shape[1] - 1, length - 1)
    windows = jnp.stack([video[:, start : start + length] for start in starts], axis=1)
    return rearrange(windows, "b v t h w c -> (b v) t h w c")


@functools.partial(jax.jit, static_argnums=1)
def _join_windows(clips: Video, num_windows: int) -> Float32[Array, "_ _ h w c"]:
    """Return the videos of windows that overlap in one frame, which comes from the later window."""
    clips = rearrange(clips, "(b v) t h w c -> b v t h w c", v=num_windows)
    starts = rearrange(clips[:, :, :-1], "b v t h w c -> b (v t) h w c")
    return jnp.concatenate([starts, clips[:, -1, -1:]], axis=1)


def _no_noise(step: int) -> Video:
    raise AssertionError(f"an inversion draws no noise, but asks for that of step {step}")


def _step_noise(context: StageContext, shape: tuple[int, ...], window: int, step: int) -> Video:
    return context.draw("step", shape, step=step, window=window)


@functools.partial(jax.jit, static_argnums=0)
def _noised(scheduler: SchedulerConfig, video: Video, noise: Video, timestep: Int[ArrayLike, ""]) -> Video:
    return add_noise(alphas_cumprod(scheduler), video, noise, jnp.full(len(video), timestep))


@functools.partial(jax.jit, static_argnums=0)
def _superres_condition(
    scheduler: SchedulerConfig,
    low: StageVideo,
    start: Int[ArrayLike, ""],
    noise: Video,
    noise_level: Int[ArrayLike, ""],
    known: StageVideo | None,
) -> Video:
    """Return a low-resolution clip, upsampled to the size of `noise` and noised to `noise_level` (section 3.5).

    Args:
        scheduler: schedule of the noise.
        low: whole video at low resolution.
        start: first frame of the clip.
        noise: noise of the clip.
        noise_level: timestep of the noise.
        known: clean first frame at high resolution, which replaces the clip's; None: there is none.
    """
    clip = jax.lax.dynamic_slice_in_dim(low, start, noise.shape[1], axis=1)
    condition = _noised(scheduler, resize_bilinear(clip, *noise.shape[2:4]), noise, noise_level)
    return condition if known is None else jnp.concatenate([known, condition[:, 1:]], axis=1)


def _augmentation(context: StageContext, low: StageVideo, num_frames: int, scale: int, window: int = 0) -> Video:
    _, _, height, width, channels = low.shape
    return context.draw("augmentation", (num_frames, height * scale, width * scale, channels), window=window)


def superres_first_frame(context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
    """Sample stage 3a: super-resolution of the first frame of the video, or of every window, with the image network.

    Images of several windows are in one batch.
    """
    settings, low, scheduler = config.first_frame, videos["interpolation"], context.noising_scheduler
    assert scheduler is not None
    starts = superres_starts(low.shape[1], config.superres_pixel.window, config.superres_pixel.stride)
    if settings.frames == "first":
        starts = starts[:1]
    noises = [_augmentation(context, low, 1, settings.scale, window) for window in range(len(starts))]
    shape = noises[0].shape[1:]
    channels = tuple(
        _superres_condition(scheduler, low, start, noise, settings.noise_level, None)
        for start, noise in zip(starts, noises, strict=True)
    )
    images = context.sample(
        settings,
        context.draw_windows("initial", shape, len(starts)),
        step_noise=lambda step: context.draw_windows("step", shape, len(starts), step=step),
        channels=_batch_windows(channels),
        noise_level=settings.noise_level,
        windows_per_video=len(starts),
        clip=context.video,
    )
    return rearrange(images, "(b v) 1 h w c -> b v h w c", v=len(starts))


def superres_pixel(context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
    """Sample stage 3b: super-resolution in windows; each is conditioned on its clean first frame.

    Windows overlap in this frame: it is the last one of the window before, unless the image network enlarged it. In the
    result it comes from the later window, as in the original.
    """
    settings, low, scheduler = config.superres_pixel, videos["interpolation"], context.noising_scheduler
    assert scheduler is not None
    starts = superres_starts(low.shape[1], settings.window, settings.stride)
    images = videos["first_frame"]
    known, finished = images[:, :1], []
    for window, start in enumerate(starts):
        noise = _augmentation(context, low, min(settings.window, low.shape[1]), config.first_frame.scale, window)
        shape = noise.shape[1:]
        clip = context.in_window(window, len(starts)).sample(
            settings,
            context.draw("initial", shape, window=window),
            step_noise=functools.partial(_step_noise, context, shape, window),
            channels=_superres_condition(scheduler, low, start, noise, settings.noise_level, known),
            noise_level=settings.noise_level,
            clip=None if context.video is None else context.video[:, start : start + shape[0]],
        )
        if window + 1 < len(starts):
            clip, known = _split_clip(clip, starts[window + 1] - start)
            if window + 1 < images.shape[1]:
                known = images[:, window + 1 : window + 2]
        finished.append(clip)
    return _join_clips(tuple(finished))


@functools.partial(jax.jit, static_argnums=1)
def _split_clip(clip: StageVideo, kept: int) -> tuple[StageVideo, StageVideo]:
    """Return the first frames of a clip that are kept, and the frame after them."""
    return clip[:, :kept], clip[:, kept : kept + 1]


@jax.jit
def _join_clips(clips: tuple[StageVideo, ...]) -> StageVideo:
    return jnp.concatenate(clips, axis=1)


def resize_for_latents(
    video: Float32[np.ndarray, "b t _ _ c"], height: int, width: int
) -> Float32[np.ndarray, "b t {height} {width} c"]:
    """Resize 8-bit frames with Pillow's bicubic filter, as the original does; the result is in [-1, 1]."""
    return np.stack([from_uint8(resize_uint8(clip, height, width)) for clip in to_uint8(video)])


def superres_latent(context: StageContext, config: CascadeConfig, videos: StageVideos) -> StageVideo:
    """Sample stage 4: noise the latents of the resized video by `strength`, and denoise them (section 3.6; SDEdit)."""
    settings, codec = config.superres_latent, context.codec
    assert codec is not None
    given = gather(videos["superres_pixel"], context.mesh)
    video = put_batch(resize_for_latents(given, settings.height, settings.width), context.mesh)
    shape = latent_shape(codec.architecture, *video.shape[1:4])
    first = make_sampler(context.scheduler, settings.num_steps, settings.strength).timesteps[0]
    inverts = context.edit is not None and context.edit.inversion_steps > 0
    with jax.set_mesh(context.mesh):
        latents = codec.encode(video, context.draw("posterior", shape))
        check_finite(latents, context.mesh, f"stage {context.stage}: the autoencoder's encoder")
        noise = context.draw("initial", shape)
        latents = context.sample(
            settings,
            noise if inverts else _noised(context.scheduler, latents, noise, int(first)),
            step_noise=functools.partial(_step_noise, context, shape, 0),
            strength=settings.strength,
            clip=latents if inverts else None,
        )
        frames = codec.decode(latents)
        check_finite(frames, context.mesh, f"stage {context.stage}: the autoencoder's decoder")
        return frames


SAMPLING: Final[dict[Stage, SampleStage]] = {
    "keyframes": sample_keyframes,
    "interpolation": interpolate,
    "first_frame": superres_first_frame,
    "superres_pixel": superres_pixel,
    "superres_latent": superres_latent,
}
"""Function that samples each stage."""
