"""Device memory that sampling needs, as the compiler plans it, and the choices that keep it below a limit."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax

from show1_jax.cascade.programs import (
    Program,
    as_sampled,
    autoencoder_programs,
    denoising_step,
    streamed_text_encoding,
    text_encoding,
)
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE, text_encoders
from show1_jax.config.sampling import STAGES, Stage

GIB: Final = 2**30


class MemoryNeed(NamedTuple):
    """Memory of one device while a part of the cascade runs.

    Attributes:
        weights: bytes of the weights of all networks that are on the device at that time.
        working: bytes of inputs, results, and intermediate arrays.
        sequential_guidance: the two branches of guidance run sequentially.
        is_streamed: a text encoder has the weights of one block at a time on the device.
    """

    weights: int
    working: int
    sequential_guidance: bool = False
    is_streamed: bool = False

    @property
    def total(self) -> int:
        """Bytes of weights and working memory."""
        return self.weights + self.working


def memory_needs(spec: CascadeSpec, stages: Sequence[Stage], batch_size: int = 1) -> Iterator[tuple[str, MemoryNeed]]:
    """Yield the name and the memory need of each part of the cascade: text encoders, stages, autoencoder.

    Every program is compiled and stored in the compilation cache, from which a run loads it. In bfloat16 the compiler
    for CPUs plans far more memory than the one for GPUs.
    """
    for component in text_encoders(stages):
        yield component, text_need(spec, component, batch_size)
    for stage in STAGES:
        if stage in stages:
            need = stage_need(spec, stage, batch_size)
            yield stage, need
            if STAGE_TABLE[stage].is_latent:
                programs = autoencoder_programs(spec, stage, batch_size)
                working = max(_program_need(spec, program).working for program in programs)
                yield AUTOENCODER, MemoryNeed(need.weights, working)


def text_need(spec: CascadeSpec, component: str, batch_size: int = 1) -> MemoryNeed:
    """Return the need of a text encoder; it runs block by block if the whole encoder exceeds `memory_limit_gb`."""
    program = text_encoding(spec, component, batch_size)
    can_stream = spec.text_encoder(component).streams
    if not can_stream or weight_bytes(program) <= _limit_bytes(spec):  # otherwise the whole encoder is not compiled
        whole = _program_need(spec, program)
        if not can_stream or whole.total <= _limit_bytes(spec):
            return whole
    parts = (_program_need(spec, part) for part in streamed_text_encoding(spec, component, batch_size))
    return max(parts, key=lambda need: need.total)._replace(is_streamed=True)


def is_text_streamed(spec: CascadeSpec, component: str, batch_size: int) -> bool:
    """Return whether `memory_limit_gb` makes a text encoder run block by block."""
    can_stream = spec.config.memory_limit_gb > 0 and spec.text_encoder(component).streams
    return can_stream and text_need(spec, component, batch_size).is_streamed


def stage_need(spec: CascadeSpec, stage: Stage, batch_size: int = 1) -> MemoryNeed:
    """Return the need of a stage's largest step; above `memory_limit_gb`, guidance is sequential."""
    row = STAGE_TABLE[stage]
    autoencoder = weight_bytes(autoencoder_programs(spec, stage)[0]) if row.is_latent else 0

    def need(sequential: bool) -> MemoryNeed:
        steps = (
            _program_need(spec, denoising_step(spec, stage, batch_size, kind=kind, sequential_guidance=sequential))
            for kind in spec.step_kinds(stage)
        )
        step = max(steps, key=lambda need: need.total)
        return MemoryNeed(step.weights + autoencoder, step.working, sequential)

    together = need(sequential=False)
    is_enough = together.total <= _limit_bytes(spec)
    return together if is_enough or spec.config.negative_text(stage) is None else need(sequential=True)


def is_guidance_sequential(spec: CascadeSpec, stage: Stage, batch_size: int) -> bool:
    """Return whether `memory_limit_gb` makes a stage run the two branches of guidance sequentially."""
    return spec.config.memory_limit_gb > 0 and stage_need(spec, stage, batch_size).sequential_guidance


def weight_bytes(program: Program) -> int:
    """Return the bytes of a program's weights on each device."""
    leaves = jax.tree.leaves(program.weights)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _limit_bytes(spec: CascadeSpec) -> float:
    return spec.config.memory_limit_gb * GIB or math.inf


def _program_need(spec: CascadeSpec, program: Program) -> MemoryNeed:
    with as_sampled(spec):
        plan: Any = program.trace().lower().compile().memory_analysis()
    weights = weight_bytes(program)
    used = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return MemoryNeed(weights, used - weights)
