"""Programs that sampling compiles, with the shapes of their arguments, to measure them without sampling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from show1_jax.cascade.denoise import EVERY_BRANCH_AND_LEVEL, StepKind, step_program
from show1_jax.cascade.latents import decoder_program, encoder_program, latent_shape
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE
from show1_jax.checkpoints.networks import LoadedNetwork, abstract_network
from show1_jax.config.sampling import Stage
from show1_jax.diffusion.inversion import make_inversion
from show1_jax.nn.config import UNetConfig
from show1_jax.parallel import batch_sharding, platform_of, stored_sharding
from show1_jax.parallel.weights import WeightPath
from show1_jax.runtime import exact_float32, with_weight_formats
from show1_jax.text.encoders import TEXT_ENCODERS
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.streaming import EMBEDDING, block_path, embed_tokens, run_block
from show1_jax.text.tokenizers import Tokens


class Program(NamedTuple):
    """A jitted function and its arguments.

    Attributes:
        function: jitted function.
        arguments: arrays, or shapes with shardings.
        weights: those of the arguments that are a network's weights.
    """

    function: Any
    arguments: tuple[Any, ...]
    weights: Any

    def trace(self) -> Any:
        """Trace the function for the arguments; `.lower().compile()` compiles the result."""
        return self.function.trace(*self.arguments)


class StepShapes(NamedTuple):
    """Shapes of the arrays of one denoising step; see `show1_jax.cascade.denoise.Condition`."""

    sample: jax.ShapeDtypeStruct
    text: jax.ShapeDtypeStruct
    channels: jax.ShapeDtypeStruct | None
    noise_level: jax.ShapeDtypeStruct | None


@contextmanager
def as_sampled(spec: CascadeSpec) -> Iterator[None]:
    """Use the precision and the mesh of `Cascade.sample` for programs that are traced in the block."""
    with exact_float32(spec.dtype), jax.set_mesh(spec.mesh):
        yield


def step_shapes(spec: CascadeSpec, stage: Stage, batch_size: int = 1) -> StepShapes:
    """Return the shapes of one denoising step of a stage, for a batch of videos."""
    row, config = STAGE_TABLE[stage], spec.config
    network = spec.architecture(stage)
    assert isinstance(network, UNetConfig)
    batch = batch_size * row.num_clips(config)
    shape = clip_shape(spec, stage)
    length = TEXT_ENCODERS[row.text_encoder].length
    branches = 1 if config.negative_text(stage) is None else 2
    condition = (batch, *shape[:3], row.condition_channels)
    return StepShapes(
        sample=_float32_shape(batch, *shape),
        text=jax.ShapeDtypeStruct((batch, branches, length, network.raw_text_dim), spec.dtype),
        channels=_float32_shape(*condition) if row.condition_channels else None,
        noise_level=jax.ShapeDtypeStruct((), jnp.int32) if row.is_noised else None,
    )


def clip_shape(spec: CascadeSpec, stage: Stage) -> tuple[int, int, int, int]:
    """Return the shape of a stage's noisy sample, (time, height, width, channels): pixels, or latents."""
    row, config = STAGE_TABLE[stage], spec.config
    frames = min(row.clip_frames(config), row.num_frames(config))
    height, width = spec.sizes({})[stage]
    if row.is_latent:
        return latent_shape(spec.architecture(AUTOENCODER), frames, height, width)
    return frames, height, width, spec.sample_channels(stage)


def denoising_step(
    spec: CascadeSpec,
    stage: Stage,
    batch_size: int = 1,
    network: LoadedNetwork | None = None,
    kind: StepKind = EVERY_BRANCH_AND_LEVEL,
    sequential_guidance: bool = False,
    inversion_steps: int = 0,
) -> Program:
    """Return one denoising step of a stage; `CascadeSpec.step_kinds` are the kinds of its steps.

    Args:
        spec: settings, mesh and architectures.
        stage: name of the stage.
        batch_size: number of videos.
        network: network with its weights; by default their shapes are used.
        kind: kind of the step.
        sequential_guidance: see `show1_jax.cascade.denoise.guided_output`.
        inversion_steps: above 0, a step of DDIM inversion with so many steps is returned instead, without guidance.
    """
    network = network or _abstract(spec, stage)
    sampler = spec.sampler(stage)
    shapes = step_shapes(spec, stage, batch_size)
    if inversion_steps:
        sampler = make_inversion(spec.scheduler(stage), inversion_steps)
        batch, _, *rest = shapes.text.shape
        shapes = shapes._replace(text=jax.ShapeDtypeStruct((batch, 1, *rest), shapes.text.dtype))
    sample, text, channels = (_batch_sharded(spec, shape) for shape in (shapes.sample, shapes.text, shapes.channels))
    arguments = (
        network.weights,
        jax.tree.map(lambda leaf: _batch_sharded(spec, leaf), jax.eval_shape(sampler.init, shapes.sample)),
        None if kind.deep != "reused" else _kept(spec, stage, batch_size, kind),
        sampler.coefficients(0),
        sample if sampler.takes_noise else None,
        sampler.timesteps[0],
        np.float32(spec.config.stage(stage).guidance_scale),
        text,
        channels,
        None if shapes.noise_level is None else np.int32(0),
    )
    program = step_program(network.graph, sampler, spec.mesh, kind, sequential_guidance)
    return Program(program, arguments, network.weights)


def trace_with_formats(spec: CascadeSpec, step: Program, formats: Any = None) -> Any:
    """Trace a denoising step as `Cascade` compiles it; see `show1_jax.runtime.with_weight_formats`.

    Args:
        spec: settings, mesh and architectures.
        step: program of `denoising_step`.
        formats: formats of the weights; None: the compiler chooses the layouts.
    """
    program = with_weight_formats(step.function, platform_of(spec.mesh), len(step.arguments), formats)
    with as_sampled(spec):
        return program.trace(*step.arguments)


def _kept(spec: CascadeSpec, stage: Stage, batch_size: int, kind: StepKind) -> jax.ShapeDtypeStruct:
    """Return the deep features that a step of a kind reuses."""
    step = denoising_step(spec, stage, batch_size, kind=kind._replace(deep="kept"))
    with as_sampled(spec):
        deep = jax.eval_shape(step.function, *step.arguments).deep
    return jax.ShapeDtypeStruct(deep.shape, deep.dtype, sharding=stored_sharding(spec.mesh, deep.shape))


def text_encoding(spec: CascadeSpec, component: str, batch_size: int = 1) -> Program:
    """Return the encoding of a batch of texts by a text encoder."""
    network = _abstract(spec, component)
    encoder = spec.text_encoder(component)
    ids = _batch_sharded(spec, jax.ShapeDtypeStruct((batch_size, encoder.length), jnp.int32))
    arguments = (encoder, network.graph, network.weights, Tokens(ids, ids), spec.config.text_padding)
    return Program(encode_text_jit, arguments, network.weights)


def streamed_text_encoding(spec: CascadeSpec, component: str, batch_size: int = 1) -> tuple[Program, Program]:
    """Return the two large programs of a text encoder that runs block by block: the embedding and the first block.

    The other blocks have the same size, but no table of relative positions.
    """
    architecture, length = spec.architecture(component), spec.text_encoder(component).length
    table, block = (_abstract(spec, component, path) for path in (EMBEDDING, block_path(0)))
    ids = _batch_sharded(spec, jax.ShapeDtypeStruct((batch_size, length), jnp.int32))
    states = _batch_sharded(spec, jax.ShapeDtypeStruct((batch_size, length, architecture.state_width), jnp.float32))
    bias = jax.ShapeDtypeStruct((architecture.num_heads, length, length), jnp.float32)
    mask = _batch_sharded(spec, jax.ShapeDtypeStruct((batch_size, 1, length), jnp.bool_))
    return (
        Program(embed_tokens, (table.graph, table.weights, ids), table.weights),
        Program(run_block, (block.graph, block.weights, states, bias, mask), block.weights),
    )


def autoencoder_programs(spec: CascadeSpec, stage: Stage, batch_size: int = 1) -> tuple[Program, Program]:
    """Return the encoding of a latent stage's input, and the decoding of its result."""
    network = _abstract(spec, AUTOENCODER)
    shape = step_shapes(spec, stage, batch_size).sample
    latents = _batch_sharded(spec, shape)
    video = _batch_sharded(spec, jax.ShapeDtypeStruct((*shape.shape[:2], *spec.sizes({})[stage], 3), shape.dtype))
    return (
        Program(encoder_program(network.graph, spec.mesh), (network.weights, video, latents), network.weights),
        Program(decoder_program(network.graph, spec.mesh), (network.weights, latents), network.weights),
    )


def _abstract(spec: CascadeSpec, component: str, part: WeightPath = ()) -> LoadedNetwork:
    return abstract_network(spec.manifest.component(component), spec.mesh, spec.dtype, part)


def _batch_sharded(spec: CascadeSpec, leaf: jax.ShapeDtypeStruct | None) -> Any:
    if leaf is None:
        return None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(spec.mesh))


def _float32_shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
