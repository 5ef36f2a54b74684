"""What one denoising step of each stage takes, as shapes alone: to compile, count or time it without sampling."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from show1_jax.config import Architecture, UNetConfig, VAEConfig
from show1_jax.sampling_config import CascadeConfig, Stage
from show1_jax.text.tokenizers import MAX_LENGTH
from show1_jax.windows import num_interpolated


class StepShapes(NamedTuple):
    """The arrays of one step; see `show1_jax.denoise.Condition`."""

    sample: jax.ShapeDtypeStruct
    text: jax.ShapeDtypeStruct
    channels: jax.ShapeDtypeStruct | None
    noise_level: jax.ShapeDtypeStruct | None


def step_shapes(
    config: CascadeConfig,
    stage: Stage,
    architecture: Mapping[str, Architecture],
    dtype: DTypeLike,
    batch_size: int = 1,
) -> StepShapes:
    """The shapes of one denoising step.

    Args:
        config: says the sizes.
        stage: whose step.
        architecture: of the stage's network by its name, and for the latent stage that of `vae`.
        dtype: of the text states, which are as the networks compute.
        batch_size: videos.
    """
    network = architecture[stage]
    assert isinstance(network, UNetConfig)
    keyframes, between, scale = config.keyframes, config.interpolation.num_between, config.first_frame.scale
    frames, windows, height, width = keyframes.num_frames, 1, keyframes.height, keyframes.width
    channels = network.in_channels if stage == "superres_latent" else 3
    match stage:
        case "interpolation":
            frames, windows = between + 2, keyframes.num_frames - 1
        case "first_frame":
            frames, height, width = 1, height * scale, width * scale
        case "superres_pixel":
            frames = min(config.superres_pixel.window, num_interpolated(frames, between))
            height, width = height * scale, width * scale
        case "superres_latent":
            vae, latent = architecture["vae"], config.superres_latent
            assert isinstance(vae, VAEConfig)
            frames = num_interpolated(frames, between)
            height, width = latent.height // vae.size_multiple, latent.width // vae.size_multiple
    halves = 1 if config.guided_away_from(stage) is None else 2
    video, told = (batch_size * windows, frames, height, width), network.in_channels - channels
    return StepShapes(
        sample=_float32(*video, channels),
        text=jax.ShapeDtypeStruct((batch_size * windows, halves, MAX_LENGTH, network.raw_text_dim), dtype),
        channels=_float32(*video, told) if told else None,
        noise_level=jax.ShapeDtypeStruct((), jnp.int32) if network.noise_level_embedding else None,
    )


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
