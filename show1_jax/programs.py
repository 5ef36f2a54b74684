"""The programs that sampling compiles, and their arguments as shapes: to size, count or time them without sampling."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from show1_jax.cascade import Cascade
from show1_jax.config import VAEConfig
from show1_jax.denoise import step_program
from show1_jax.models import LoadedNetwork, abstract_network, exact_float32
from show1_jax.parallel import batch_sharding
from show1_jax.sampling_config import STAGES, Stage
from show1_jax.stages import decode_latents, encode_frames
from show1_jax.step_shapes import step_shapes
from show1_jax.text.encoding import Tokens, encode_text_jit
from show1_jax.text.tokenizers import MAX_LENGTH

LATENT_STAGE: Final = STAGES[-1]


class Program(NamedTuple):
    """A jitted function and what it is called with: arrays, or their shapes and places."""

    function: Any
    arguments: tuple[Any, ...]

    def trace(self) -> Any:
        """The function traced for these arguments; `.lower().compile()` does the rest."""
        return self.function.trace(*self.arguments)


@contextmanager
def as_sampled(cascade: Cascade) -> Iterator[None]:
    """A block in which programs are traced as `Cascade.sample` traces them."""
    with exact_float32(cascade.dtype), jax.set_mesh(cascade.mesh):
        yield


def step_of(cascade: Cascade, stage: Stage, batch_size: int = 1, network: LoadedNetwork | None = None) -> Program:
    """One denoising step of a stage.

    Args:
        cascade: whose settings, mesh and architectures are taken.
        stage: whose step.
        batch_size: videos.
        network: with its weights; their shapes if not given.
    """
    network = network or _abstract(cascade, stage)
    sampler = cascade.sampler(stage)
    architecture = {name: cascade.architecture(name) for name in (stage, "vae") if name in cascade.manifest.components}
    shapes = step_shapes(cascade.config, stage, architecture, cascade.dtype, batch_size)
    sample, text, channels = (_placed(cascade, shape) for shape in (shapes.sample, shapes.text, shapes.channels))
    arguments = (
        network.weights,
        jax.tree.map(lambda leaf: _placed(cascade, leaf), jax.eval_shape(sampler.init, shapes.sample)),
        sampler.coefficients(0),
        sample if sampler.takes_noise else None,
        sampler.timesteps[0],
        np.float32(cascade.config.stage(stage).guidance_scale),
        text,
        channels,
        None if shapes.noise_level is None else np.int32(0),
    )
    return Program(step_program(network.graph, sampler), arguments)


def text_encoding(cascade: Cascade, component: str, batch_size: int = 1) -> Program:
    """The states of a batch of texts, by one of the two text encoders."""
    network = _abstract(cascade, component)
    ids = _placed(cascade, jax.ShapeDtypeStruct((batch_size, MAX_LENGTH), jnp.int32))
    return Program(encode_text_jit, (network.graph, network.weights, Tokens(ids, ids), cascade.config.text_padding))


def autoencoder_programs(cascade: Cascade, batch_size: int = 1) -> dict[str, Program]:
    """The video's way into the latent stage and out of it."""
    network, vae = _abstract(cascade, "vae"), cascade.architecture("vae")
    assert isinstance(vae, VAEConfig)
    latents = step_shapes(
        cascade.config, LATENT_STAGE, {name: cascade.architecture(name) for name in (LATENT_STAGE, "vae")}, jnp.float32
    ).sample
    config = cascade.config.superres_latent
    video = jax.ShapeDtypeStruct((batch_size, latents.shape[1], config.height, config.width, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((batch_size, *latents.shape[1:]), jnp.float32)
    placed_video, placed_latents = _placed(cascade, video), _placed(cascade, latents)
    return {
        "encode_frames": Program(encode_frames, (network.graph, network.weights, placed_video, placed_latents)),
        "decode_latents": Program(decode_latents, (network.graph, network.weights, placed_latents)),
    }


def stage_programs(cascade: Cascade, stages: Sequence[Stage], batch_size: int = 1) -> dict[str, Program]:
    """Every program of these stages, in the order in which they are run."""
    programs: dict[str, Program] = {}
    if set(stages) - {LATENT_STAGE}:
        programs["text_t5"] = text_encoding(cascade, "text_t5", batch_size)
    if LATENT_STAGE in stages:
        programs["text_clip"] = text_encoding(cascade, "text_clip", batch_size)
    programs |= {stage: step_of(cascade, stage, batch_size) for stage in STAGES if stage in stages}
    if LATENT_STAGE in stages:
        programs |= autoencoder_programs(cascade, batch_size)
    return programs


def _abstract(cascade: Cascade, component: str) -> LoadedNetwork:
    return abstract_network(cascade.manifest.component(component), cascade.mesh, cascade.dtype)


def _placed(cascade: Cascade, leaf: jax.ShapeDtypeStruct | None) -> Any:
    if leaf is None:
        return None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(cascade.mesh))
