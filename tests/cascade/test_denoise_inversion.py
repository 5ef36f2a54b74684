"""DDIM inversion through the denoising loop, with a network that also predicts a variance."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.denoise import Condition, denoise
from show1_jax.diffusion.inversion import make_inversion
from show1_jax.diffusion.samplers import Sampler, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig
from tests.helpers import tiny_config

SCHEDULER = SchedulerConfig.from_json(tiny_config.DDPM)
DDIM = dataclasses.replace(SCHEDULER.with_sampler("ddim"), clip_sample=False, thresholding=False)


def test_sampling_returns_to_the_video(tiny_checkpoint: Path) -> None:
    """More steps, and more iterations, come nearer."""
    cascade = Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])
    random = np.random.default_rng(0)
    video = random.uniform(-1, 1, (1, 3, 8, 8, 3)).astype(np.float32)
    text = jnp.asarray(random.standard_normal((1, 1, 3, tiny_config.TEXT_DIM)), jnp.float32)

    def run(sampler: Sampler, start: np.ndarray) -> np.ndarray:
        result = denoise(
            *(network, sampler, jnp.asarray(start)),
            condition=Condition(text),
            guidance_scale=1.0,
            step_noise=lambda step: pytest.fail("noise is drawn"),
            mesh=cascade.spec.mesh,
        )
        return np.asarray(result)

    def error(num_steps: int, iterations: int = 1) -> float:
        sampler = make_sampler(DDIM, num_steps, strength=0.6)
        last = int(sampler.timesteps[0])
        noise = run(make_inversion(SCHEDULER, num_steps, last_timestep=last, iterations=iterations), video)
        assert np.abs(noise - video).max() > 0.5
        return float(np.sqrt(np.mean((run(sampler, noise) - video) ** 2)))

    with cascade.network("keyframes") as network:
        errors = [error(5), error(30), error(30, iterations=3)]
    assert errors[0] <= 0.4, errors
    assert errors[1] <= errors[0] / 2, errors
    assert errors[2] <= errors[1] / 10, errors
