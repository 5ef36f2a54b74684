"""Every network compared with one recorded call of the original, through the production converter, in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from show1_jax.cascade.cascade import Cascade
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.nn.vae import Autoencoder
from tests.helpers.recorded import NAMES, SHIPPED_EMITTERS, RecordedRun, relative_error, to_ours

TOLERANCE = 3e-5
compiled = functools.partial(jax.jit, compiler_options=SHIPPED_EMITTERS)


@pytest.mark.parametrize("stage", STAGES)
def test_unet(cascade: Cascade, run: RecordedRun, stage: Stage) -> None:
    recorded = {
        part: run.trace[name]
        for part in ("sample", "timestep", "text", "noise_level", "output")
        if (name := f"unet/{NAMES[stage]}/{part}") in run.trace
    }

    def batch(part: str) -> np.ndarray:
        array = recorded[part]
        return to_ours(array) if array.ndim == 5 else rearrange(array, "b c h w -> b 1 h w c")

    level = recorded.get("noise_level")
    with cascade.network(stage) as network:
        output = compiled(lambda weights, *inputs: nnx.merge(network.graph, weights)(*inputs))(
            network.weights,
            jnp.asarray(batch("sample")),
            jnp.asarray(recorded["timestep"].astype(np.int32)),
            jnp.asarray(recorded["text"]),
            None if level is None else jnp.asarray(level.astype(np.int32)),
        )
    assert relative_error(output, batch("output")) <= TOLERANCE


def test_autoencoder(cascade: Cascade, run: RecordedRun) -> None:
    trace = run.trace
    with cascade.network("vae") as network:
        autoencoder = nnx.merge(network.graph, network.weights)
        assert isinstance(autoencoder, Autoencoder)
        mean, logvar = compiled(autoencoder.encode)(to_ours(trace["vae/image"]))
        decoded = compiled(autoencoder.decode)(mean)
    assert relative_error(mean, to_ours(trace["vae/mean"])) <= TOLERANCE
    assert relative_error(logvar, to_ours(trace["vae/logvar"])) <= TOLERANCE
    assert relative_error(decoded, to_ours(trace["vae/decoded"])) <= TOLERANCE
