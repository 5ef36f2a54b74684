"""The shapes of a denoising step are those that the cascade samples with."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.conditions import SAMPLING, StageContext
from show1_jax.cascade.denoise import Condition
from show1_jax.cascade.noise import SeededNoise
from show1_jax.cascade.programs import StepShapes, step_shapes
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.nn.config import VAEConfig
from tests.helpers import tiny_config

PROMPTS = ["a red circle", "a square"]


class Unchanged:
    """A codec that returns its input in the expected shape."""

    def __init__(self, architecture: VAEConfig):
        self.architecture = architecture

    def encode(self, video: Array, noise: Array) -> Array:
        return noise

    def decode(self, latents: Array) -> Array:
        return jnp.repeat(jnp.repeat(latents[..., :3], 2, axis=2), 2, axis=3)


@pytest.fixture(scope="module")
def cascade(tiny_checkpoint: Path) -> Cascade:
    return Cascade.load(tiny_checkpoint, tiny_config.settings(), jax.devices()[:1])


def test_steps_have_the_shapes_that_the_cascade_samples_with(cascade: Cascade) -> None:
    spec, texts = cascade.spec, cascade.encode_prompts(STAGES, PROMPTS)
    videos: dict[Stage, Any] = {}
    for stage in STAGES:
        steps: list[StepShapes] = []

        def denoise(
            network: object, sampler: object, sample: Array, *, condition: Condition, steps: Any = steps, **_: object
        ) -> Array:
            level = None if condition.noise_level is None else jax.ShapeDtypeStruct((), jnp.int32)
            arrays = (sample, condition.text, condition.channels)
            sample_shape, text, channels = jax.eval_shape(lambda *given: given, *arrays)
            steps.append(StepShapes(sample_shape, text, channels, level))
            return sample

        with cascade.network(stage) as network:
            context = StageContext(
                stage=stage,
                network=network,
                scheduler=spec.scheduler(stage),
                noising_scheduler=spec.noising_scheduler(stage),
                text=texts[stage],
                noise=SeededNoise([0, 1], spec.mesh),
                mesh=spec.mesh,
                on_step=lambda done, total: None,
                codec=Unchanged(spec.architecture("vae")),
                denoise=denoise,
            )
            videos[stage] = SAMPLING[stage](context, spec.config, videos)
        stated = step_shapes(spec, stage, batch_size=len(PROMPTS))
        assert steps
        assert all(plain(shapes) == plain(stated) for shapes in steps), stage
        assert videos[stage].shape[1] == {"keyframes": 3, "first_frame": 1}.get(stage, 5)


def plain(shapes: StepShapes) -> list[Any]:
    return [None if leaf is None else (leaf.shape, leaf.dtype) for leaf in shapes]
