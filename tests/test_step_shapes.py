"""The shapes of a denoising step are those that the cascade samples with; its networks here are random ones."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.random_cascade import random_cascade
from show1_jax import stages
from show1_jax.denoise import Condition
from show1_jax.sampling_config import STAGES, Stage
from show1_jax.step_shapes import StepShapes, step_shapes
from tests import tiny_config


def test_steps_have_the_shapes_that_the_cascade_samples_with(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config.settings()
    cascade = random_cascade(config, jax.devices()[:1])
    calls: list[StepShapes] = []
    made: dict[Stage, list[StepShapes]] = {}

    def denoise(network: object, sampler: object, sample: Any, condition: Condition, *_: object) -> Any:
        level = None if condition.noise_level is None else jax.ShapeDtypeStruct((), jnp.int32)
        shapes = jax.eval_shape(lambda *arrays: arrays, sample, condition.text, condition.channels)
        calls.append(StepShapes(shapes[0], shapes[1], shapes[2], level))
        return sample

    def on_stage(stage: Stage, video: object) -> None:
        made[stage] = calls.copy()
        calls.clear()

    monkeypatch.setattr(stages, "denoise", denoise)
    monkeypatch.setattr(stages, "encoder_program", lambda graph, mesh: lambda weights, video, noise: noise)
    monkeypatch.setattr(stages, "decoder_program", lambda graph, mesh: lambda weights, latents: latents)
    cascade.sample(["a red circle", "a square"], on_stage=on_stage)
    architecture = {name: cascade.architecture(name) for name in config.architecture}
    for stage in STAGES:
        stated = step_shapes(config, stage, architecture, jnp.float32, batch_size=2)
        assert all(plain(shapes) == plain(stated) for shapes in made[stage]), stage
        assert made[stage], stage


def plain(shapes: StepShapes) -> list[Any]:
    return [None if leaf is None else (leaf.shape, leaf.dtype) for leaf in shapes]
