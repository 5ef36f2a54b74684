"""The objective of every stage against the paper's equations in NumPy's float64, given the network's output."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.config.sampling import CascadeConfig, InterpolationConfig
from show1_jax.config.training import TrainedStage, TrainingConfig
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.nn.config import UNetConfig, VAEConfig
from show1_jax.nn.vae import Autoencoder
from show1_jax.training import objectives
from show1_jax.training.losses import Losses, band_sums, diffusion_losses, latent_std
from show1_jax.training.objectives import encode_latents, make_objective

SQUARED_COSINE = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2"}
LINEAR = {"_class_name": "DDPMScheduler"}
NOISING = SchedulerConfig.from_json(LINEAR)
CLIPS: dict[str, tuple[int, ...]] = {
    "keyframes": (3, 4, 5, 3),
    "interpolation": (5, 4, 5, 3),
    "first_frame": (1, 8, 12, 3),
    "superres_pixel": (4, 8, 12, 3),
    "superres_latent": (3, 4, 5, 4),
}
DENOISING = list(CLIPS)
BATCH = 6
KEYS = jax.random.split(jax.random.key(3), BATCH)
TEXT = jnp.ones((BATCH, 2, 4))
RELATIVE = 1e-6
"""The bar for every loss."""


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def levels(seed: int, *shape: int) -> np.ndarray:
    """Return random 8-bit pixels in [-1, 1], a third of them black or white."""
    random = np.random.default_rng(seed)
    pixels = np.where(random.random(shape) < 1 / 3, random.choice([0, 255], shape), random.integers(0, 256, shape))
    return (pixels / 127.5 - 1).astype(np.float32)


def gaussian(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the noise that the objective is given for a purpose."""
    return normal(sum(map(ord, purpose)), BATCH, *shape)


def integers(purpose: str, end: int) -> np.ndarray:
    """Return the timesteps or levels that it is given: first, last and some between, in an order of the purpose."""
    chosen = np.array([0, end - 1, 1, end // 3, end // 2, end - 2], np.int32) % end
    return np.roll(chosen, len(purpose) % BATCH)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the draws by known numbers that need no compilation."""
    monkeypatch.setattr(objectives, "_draw_normal", lambda keys, *draw: jnp.asarray(gaussian(*draw)))
    monkeypatch.setattr(objectives, "_draw_below", lambda keys, *draw: jnp.asarray(integers(*draw)))


def scheduler(prediction_type: str = "epsilon", schedule: dict[str, Any] = SQUARED_COSINE, **other: Any) -> Any:
    return SchedulerConfig.from_json(schedule | {"prediction_type": prediction_type} | other)


def unet(stage: str, variance: bool = False, **other: Any) -> UNetConfig:
    channels = CLIPS[stage][-1]
    extra = {"interpolation": 4, "first_frame": 3, "superres_pixel": 3}.get(stage, 0)
    parts: dict[str, Any] = {
        "in_channels": channels + extra,
        "out_channels": 2 * channels if variance else channels,
        "block_out_channels": (32,),
        "layers_per_block": (1,),
        "attention_levels": (True,),
        "down_head_dim": (16,),
        "mid_head_dim": 16,
        "up_head_dim": (16,),
        "cross_attention_dim": 4,
        "noise_level_embedding": stage in ("first_frame", "superres_pixel"),
    }
    return UNetConfig(**parts | other)


VAE = VAEConfig(3, 3, 4, (32, 32), 1, 0.2)


def objective(stage: TrainedStage, variance: bool = False, **changes: Any) -> Any:
    """Make a stage's objective with some of `make_objective`'s arguments, or of the training settings, changed."""
    names = {field.name for field in dataclasses.fields(TrainingConfig().stage(stage))}
    training = dataclasses.replace(TrainingConfig().stage(stage), **{k: v for k, v in changes.items() if k in names})
    parts: dict[str, Any] = {
        "cascade": CascadeConfig(),
        "scheduler": scheduler(),
        "noising_scheduler": NOISING,
        "architecture": VAE if stage == "autoencoder" else unet(stage, variance),
    }
    return make_objective(stage, training, **parts | {k: v for k, v in changes.items() if k not in names})


@dataclass
class Network:
    """A network that returns random numbers and records its inputs and outputs."""

    channels: int
    shown: list[Any] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)

    def __call__(self, sample: Any, timestep: Any, text: Any, noise_level: Any) -> Any:
        self.shown.append((sample, timestep, text, noise_level))
        self.answers.append(normal(len(self.answers) + 50, *sample.shape[:-1], self.channels))
        return jnp.asarray(self.answers[-1])


# The reference: float64, from the equations; it shares nothing with the package.


def betas(schedule: dict[str, Any]) -> np.ndarray:
    """Return the betas of a schedule in float32, like a checkpoint's."""
    if schedule is LINEAR:
        return np.linspace(1e-4, 0.02, 1000).astype(np.float32)
    angle = (np.arange(1001) / 1000 + 0.008) / 1.008 * math.pi / 2
    return np.minimum(1 - np.cos(angle[1:]) ** 2 / np.cos(angle[:-1]) ** 2, 0.999).astype(np.float32)


def forward(schedule: dict[str, Any], timestep: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha and sigma from cumulative products rounded to float32, as the original stores them."""
    squared: np.ndarray = np.cumprod(1 - betas(schedule), dtype=np.float64).astype(np.float32)[np.asarray(timestep)]
    squared = squared.astype(np.float64)[:, None, None, None, None]
    return np.sqrt(squared), np.sqrt(1 - squared)


def noised(schedule: dict[str, Any], x0: np.ndarray, noise: Any, timestep: Any) -> np.ndarray:
    alpha, sigma = forward(schedule, timestep)
    return alpha * x0 + sigma * np.asarray(noise, np.float64)


def target(prediction_type: str, x0: np.ndarray, eps: np.ndarray, alpha: Any, sigma: Any) -> np.ndarray:
    return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[prediction_type]


def per_example(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(1, 2, 3, 4))


def phi(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))(x)


def bound(schedule: dict[str, Any], kind: str, x0: Any, eps: Any, t: int, output: Any, variance: Any) -> np.ndarray:
    """Return L_t in bits per dimension, per example: the step against the posterior (arXiv 2006.11239, eq. 5)."""
    x0, eps, output, variance = (np.asarray(array, np.float64) for array in (x0, eps, output, variance))
    beta = betas(schedule).astype(np.float64)
    product = np.cumprod(1 - beta)
    before = np.concatenate([[1.0], product[:-1]])
    alpha, sigma = np.sqrt(product[t]), np.sqrt(1 - product[t])
    x_t = alpha * x0 + sigma * eps
    guess = {
        "epsilon": (x_t - sigma * output) / alpha,
        "sample": output,
        "v_prediction": alpha * x_t - sigma * output,
    }[kind]

    def mean(clean: np.ndarray) -> np.ndarray:
        of_x0 = np.sqrt(before[t]) * beta[t] / (1 - product[t])
        return of_x0 * clean + np.sqrt(1 - beta[t]) * (1 - before[t]) / (1 - product[t]) * x_t

    smallest = (beta * (1 - before) / (1 - product))[max(t, 1)]
    log_variance = (variance + 1) / 2 * np.log(beta[t]) + (1 - variance) / 2 * np.log(smallest)
    if t > 0:
        nats = 0.5 * (log_variance - np.log(smallest) - 1)
        nats += (smallest + (mean(x0) - mean(guess)) ** 2) / (2 * np.exp(log_variance))
        return per_example(nats) / np.log(2)
    std = np.exp(log_variance / 2)
    above = np.where(x0 > 0.999, 1, phi((x0 + 1 / 255 - guess) / std))
    below = np.where(x0 < -0.999, 0, phi((x0 - 1 / 255 - guess) / std))
    return -per_example(np.log2(above - below))


def blended(first: np.ndarray, last: np.ndarray, frames: int, between: str) -> np.ndarray:
    out = np.zeros((*first.shape[:1], frames, *first.shape[1:-1], 4))
    for number in range(frames):
        share = number / (frames - 1)
        if between == "blend" or share in (0, 1):
            out[:, number, ..., :3] = (1 - share) * first + share * last
    out[:, [0, -1], ..., 3] = 1
    return out


def averaged_and_enlarged(video: np.ndarray, scale: int) -> np.ndarray:
    """Average blocks of pixels, then enlarge them bilinearly with aligned corners."""
    height, width = video.shape[2:4]
    blocks = [video[:, :, i::scale, j::scale] for i in range(scale) for j in range(scale)]
    small: np.ndarray = np.sum(np.stack(blocks).astype(np.float64), axis=0) / scale**2
    for axis, size in ((2, height), (3, width)):
        old = size // scale
        at = np.linspace(0, old - 1, size)
        small = np.apply_along_axis(lambda line, at, old: np.interp(at, np.arange(old), line), axis, small, at, old)
    return small


def run(stage: TrainedStage, **changes: Any) -> tuple[np.ndarray, Network, Losses]:
    clip = normal(1, BATCH, *CLIPS[stage]) if stage == "superres_latent" else levels(1, BATCH, *CLIPS[stage])
    network = Network(CLIPS[stage][-1] * (2 if changes.get("variance") else 1))
    return clip, network, objective(stage, **changes)(network, jnp.asarray(clip), TEXT, KEYS)


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("stage", DENOISING)
def test_the_loss_is_the_squared_error_of_equations_5_and_6(stage: TrainedStage, prediction_type: str) -> None:
    clip, network, losses = run(stage, scheduler=scheduler(prediction_type))
    ((sample, timestep, text, _),) = network.shown
    eps = gaussian("noise", CLIPS[stage])
    np.testing.assert_allclose(sample[..., : clip.shape[-1]], noised(SQUARED_COSINE, clip, eps, timestep), atol=1e-6)
    np.testing.assert_array_equal(timestep, losses.timestep)
    assert text is TEXT
    wanted = target(prediction_type, clip, eps.astype(np.float64), *forward(SQUARED_COSINE, timestep))
    expected = per_example((network.answers[0] - wanted) ** 2)
    np.testing.assert_allclose(losses.loss, expected, rtol=RELATIVE)
    assert losses.loss.dtype == jnp.float32
    assert list(losses.parts) == ["simple"]
    np.testing.assert_array_equal(losses.parts["simple"], losses.loss)


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("stage", ["keyframes", "superres_latent"])
def test_stages_without_a_condition_take_only_the_noisy_sample(stage: TrainedStage) -> None:
    clip, network, _ = run(stage)
    ((sample, _, _, noise_level),) = network.shown
    assert sample.shape == clip.shape
    assert noise_level is None


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("between", ["blend", "zeros"])
@pytest.mark.parametrize("max_noise_level", [0, 1, 300])
def test_interpolation_is_conditioned_on_noised_end_frames(between: str, max_noise_level: int) -> None:
    cascade = CascadeConfig(interpolation=InterpolationConfig(between=between))  # type: ignore[arg-type]
    clip, network, _ = run("interpolation", cascade=cascade, max_noise_level=max_noise_level)
    ((sample, _, _, noise_level),) = network.shown
    ends = clip[:, [0, -1]].astype(np.float64)
    if max_noise_level:
        level = integers("noise_level", max_noise_level)
        assert (np.asarray(level) > 0).any() == (max_noise_level > 1)
        ends = noised(SQUARED_COSINE, ends, gaussian("augmentation", (2, 4, 5, 3)), level)
    np.testing.assert_allclose(sample[..., 3:], blended(ends[:, 0], ends[:, 1], 5, between), atol=1e-6)
    assert noise_level is None


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("max_noise_level", [251, 1000])
@pytest.mark.parametrize("stage", ["first_frame", "superres_pixel"])
def test_super_resolution_is_conditioned_on_a_noised_clip_and_its_level(
    stage: TrainedStage, max_noise_level: int
) -> None:
    clip, network, _ = run(stage, max_noise_level=max_noise_level)
    ((sample, timestep, _, noise_level),) = network.shown
    np.testing.assert_array_equal(noise_level, integers("noise_level", max_noise_level))
    noise = gaussian("augmentation", CLIPS[stage])
    expected = noised(LINEAR, averaged_and_enlarged(clip, 4), noise, noise_level)
    if stage == "superres_pixel":
        expected[:, 0] = clip[:, 0]
    np.testing.assert_allclose(sample[..., 3:], expected, atol=1e-6)
    assert noise_level.dtype == jnp.int32
    assert (np.asarray(noise_level) != np.asarray(timestep)).any()


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize("stage", ["first_frame", "superres_pixel"])
def test_the_condition_of_super_resolution_gets_more_contrast_within_the_range_of_its_clip(stage: TrainedStage) -> None:
    clip, network, _ = run(stage, max_contrast=3.0)
    ((sample, _, _, noise_level),) = network.shown
    average = clip.reshape(*clip.shape[:2], clip.shape[2] // 4, 4, clip.shape[3] // 4, 4, 3).mean((3, 5))
    factor = 1 + 2 * integers("contrast", 1001)[:, None, None, None, None] / 1000
    middle = np.median(average, axis=(1, 2, 3), keepdims=True)
    low, high = clip.min((1, 2, 3), keepdims=True), clip.max((1, 2, 3), keepdims=True)
    stronger = np.repeat(np.repeat((middle + factor * (average - middle)).clip(low, high), 4, axis=2), 4, axis=3)
    noise = gaussian("augmentation", CLIPS[stage])
    expected = noised(LINEAR, averaged_and_enlarged(stronger, 4), noise, noise_level)
    first = 1 if stage == "superres_pixel" else 0  # its first frame is given at full resolution
    np.testing.assert_allclose(sample[:, first:, ..., 3:], expected[:, first:], atol=1e-5)
    np.testing.assert_array_equal(sample[:, :first, ..., 3:], clip[:, :first])


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", [SQUARED_COSINE, LINEAR], ids=["squared_cosine", "linear"])
@pytest.mark.parametrize("t", [0, 1, 2, 30, 500, 998, 999])
def test_the_bound_is_the_divergence_from_the_posterior(schedule: dict[str, Any], prediction_type: str, t: int) -> None:
    x0, eps, variance = levels(2, 2, 2, 8, 8, 3), normal(3, 2, 2, 8, 8, 3), normal(4, 2, 2, 8, 8, 3)
    product = np.cumprod(1 - betas(schedule).astype(np.float64))[t]
    wanted = target(prediction_type, x0, eps, np.sqrt(product), np.sqrt(1 - product))
    # At timestep 0 a large error leads to probabilities too small for the reference's float64.
    error = normal(5, *x0.shape) * (0.01 if t == 0 and prediction_type != "epsilon" else 1)
    output = (wanted + error).astype(np.float32)
    config = scheduler(prediction_type, schedule)
    pair = jnp.concatenate([jnp.asarray(output), jnp.asarray(variance)], axis=-1)
    timestep = jnp.full(2, t, jnp.int32)
    losses = diffusion_losses(config, 0.001, jnp.asarray(x0), jnp.asarray(wanted, jnp.float32), pair, timestep)
    rounded = output - np.asarray(wanted, np.float32).astype(np.float64)  # the error of the inputs, after rounding
    bits = bound(schedule, prediction_type, x0, eps, t, wanted + rounded, variance)
    np.testing.assert_allclose(losses.parts["variational"], bits, rtol=RELATIVE)
    expected = per_example(rounded**2) + 0.001 * 1000 * bits
    np.testing.assert_allclose(losses.loss, expected, rtol=RELATIVE)


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize(
    ("stage", "variance_type"),
    [("keyframes", "learned_range"), ("keyframes", "fixed_small"), ("superres_latent", "learned_range")],
)
def test_a_network_with_a_variance_is_trained_by_the_hybrid_objective(stage: TrainedStage, variance_type: str) -> None:
    short = SQUARED_COSINE | {"variance_type": variance_type}
    changes = {"scheduler": scheduler(schedule=short), "variational_weight": 0.01}
    clip, network, losses = run(stage, variance=True, **changes)
    assert losses.timestep is not None
    output, variance = np.split(network.answers[0], 2, axis=-1)
    eps = gaussian("noise", CLIPS[stage])
    bits = [
        bound(SQUARED_COSINE, "epsilon", clip[rows], eps[rows], int(t), output[rows], variance[rows])
        for t, rows in zip(losses.timestep, np.arange(BATCH)[:, None], strict=True)
    ]
    expected = per_example((output.astype(np.float64) - eps) ** 2) + 0.01 * 1000 * np.concatenate(bits)
    np.testing.assert_allclose(losses.loss, expected, rtol=RELATIVE)


@functools.cache
def gradients(part: str) -> Callable[[Any, int], np.ndarray]:
    """Return the gradient of a loss, or of one of its parts, by the network's output, as a function of the timestep."""
    x0, eps = jnp.asarray(levels(2, 1, 1, 4, 4, 3)), jnp.asarray(normal(3, 1, 1, 4, 4, 3))

    def of(output: Any, t: Any) -> Any:
        losses = diffusion_losses(scheduler(), 0.001, x0, eps, output, t[None])
        return (losses.parts | {"loss": losses.loss})[part].sum()

    compiled = jax.jit(jax.grad(of))
    return lambda output, t: np.asarray(compiled(output, jnp.int32(t)))


@pytest.mark.parametrize("t", [0, 1, 400, 999])
def test_the_bound_trains_the_variance_and_nothing_else(t: int) -> None:
    output = jnp.asarray(normal(4, 1, 1, 4, 4, 6))
    simple, variational, loss = (gradients(part)(output, t) for part in ("simple", "variational", "loss"))
    assert not variational[..., :3].any()
    assert variational[..., 3:].all()
    assert not simple[..., 3:].any()
    np.testing.assert_allclose(loss[..., :3], simple[..., :3], rtol=1e-6)
    np.testing.assert_allclose(loss[..., 3:], variational[..., 3:], rtol=1e-6)


@pytest.mark.parametrize("t", [0, 1, 999])
@pytest.mark.parametrize("size", [0.0, 100.0])
def test_a_network_that_is_far_off_has_a_finite_gradient(t: int, size: float) -> None:
    prediction, variance = jnp.full((1, 1, 4, 4, 3), size), jnp.asarray(normal(4, 1, 1, 4, 4, 3))
    assert np.isfinite(gradients("loss")(jnp.concatenate([prediction, variance], axis=-1), t)).all()


def test_an_example_has_the_same_loss_in_any_part_of_the_batch() -> None:
    clip = jnp.asarray(levels(1, BATCH, 2, 4, 4, 3))

    def network(sample: Any, timestep: Any, text: Any, noise_level: Any) -> Any:
        level = (timestep + noise_level)[:, None, None, None, None].astype(jnp.float32) / 1000
        return sample[..., :3] + sample[..., 3:] * level

    losses = jax.jit(lambda rows: objective("superres_pixel")(network, clip[rows], TEXT[rows], KEYS[rows]))
    whole = losses(jnp.arange(BATCH))
    assert len(np.unique(whole.loss)) == BATCH
    # Each half is repeated, because another shape would be compiled again.
    for rows in (jnp.array([0, 1, 2, 2, 1, 0]), jnp.array([5, 4, 3, 3, 4, 5])):
        half = losses(rows)
        np.testing.assert_array_equal(half.timestep, whole.timestep[rows])
        np.testing.assert_array_equal(half.loss, whole.loss[rows])


def test_draws_are_a_function_of_key_and_purpose() -> None:
    keys, purposes = jax.random.split(jax.random.key(0), 4000), get_args(objectives.DrawPurpose)
    number, noise = jax.jit(
        lambda: (
            objectives._draw_below(keys, "timestep", 900),
            jnp.stack([objectives._draw_normal(keys, purpose, ()) for purpose in purposes]),
        )
    )()
    assert (number.min(), number.max()) == (0, 899)
    assert abs(number.mean() - 449.5) < 15
    assert abs(noise.std() - 1) < 0.02
    assert np.abs(np.corrcoef(noise) - np.eye(len(purposes))).max() < 0.1


@pytest.mark.usefixtures("draws")
@pytest.mark.parametrize(("stage", "last"), [("superres_latent", 899), ("keyframes", 999)])
def test_the_expert_is_trained_only_on_its_timesteps(stage: TrainedStage, last: int) -> None:
    timestep = np.asarray(run(stage)[2].timestep)
    assert (timestep.min(), timestep.max()) == (0, last)


@given(
    num_timesteps=st.integers(10, 1000),
    num_bands=st.sampled_from([1, 3, 10]),
    shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=20, max_size=20),
)
@settings(max_examples=30)
def test_bands_contain_their_timesteps(num_timesteps: int, num_bands: int, shares: Sequence[float]) -> None:
    timestep = np.array([int(share * num_timesteps) for share in shares], np.int32)
    loss = np.arange(1, len(shares) + 1, dtype=np.float32)
    sums, counts = band_sums(Losses(jnp.asarray(loss), jnp.asarray(timestep), {}), num_timesteps, num_bands)
    edges = [math.ceil(k * num_timesteps / num_bands) for k in range(num_bands + 1)]
    for band in range(num_bands):
        inside = (edges[band] <= timestep) & (timestep < edges[band + 1])
        assert (float(sums[band]), float(counts[band])) == (float(loss[inside].sum()), float(inside.sum()))


def test_losses_without_timesteps_are_in_no_band() -> None:
    sums, counts = band_sums(Losses(jnp.ones(2), None, {}), 1000, 3)
    np.testing.assert_array_equal(jnp.stack([sums, counts]), np.zeros((2, 3)))


class FakeAutoencoder(Autoencoder):
    """An autoencoder that takes every other pixel, makes four channels from three, and computes a variance."""

    def __init__(self) -> None:
        self.config = VAE

    def encode(self, video: Any) -> tuple[Any, Any]:
        mean = jnp.concatenate([video, video[..., :1]], axis=-1)[:, :, ::2, ::2]
        return mean, 2 * mean - 1

    def decode(self, latents: Any) -> Any:
        return jnp.tanh(jnp.repeat(jnp.repeat(latents[..., :3], 2, axis=2), 2, axis=3))


def encoded(video: np.ndarray, noise: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    video = video.astype(np.float64)
    mean = np.concatenate([video, video[..., :1]], axis=-1)[:, :, ::2, ::2]
    return mean, 2 * mean - 1, mean + np.exp(mean - 0.5) * np.asarray(noise, np.float64)


@pytest.mark.parametrize(("error", "of_pixels"), [("absolute", np.abs), ("squared", np.square)])
@pytest.mark.usefixtures("draws")
def test_the_autoencoder_is_trained_on_error_and_divergence(error: str, of_pixels: Any) -> None:
    clip = levels(1, BATCH, 1, 8, 6, 3)
    losses = objective("autoencoder", error=error, kl_weight=0.5)(FakeAutoencoder(), jnp.asarray(clip), None, KEYS)
    mean, logvar, latents = encoded(clip, gaussian("posterior", (1, 4, 3, 4)))
    decoded = np.tanh(latents[..., :3].repeat(2, axis=2).repeat(2, axis=3))
    reconstruction = per_example(of_pixels(clip - decoded))
    kl = (mean**2 + np.exp(logvar) - 1 - logvar).sum(axis=(1, 2, 3, 4)) / 2 / (8 * 6 * 3)
    np.testing.assert_allclose(losses.loss, reconstruction + 0.5 * kl, rtol=RELATIVE)
    np.testing.assert_allclose(losses.parts["reconstruction"], reconstruction, rtol=RELATIVE)
    np.testing.assert_allclose(losses.parts["kl"], kl, rtol=RELATIVE)
    assert losses.timestep is None
    moments = [float(losses.parts[name].mean()) for name in ("latent_mean", "latent_mean_square")]
    assert latent_std(*moments) == pytest.approx(latents.std(), rel=1e-5)


def test_constant_latents_have_no_deviation() -> None:
    assert latent_std(0.3, 0.09 - 1e-9) == 0


@pytest.mark.usefixtures("draws")
def test_latents_are_sampled_and_scaled() -> None:
    clip = levels(1, BATCH, 3, 8, 6, 3)
    latents = encode_latents(FakeAutoencoder(), jnp.asarray(clip), KEYS)
    expected = encoded(clip, gaussian("posterior", (3, 4, 3, 4)))[2] * 0.2
    np.testing.assert_allclose(latents, expected, atol=1e-6)


@pytest.mark.usefixtures("draws")
def test_the_loss_of_a_bfloat16_network_is_float32() -> None:
    def network(sample: Any, *conditions: Any) -> Any:
        return sample.astype(jnp.bfloat16)

    assert objective("keyframes")(network, jnp.zeros((BATCH, 1, 2, 2, 3)), TEXT, KEYS).loss.dtype == jnp.float32


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("keyframes", {"architecture": unet("keyframes", out_channels=4)}, "out_channels=4 .* 3, or 6"),
        ("superres_latent", {"architecture": unet("superres_latent", out_channels=6)}, "out_channels=6 .* 4, or 8"),
        ("keyframes", {"architecture": unet("interpolation")}, "in_channels=7 .* 3"),
        ("interpolation", {"architecture": unet("keyframes")}, "in_channels=3 .* 7"),
        ("superres_pixel", {"architecture": unet("keyframes")}, "in_channels=3 .* 6"),
        ("first_frame", {"architecture": unet("first_frame", noise_level_embedding=False)}, "noise_level_embedding"),
        ("keyframes", {"architecture": unet("keyframes", noise_level_embedding=True)}, "noise_level_embedding"),
        ("keyframes", {"num_timesteps": 1001}, "num_timesteps=1001 .* 1000"),
        ("interpolation", {"max_noise_level": 1001}, "max_noise_level=1001 .* 1000"),
        ("first_frame", {"max_noise_level": 1001}, "max_noise_level=1001 .* 1000"),
        ("first_frame", {"max_noise_level": 150}, "max_noise_level=150 .* noise_level=150"),
        ("superres_pixel", {"max_noise_level": 250}, "max_noise_level=250 .* noise_level=250"),
        ("keyframes", {"scheduler": None}, "no scheduler"),
        ("first_frame", {"noising_scheduler": None}, "image_noising_scheduler"),
        ("superres_pixel", {"noising_scheduler": None}, "image_noising_scheduler"),
        ("keyframes", {"variance": True, "scheduler": scheduler(variance_type="learned")}, "'learned_range'"),
        ("keyframes", {"variance": True, "scheduler": scheduler(schedule=LINEAR, beta_start=0.0)}, "beta of 0"),
        ("autoencoder", {"architecture": dataclasses.replace(VAE, out_channels=6)}, "out_channels=6 .* 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(stage: TrainedStage, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"stage {stage}: .*{message}"):
        objective(stage, **changes)


def test_a_schedule_of_one_timestep_trains_no_variance() -> None:
    short = scheduler(schedule=LINEAR, num_train_timesteps=1)
    assert objective("keyframes", scheduler=short, num_timesteps=1, num_bands=1)
    with pytest.raises(UserError, match="one timestep"):
        objective("keyframes", variance=True, scheduler=short, num_timesteps=1, num_bands=1)


@pytest.mark.usefixtures("draws")
def test_a_size_that_the_scale_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"8x10 .* scale=4"):
        objective("first_frame")(Network(3), jnp.zeros((BATCH, 1, 8, 10, 3)), TEXT, KEYS)


@pytest.mark.usefixtures("draws")
def test_an_output_of_other_channels_is_refused() -> None:
    answer = SimpleNamespace(astype=lambda dtype: jnp.zeros((BATCH, 3, 4, 5, 5)))
    with pytest.raises(UserError, match="5 channels"):
        objective("keyframes")(lambda *conditions: answer, jnp.zeros((BATCH, 3, 4, 5, 3)), TEXT, KEYS)
