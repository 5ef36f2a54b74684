"""Whole programs that are traced for an NVIDIA GPU and lowered for CUDA, without one, have its variants."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.programs import as_sampled, denoising_step
from show1_jax.checkpoints.networks import make_network
from show1_jax.config.sampling import SamplingMeshConfig, Stage
from show1_jax.nn.config import UNetConfig
from show1_jax.ops.target import traced_for
from tests.helpers import cudnn, tiny_config

SIDE, FRAMES = 16, 5
"""Enough pixels for cuDNN's attention, and few enough frames for elementwise attention."""
ARCHITECTURES = {"pixel": tiny_config.UNET | {"in_channels": 3}, "latent": tiny_config.LATENT_UNET}


@pytest.fixture(autouse=True)
def nvidia(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give GPUs cuDNN; Flax's norms in half precision need the standard type promotion."""
    cudnn.emulate(monkeypatch)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("mesh", [SamplingMeshConfig(), SamplingMeshConfig(guidance=2), SamplingMeshConfig(height=2)])
@pytest.mark.parametrize(("stage", "calls"), [("keyframes", 1), ("superres_pixel", 1), ("superres_latent", 2)])
def test_a_denoising_step(tiny_checkpoint: Path, stage: Stage, calls: int, mesh: SamplingMeshConfig) -> None:
    """Both branches of guidance may be on two devices; where rows are sharded, plain operations keep them so."""
    config = dataclasses.replace(tiny_config.settings(), mesh=mesh, precision="bfloat16")
    config = dataclasses.replace(config, keyframes=dataclasses.replace(config.keyframes, height=SIDE, width=SIDE))
    latent = dataclasses.replace(config.superres_latent, height=2 * SIDE, width=2 * SIDE)
    config = dataclasses.replace(config, superres_latent=latent)
    spec = Cascade.load(tiny_checkpoint, config, devices=jax.devices()[: mesh.guidance * mesh.height]).spec
    texts = {}
    with as_sampled(spec):
        for platform in ("cpu", "gpu"):
            with traced_for(platform):
                texts[platform] = denoising_step(spec, stage).trace().lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" not in texts["cpu"]
    assert texts["gpu"].count("__cudnn$fmhaSoftmax") == (calls if mesh.height == 1 else 0)
    channels = {
        platform: [int(found) for found in re.findall(r"stablehlo\.convolution.*: \(tensor<[\dx]*?(\d+)xbf16>", text)]
        for platform, text in texts.items()
    }
    assert min(channels["cpu"]) < min(channels["gpu"]) == 8
    has_threshold = stage != "superres_latent"
    assert ("stablehlo.sort" in texts["gpu"]) == (has_threshold and mesh == SamplingMeshConfig())
    assert "stablehlo.sort" not in texts["cpu"]


@pytest.mark.parametrize(("kind", "calls"), [("pixel", 1), ("latent", 2)])
def test_the_gradient_of_a_network(kind: str, calls: int) -> None:
    architecture = UNetConfig.from_dict(ARCHITECTURES[kind])
    graph, weights = nnx.split(make_network("unet", architecture, dtype=jnp.bfloat16, param_dtype=np.float32))

    def loss(weights: nnx.State, sample: Array, text: Array) -> Array:
        return jnp.square(nnx.merge(graph, weights)(sample, jnp.array([3]), text)).mean()

    shapes = ((1, FRAMES, SIDE, SIDE, architecture.in_channels), (1, 77, architecture.raw_text_dim))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    texts = {}
    for platform in ("cpu", "gpu"):
        with traced_for(platform):
            traced = jax.jit(jax.grad(loss)).trace(weights, *inputs)
            texts[platform] = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" not in texts["cpu"]
    assert texts["gpu"].count("__cudnn$fmhaSoftmaxBackward") == calls
