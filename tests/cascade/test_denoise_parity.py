"""Every recorded denoising step's network and guidance, from the recorded sample, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.denoise import guided_output
from show1_jax.config.sampling import STAGES, Stage
from tests.helpers.recorded import SHIPPED_EMITTERS, RecordedRun, relative_error, to_ours

TOLERANCE = 1e-4


@pytest.mark.parametrize("stage", STAGES)
def test_network_and_guidance_of_every_step(cascade: Cascade, run: RecordedRun, stage: Stage) -> None:
    errors = step_errors(cascade, run, stage)
    assert len(errors) == sum(len(run.trace[f"steps/{name}/timestep"]) for name in run.window_names(stage))
    assert max(errors) <= TOLERANCE


def step_errors(cascade: Cascade, run: RecordedRun, stage: Stage) -> list[float]:
    """Return the relative error of each step's guided output, for all windows."""
    config = run.config().stage(stage)
    level = getattr(config, "noise_level", None)
    text = cascade.encode_prompts([stage], [run.settings["prompt"]])[stage]
    errors = []
    with cascade.network(stage) as network:
        program = jax.jit(functools.partial(guided_output, network.graph), compiler_options=SHIPPED_EMITTERS)
        for name in run.window_names(stage):
            condition = run.trace.get(f"condition/{name}")
            channels = None if condition is None else jnp.asarray(to_ours(condition))
            recorded = {part: run.trace[f"steps/{name}/{part}"] for part in ("timestep", "sample", "model_output")}
            for step, timestep in enumerate(recorded["timestep"]):
                output, _ = program(
                    network.weights,
                    jnp.asarray(rearrange(recorded["sample"][step], "t c h w -> 1 t h w c")),
                    None,
                    np.int32(timestep),
                    np.float32(config.guidance_scale),
                    text,
                    channels,
                    None if level is None else np.int32(level),
                )
                expected = rearrange(recorded["model_output"][step], "t c h w -> 1 t h w c")
                errors.append(relative_error(output[..., : expected.shape[-1]], expected))
    return errors
