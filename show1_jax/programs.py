"""The programs that sampling compiles, and their arguments as shapes: to size, count or time them without sampling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from show1_jax.denoise import step_program
from show1_jax.manifest import Manifest
from show1_jax.models import LoadedNetwork, abstract_network, exact_float32
from show1_jax.parallel import batch_sharding
from show1_jax.samplers import Sampler
from show1_jax.sampling_config import STAGES, CascadeConfig, Stage
from show1_jax.stages import decoder_program, encoder_program
from show1_jax.step_shapes import StepShapes, step_shapes
from show1_jax.text.encoders import encoder_of_kind
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.streaming import EMBEDDING, block_path, embed_tokens, run_block
from show1_jax.text.tokenizers import MAX_LENGTH, Tokens
from show1_jax.weights import WeightPath

LATENT_STAGE: Final = STAGES[-1]


class Described(Protocol):
    """What is to be known of a `Cascade`; none of it is a weight."""

    config: CascadeConfig
    manifest: Manifest
    mesh: Mesh
    dtype: jnp.dtype

    def architecture(self, component: str) -> Any:
        """What the checkpoint says of a component's network."""

    def sampler(self, stage: Stage) -> Sampler:
        """The timesteps and coefficients with which a stage is sampled."""


class Program(NamedTuple):
    """A jitted function and what it is called with: arrays, or their shapes and places."""

    function: Any
    arguments: tuple[Any, ...]
    weights: Any
    """Those of the arguments that are a network's weights."""

    def trace(self) -> Any:
        """The function traced for these arguments; `.lower().compile()` does the rest."""
        return self.function.trace(*self.arguments)


@contextmanager
def as_sampled(cascade: Described) -> Iterator[None]:
    """A block in which programs are traced as `Cascade.sample` traces them."""
    with exact_float32(cascade.dtype), jax.set_mesh(cascade.mesh):
        yield


def step_of(
    cascade: Described,
    stage: Stage,
    batch_size: int = 1,
    network: LoadedNetwork | None = None,
    halves_in_turn: bool = False,
) -> Program:
    """One denoising step of a stage.

    Args:
        cascade: whose settings, mesh and architectures are taken.
        stage: whose step.
        batch_size: videos.
        network: with its weights; their shapes if not given.
        halves_in_turn: of guidance; see `show1_jax.denoise.guided_output`.
    """
    network = network or _abstract(cascade, stage)
    sampler = cascade.sampler(stage)
    shapes = _shapes(cascade, stage, batch_size)
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
    return Program(step_program(network.graph, sampler, cascade.mesh, halves_in_turn), arguments, network.weights)


def text_encoding(cascade: Described, component: str, batch_size: int = 1) -> Program:
    """The states of a batch of texts, by one of the two text encoders."""
    network = _abstract(cascade, component)
    ids = _placed(cascade, jax.ShapeDtypeStruct((batch_size, MAX_LENGTH), jnp.int32))
    encoder = encoder_of_kind(cascade.manifest.component(component).kind)
    arguments = (encoder, network.graph, network.weights, Tokens(ids, ids), cascade.config.text_padding)
    return Program(encode_text_jit, arguments, network.weights)


def text_parts(cascade: Described, component: str, batch_size: int = 1) -> tuple[Program, Program]:
    """The two large parts of the T5 encoder, for a batch of texts: the table of tokens, and the first block.

    The other blocks are as large, but for a table of positions.
    """
    architecture = cascade.architecture(component)
    table, block = (_abstract(cascade, component, path) for path in (EMBEDDING, block_path(0)))
    ids = _placed(cascade, jax.ShapeDtypeStruct((batch_size, MAX_LENGTH), jnp.int32))
    states = _placed(cascade, jax.ShapeDtypeStruct((batch_size, MAX_LENGTH, architecture.d_model), jnp.float32))
    bias = jax.ShapeDtypeStruct((architecture.num_heads, MAX_LENGTH, MAX_LENGTH), jnp.float32)
    mask = _placed(cascade, jax.ShapeDtypeStruct((batch_size, 1, MAX_LENGTH), jnp.bool_))
    return (
        Program(embed_tokens, (table.graph, table.weights, ids), table.weights),
        Program(run_block, (block.graph, block.weights, states, bias, mask), block.weights),
    )


def autoencoder_programs(cascade: Described, batch_size: int = 1) -> tuple[Program, Program]:
    """The video's way into the latent stage, and out of it."""
    network, config = _abstract(cascade, "vae"), cascade.config.superres_latent
    shape = _shapes(cascade, LATENT_STAGE, batch_size).sample
    latents = _placed(cascade, shape)
    video = _placed(cascade, jax.ShapeDtypeStruct((*shape.shape[:2], config.height, config.width, 3), shape.dtype))
    return (
        Program(encoder_program(network.graph, cascade.mesh), (network.weights, video, latents), network.weights),
        Program(decoder_program(network.graph, cascade.mesh), (network.weights, latents), network.weights),
    )


def _shapes(cascade: Described, stage: Stage, batch_size: int) -> StepShapes:
    components = (stage, "vae") if stage == LATENT_STAGE else (stage,)
    architecture = {name: cascade.architecture(name) for name in components}
    return step_shapes(cascade.config, stage, architecture, cascade.dtype, batch_size)


def _abstract(cascade: Described, component: str, part: WeightPath = ()) -> LoadedNetwork:
    return abstract_network(cascade.manifest.component(component), cascade.mesh, cascade.dtype, part)


def _placed(cascade: Described, leaf: jax.ShapeDtypeStruct | None) -> Any:
    if leaf is None:
        return None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(cascade.mesh))
