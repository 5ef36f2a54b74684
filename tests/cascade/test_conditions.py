"""The condition of each stage's network, and the use of its results; the sampling itself is replaced."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from show1_jax.cascade import conditions
from show1_jax.cascade.conditions import StageContext, interpolation_condition
from show1_jax.cascade.denoise import Condition, Denoise, KnownFrames
from show1_jax.cascade.noise import Draw, SeededNoise
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.config.sampling import (
    CascadeConfig,
    FirstFrameConfig,
    InterpolationConfig,
    KeyframesConfig,
    MeshConfig,
    Stage,
    StageConfig,
    SuperresLatentConfig,
    SuperresPixelConfig,
)
from show1_jax.config.video_edit import VideoEdit
from show1_jax.diffusion.inversion import Inversion
from show1_jax.diffusion.samplers import Sampler
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.media.frames import from_uint8, resize_uint8, to_uint8
from show1_jax.nn.config import VAEConfig
from show1_jax.parallel import make_mesh

DDPM = SchedulerConfig.from_json({"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"})
LINEAR = SchedulerConfig.from_json({"_class_name": "DDIMScheduler", "clip_sample": False})
TEXT = np.random.default_rng(1).standard_normal((2, 2, 3, 4)).astype(np.float32)


def normal(*key: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array that depends only on its key."""
    seed = [sum(map(ord, part)) if isinstance(part, str) else int(part) for part in key]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of_draw(draw: Draw, shape: tuple[int, ...]) -> Array:
    """Return the noise of a draw for a batch of two; it differs between draws, windows and videos."""
    return jnp.asarray(normal(*draw, shape=(2, *shape)))


@dataclass
class Call:
    """Arguments and result of one sampling."""

    sampler: Sampler
    start: np.ndarray
    condition: Condition
    guidance_scale: float
    step_noise: Callable[[int], Array]
    result: np.ndarray


@dataclass
class Recorder:
    """A replacement of `denoise` that records its arguments and returns large random values."""

    calls: list[Call] = field(default_factory=list)
    known: list[KnownFrames | None] = field(default_factory=list)

    def __call__(
        self,
        network: object,
        sampler: Sampler,
        sample: Array,
        *,
        condition: Condition,
        guidance_scale: float,
        step_noise: Callable[[int], Array],
        on_step: Callable[[int, int], None],
        known: KnownFrames | None,
        **_: object,
    ) -> Any:
        self.known.append(known)
        result = 5 * normal("result", len(self.calls), shape=sample.shape)
        self.calls.append(Call(sampler, np.asarray(sample), condition, guidance_scale, step_noise, result))
        for step in range(len(sampler.timesteps)):
            on_step(step + 1, len(sampler.timesteps))
        return jnp.asarray(result)


@pytest.fixture
def sampled() -> Recorder:
    return Recorder()


@dataclass
class RecordingCodec:
    """A codec that records its input, encodes any video to the same latents, and decodes to their negated channels."""

    architecture: VAEConfig
    latents: np.ndarray
    encoded: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def encode(self, video: Array, noise: Array) -> Array:
        self.encoded.append((np.asarray(video), np.asarray(noise)))
        return jnp.asarray(self.latents)

    def decode(self, latents: Any) -> Any:
        return jnp.asarray(-latents[..., :3])


def context(stage: Stage, denoise: Denoise, **overrides: Any) -> StageContext:
    unused: Any = None
    parts: dict[str, Any] = {
        "network": LoadedNetwork(unused, unused, unused),
        "scheduler": LINEAR,
        "noising_scheduler": DDPM,
        "text": jnp.asarray(TEXT),
        "noise": of_draw,
        "mesh": make_mesh(MeshConfig(), jax.devices()[:1]),
        "on_step": lambda done, total: None,
    }
    return StageContext(stage=stage, denoise=denoise, **parts | overrides)


def sample_stage(running: StageContext, settings: StageConfig, **videos: np.ndarray) -> Any:
    """Return the stage's result; other stages have the released settings."""
    given: dict[Any, Any] = {stage: jnp.asarray(video) for stage, video in videos.items()}
    settings_by_stage: dict[str, Any] = {running.stage: settings}
    return conditions.SAMPLING[running.stage](running, CascadeConfig(**settings_by_stage), given)


def video(frames: int, height: int, width: int) -> np.ndarray:
    return normal("video", frames, shape=(2, frames, height, width, 3))


def noised(clip: np.ndarray, noise: Array, level: int) -> np.ndarray:
    """Return sqrt(a) x + sqrt(1 - a) noise, where a is the product of 1 - beta of the squared-cosine schedule."""

    def bar(time: np.ndarray) -> np.ndarray:
        return np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2

    steps = np.arange(level + 1)
    a = np.prod(1 - np.minimum(1 - bar((steps + 1) / 1000) / bar(steps / 1000), 0.999))
    return np.sqrt(a) * clip + np.sqrt(1 - a) * np.asarray(noise)


def enlarged(clip: np.ndarray, scale: int) -> np.ndarray:
    """Resize bilinearly with aligned corners."""
    for axis in (2, 3):
        size = clip.shape[axis]
        at = np.linspace(0, size - 1, size * scale)
        clip = np.apply_along_axis(lambda line, at=at, size=size: np.interp(at, np.arange(size), line), axis, clip)
    return clip


def overwritten(clips: list[np.ndarray], starts: list[int], frames: int) -> np.ndarray:
    """Write the clips sequentially; a shared frame is taken from the last clip."""
    out = np.full((2, frames, *clips[0].shape[2:]), np.nan, np.float32)
    for clip, start in zip(clips, starts, strict=True):
        out[:, start : start + clip.shape[1]] = clip
    return out


def test_keyframes_come_from_noise_and_text_alone(sampled: Recorder) -> None:
    config = KeyframesConfig(num_steps=3, guidance_scale=9.0, num_frames=4, height=2, width=3)
    result = sample_stage(context("keyframes", sampled), config)
    (call,) = sampled.calls
    np.testing.assert_array_equal(call.start, of_draw(Draw("keyframes", "initial"), (4, 2, 3, 3)))
    np.testing.assert_array_equal(call.step_noise(2), of_draw(Draw("keyframes", "step", 2), (4, 2, 3, 3)))
    np.testing.assert_array_equal(call.condition.text, TEXT)
    assert call.condition.channels is None
    assert call.condition.noise_level is None
    assert call.guidance_scale == 9.0
    np.testing.assert_array_equal(result, call.result)


@settings(max_examples=5)
@given(keyframes=st.integers(2, 6), between=st.integers(1, 5))
def test_interpolation_is_conditioned_on_a_blend_and_a_mask_of_keyframes(keyframes: int, between: int) -> None:
    ends = video(keyframes, 1, 2)
    channels = np.asarray(interpolation_condition(jnp.asarray(ends), between))
    last = between + 1
    for clip in range(2):
        for window in range(keyframes - 1):
            for frame in range(last + 1):
                row = channels[clip * (keyframes - 1) + window, frame]
                first, second = ends[clip, window], ends[clip, window + 1]
                np.testing.assert_allclose(row[..., :3], first + (second - first) * frame / last, atol=1e-6)
                np.testing.assert_array_equal(row[..., 3], float(frame in (0, last)))


def test_interpolation_can_be_conditioned_on_zeros_between_the_keyframes(sampled: Recorder) -> None:
    keyframes = video(3, 1, 2)
    config = InterpolationConfig(num_steps=3, guidance_scale=4.0, num_between=2, between="zeros")
    sample_stage(context("interpolation", sampled), config, keyframes=keyframes)
    channels = rearrange(np.asarray(sampled.calls[0].condition.channels), "(b v) t h w c -> b v t h w c", v=2)
    np.testing.assert_array_equal(
        channels[:, :, [0, -1], ..., :3], np.stack([keyframes[:, :2], keyframes[:, 1:]], axis=2)
    )
    assert (channels[:, :, [0, -1], ..., 3] == 1).all()
    assert not channels[:, :, 1:-1].any()


def test_interpolation_runs_all_windows_at_once_and_later_ones_overwrite(sampled: Recorder) -> None:
    keyframes = video(4, 1, 2)
    config = InterpolationConfig(num_steps=3, guidance_scale=4.0)
    result = np.asarray(sample_stage(context("interpolation", sampled), config, keyframes=keyframes))
    (call,) = sampled.calls
    for number in range(6):
        clip, window = divmod(number, 3)
        for array, draw in (
            (call.start, Draw("interpolation", "initial", 0, window)),
            (call.step_noise(1), Draw("interpolation", "step", 1, window)),
        ):
            np.testing.assert_array_equal(array[number], of_draw(draw, (5, 1, 2, 3))[clip])
        np.testing.assert_array_equal(call.condition.text[number], TEXT[clip])
    np.testing.assert_array_equal(call.condition.channels, interpolation_condition(jnp.asarray(keyframes), 3))
    windows = list(rearrange(call.result, "(b v) t h w c -> v b t h w c", v=3))
    np.testing.assert_array_equal(result, overwritten(windows, [0, 4, 8], 13))


def test_one_keyframe_needs_no_interpolation(sampled: Recorder) -> None:
    keyframe = video(1, 2, 2)
    result = sample_stage(context("interpolation", sampled), InterpolationConfig(), keyframes=keyframe)
    np.testing.assert_array_equal(result, keyframe)
    assert not sampled.calls


def test_the_first_frame_is_upsampled_and_noised_to_its_level(sampled: Recorder) -> None:
    low = video(5, 2, 3)
    config = FirstFrameConfig(num_steps=2, noise_level=150, scale=4)
    result = sample_stage(context("first_frame", sampled), config, interpolation=low)
    (call,) = sampled.calls
    shape = (1, 8, 12, 3)
    np.testing.assert_array_equal(call.start, of_draw(Draw("first_frame", "initial"), shape))
    noise = of_draw(Draw("first_frame", "augmentation"), shape)
    channels = np.asarray(call.condition.channels)
    np.testing.assert_allclose(channels, noised(enlarged(low[:, :1], 4), noise, 150), atol=1e-5)
    assert call.condition.noise_level == 150
    np.testing.assert_array_equal(result, call.result)


@pytest.mark.parametrize(("frames", "starts"), [(29, [0, 7, 14, 21]), (5, [0])])
def test_the_first_frames_of_all_windows_are_enlarged_at_once(
    sampled: Recorder, frames: int, starts: list[int]
) -> None:
    low = video(frames, 2, 3)
    config = FirstFrameConfig(num_steps=2, noise_level=150, scale=4, frames="window_starts")
    result = sample_stage(context("first_frame", sampled), config, interpolation=low)
    (call,) = sampled.calls
    shape, images = (1, 8, 12, 3), rearrange(call.result, "(b v) 1 h w c -> b v h w c", b=2)
    channels = rearrange(np.asarray(call.condition.channels), "(b v) 1 h w c -> b v h w c", b=2)
    for window, start in enumerate(starts):
        noise = of_draw(Draw("first_frame", "augmentation", 0, window), shape)
        expected = noised(enlarged(low[:, start : start + 1], 4), noise, 150)
        np.testing.assert_allclose(channels[:, window], expected[:, 0], atol=1e-5)
        for clip in range(2):
            number = clip * len(starts) + window
            for array, draw in (
                (call.start, Draw("first_frame", "initial", 0, window)),
                (call.step_noise(1), Draw("first_frame", "step", 1, window)),
            ):
                np.testing.assert_array_equal(array[number], of_draw(draw, shape)[clip])
            np.testing.assert_array_equal(call.condition.text[number], TEXT[clip])
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("given", [1, 2, 4])
def test_pixel_windows_start_from_the_images_that_there_are(sampled: Recorder, given: int) -> None:
    low, images = video(29, 1, 2), normal("first", shape=(2, given, 4, 8, 3))
    config = SuperresPixelConfig(num_steps=2, window=8, stride=7)
    sample_stage(context("superres_pixel", sampled), config, interpolation=low, first_frame=images)
    for window, call in enumerate(sampled.calls):
        start = images[:, window] if window < given else sampled.calls[window - 1].result[:, 7]
        np.testing.assert_array_equal(np.asarray(call.condition.channels)[:, 0], start)


@pytest.mark.parametrize("frames", [29, 61, 5])
def test_pixel_windows_are_conditioned_on_a_clean_finished_frame_and_overwrite_it(
    sampled: Recorder, frames: int
) -> None:
    low, first = video(frames, 1, 2), normal("first", shape=(2, 1, 4, 8, 3))
    starts = {29: [0, 7, 14, 21], 61: [0, 7, 14, 21, 28, 35, 42, 49, 53], 5: [0]}[frames]
    config = SuperresPixelConfig(num_steps=2, noise_level=250, window=8, stride=7)
    progress: list[tuple[int, int]] = []
    running = context("superres_pixel", sampled, on_step=lambda *steps: progress.append(steps))
    result = np.asarray(sample_stage(running, config, interpolation=low, first_frame=first))

    assert len(sampled.calls) == len(starts)
    upsampled = enlarged(low, 4)
    finished = np.concatenate([first, np.zeros((2, frames - 1, 4, 8, 3), np.float32)], axis=1)
    for window, (start, call) in enumerate(zip(starts, sampled.calls, strict=True)):
        shape = call.start.shape[1:]
        clip = upsampled[:, start : start + 8]
        np.testing.assert_array_equal(call.start, of_draw(Draw("superres_pixel", "initial", 0, window), shape))
        noise = of_draw(Draw("superres_pixel", "augmentation", 0, window), shape)
        step_noise = of_draw(Draw("superres_pixel", "step", 1, window), shape)
        np.testing.assert_array_equal(call.step_noise(1), step_noise)
        channels = np.asarray(call.condition.channels)
        np.testing.assert_array_equal(channels[:, 0], finished[:, start])
        np.testing.assert_allclose(channels[:, 1:], noised(clip, noise, 250)[:, 1:], atol=1e-5)
        np.testing.assert_array_equal(call.condition.text, TEXT)
        assert call.condition.noise_level == 250
        finished[:, start : start + 8] = call.result
    np.testing.assert_array_equal(result, overwritten([call.result for call in sampled.calls], starts, frames))
    steps = 2 * len(starts)
    assert progress == [(done, steps) for done in range(1, steps + 1)]


@pytest.mark.parametrize(("steps", "strength", "kept"), [(50, 0.8, 40), (7, 0.65, 4), (5, 1.0, 5)])
def test_latents_are_noised_to_the_first_of_the_last_steps(
    sampled: Recorder, steps: int, strength: float, kept: int
) -> None:
    latents, low = normal("latents", shape=(2, 3, 2, 4, 4)), 2 * video(3, 4, 9)
    codec = RecordingCodec(VAEConfig(3, 3, 4, (32, 32, 32, 32), 1, 0.2), latents)
    config = SuperresLatentConfig(num_steps=steps, strength=strength, height=16, width=32)
    running = context("superres_latent", sampled, noising_scheduler=None, codec=codec)
    result = sample_stage(running, config, superres_pixel=low)

    (call,) = sampled.calls
    frames = np.stack([from_uint8(resize_uint8(to_uint8(clip), 16, 32)) for clip in low])
    ((encoded, posterior_noise),) = codec.encoded
    np.testing.assert_array_equal(encoded, frames)
    shape = (3, 2, 4, 4)
    np.testing.assert_array_equal(posterior_noise, of_draw(Draw("superres_latent", "posterior"), shape))
    every = [number * (1000 // steps) for number in reversed(range(steps))]
    assert list(call.sampler.timesteps) == every[steps - kept :]
    a = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: every[steps - kept] + 1])
    noise = of_draw(Draw("superres_latent", "initial"), shape)
    np.testing.assert_allclose(call.start, np.sqrt(a) * latents + np.sqrt(1 - a) * np.asarray(noise), atol=1e-4)
    assert call.condition.channels is None
    assert call.condition.noise_level is None
    np.testing.assert_array_equal(result, codec.decode(call.result))


EMPTY_TEXT = np.random.default_rng(2).standard_normal((2, 1, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(("strength", "inversion_steps"), [(1.0, 0), (0.5, 0), (0.5, 3)])
@pytest.mark.parametrize("stage", ["keyframes", "interpolation", "first_frame", "superres_pixel"])
def test_every_window_starts_from_its_part_of_the_video(
    sampled: Recorder, stage: Stage, strength: float, inversion_steps: int
) -> None:
    """From noise alone, the noised clip, or its inversion, whose steps count as well."""
    low, first = video(5, 1, 2), normal("first", shape=(2, 1, 4, 8, 3))
    cases: dict[Stage, tuple[np.ndarray, StageConfig, list[tuple[int, int]], dict[str, np.ndarray]]] = {
        "keyframes": (video(4, 2, 3), KeyframesConfig(4, num_frames=4, height=2, width=3), [(0, 4)], {}),
        "interpolation": (low, InterpolationConfig(4, num_between=1), [(0, 3), (2, 5)], {"keyframes": video(3, 1, 2)}),
        "first_frame": (first, FirstFrameConfig(4), [(0, 1)], {"interpolation": low}),
        "superres_pixel": (
            video(5, 4, 8),
            SuperresPixelConfig(4, window=4, stride=3),
            [(0, 4), (1, 5)],
            {"interpolation": low, "first_frame": first},
        ),
    }
    own, config, windows, inputs = cases[stage]
    edit = VideoEdit(stage, strength, inversion_steps)
    progress: list[tuple[int, int]] = []
    start = {"edit": edit, "video": jnp.asarray(own), "empty_text": jnp.asarray(EMPTY_TEXT)}
    sample_stage(context(stage, sampled, **start, on_step=lambda *steps: progress.append(steps)), config, **inputs)
    total = sum(len(call.sampler.timesteps) for call in sampled.calls)
    assert progress == [(done, total) for done in range(1, total + 1)]
    clips = [own[:, start:end] for start, end in windows]
    noises = [np.asarray(of_draw(Draw(stage, "initial", 0, n), clip.shape[1:])) for n, clip in enumerate(clips)]
    if stage == "interpolation":  # whose windows are one batch
        clips, noises = ([rearrange(np.stack(each, 1), "b v t h w c -> (b v) t h w c")] for each in (clips, noises))
    samplings = [call for call in sampled.calls if not isinstance(call.sampler, Inversion)]
    inversions = [call for call in sampled.calls if isinstance(call.sampler, Inversion)]
    assert len(samplings) == len(clips)
    assert len(inversions) == (len(clips) if inversion_steps else 0)
    for number, (clip, noise, call) in enumerate(zip(clips, noises, samplings, strict=True)):
        assert list(call.sampler.timesteps) == [750, 500, 250, 0][-int(4 * strength) :]
        if strength == 1:
            np.testing.assert_array_equal(call.start, noise)
        elif not inversion_steps:
            a = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:251])
            np.testing.assert_allclose(call.start, np.sqrt(a) * clip + np.sqrt(1 - a) * noise, atol=1e-4)
        else:
            inversion = inversions[number]
            np.testing.assert_array_equal(inversion.start, clip)
            np.testing.assert_array_equal(call.start, inversion.result)
            assert list(inversion.sampler.timesteps) == [0, 250]
            assert inversion.guidance_scale == 1
            times = len(clip) // 2
            np.testing.assert_array_equal(inversion.condition.text, np.repeat(EMPTY_TEXT, times, axis=0))
            assert inversion.condition.noise_level == call.condition.noise_level
            if inversion.condition.channels is not None:
                np.testing.assert_array_equal(inversion.condition.channels, np.asarray(call.condition.channels))


def test_latents_of_the_input_are_inverted(sampled: Recorder) -> None:
    latents = normal("latents", shape=(2, 3, 2, 4, 4))
    codec = RecordingCodec(VAEConfig(3, 3, 4, (32, 32, 32, 32), 1, 0.2), latents)
    config = SuperresLatentConfig(num_steps=4, strength=0.5, height=16, width=32)
    start = {"edit": VideoEdit("superres_latent", 0.5, 3), "empty_text": jnp.asarray(EMPTY_TEXT)}
    running = context("superres_latent", sampled, noising_scheduler=None, codec=codec, **start)
    result = sample_stage(running, config, superres_pixel=video(3, 4, 9))
    inversion, call = sampled.calls
    assert isinstance(inversion.sampler, Inversion)
    np.testing.assert_array_equal(inversion.start, latents)
    np.testing.assert_array_equal(inversion.condition.text, EMPTY_TEXT)
    np.testing.assert_array_equal(call.start, inversion.result)
    assert list(call.sampler.timesteps) == [250, 0]
    np.testing.assert_array_equal(result, codec.decode(call.result))


def test_keyframes_that_begin_with_a_picture_draw_other_noise_for_every_pass(sampled: Recorder) -> None:
    config = KeyframesConfig(num_steps=3, num_frames=4, height=2, width=3, image_passes=5)
    image = jnp.asarray(video(1, 2, 3))
    sample_stage(context("keyframes", sampled, image=image), config)
    (known,) = sampled.known
    assert known is not None
    np.testing.assert_array_equal(known.frames, image)
    assert known.passes == 5
    np.testing.assert_array_equal(known.noise(2, 4), of_draw(Draw("keyframes", "pass", 14), (4, 2, 3, 3)))


def seeded(seeds: list[int], devices: int, *draw: Any) -> np.ndarray:
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return np.asarray(SeededNoise(seeds, mesh)(Draw(*draw), (2, 8, 8, 3)))


def test_draws_are_a_function_of_seed_and_purpose_alone() -> None:
    here = seeded([3, 5], 2, "superres_pixel", "step", 4)
    there = seeded([5, 9], 1, "superres_pixel", "step", 4, 7)  # another batch, mesh and window
    np.testing.assert_array_equal(here[1], there[0])


def test_different_draws_are_different_and_standard_normal() -> None:
    draws = [
        ("superres_pixel", "initial"),
        ("superres_pixel", "augmentation"),
        ("superres_pixel", "step"),
        ("superres_pixel", "step", 1),
        ("superres_latent", "initial"),
        ("superres_latent", "posterior"),
    ]
    arrays = np.stack([seeded([3, 4], 1, *draw) for draw in draws]).reshape(2 * len(draws), -1)
    assert np.abs(np.corrcoef(arrays) - np.eye(len(arrays))).max() < 0.25
    assert abs(arrays.mean()) < 0.05
    assert abs(arrays.std() - 1) < 0.05


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="out of range"):
        SeededNoise([seed], make_mesh(MeshConfig(), jax.devices()[:1]))
