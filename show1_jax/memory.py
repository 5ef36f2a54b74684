"""The memory that sampling needs of each device, as the compiler plans it, and what is done where it is too little."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax

from show1_jax.programs import (
    LATENT_STAGE,
    Described,
    Program,
    as_sampled,
    autoencoder_programs,
    step_of,
    text_encoding,
    text_parts,
)
from show1_jax.sampling_config import STAGES, Stage

GIB: Final = 2**30


class Need(NamedTuple):
    """Bytes of one device while a part of the cascade runs."""

    weights: int
    """Of all networks that are there then."""
    working: int
    """Inputs, results, and what lies between."""
    halves_in_turn: bool = False
    """Of guidance."""
    blocks_in_turn: bool = False
    """Of the T5 encoder: one of them is there at a time."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.working


def needs(cascade: Described, stages: Sequence[Stage], batch_size: int = 1) -> Iterator[tuple[str, Need]]:
    """What each part of the cascade needs: the text encoders, then the stages, then the autoencoder.

    Every program is compiled, and kept in the compilation cache, where a run finds it. What a compiler for CPUs plans
    in bfloat16 is far more than a GPU's.
    """
    if set(stages) - {LATENT_STAGE}:
        yield "text_t5", text_need(cascade, "text_t5", batch_size)
    if LATENT_STAGE in stages:
        yield "text_clip", _need(cascade, text_encoding(cascade, "text_clip", batch_size))
    for stage in STAGES:
        if stage in stages:
            need = stage_need(cascade, stage, batch_size)
            yield stage, need
    if LATENT_STAGE in stages:
        working = max(_need(cascade, program).working for program in autoencoder_programs(cascade, batch_size))
        yield "vae", Need(need.weights, working)


def text_need(cascade: Described, component: str, batch_size: int = 1) -> Need:
    """What the T5 encoder needs: with its blocks in turn, if `memory_limit_gb` is too little for all of them."""
    program = text_encoding(cascade, component, batch_size)
    if weight_bytes(program) <= _limit(cascade):  # else it need not be compiled
        whole = _need(cascade, program)
        if whole.total <= _limit(cascade):
            return whole
    parts = (_need(cascade, part) for part in text_parts(cascade, component, batch_size))
    return max(parts, key=lambda need: need.total)._replace(blocks_in_turn=True)


def blocks_in_turn(cascade: Described, component: str, batch_size: int) -> bool:
    """Whether `memory_limit_gb` has the T5 encoder hold one block's weights at a time."""
    return cascade.config.memory_limit_gb > 0 and text_need(cascade, component, batch_size).blocks_in_turn


def stage_need(cascade: Described, stage: Stage, batch_size: int = 1) -> Need:
    """What a stage's steps need: with the halves of guidance in turn, if `memory_limit_gb` is too little otherwise."""
    config = cascade.config
    beside = weight_bytes(autoencoder_programs(cascade)[0]) if stage == LATENT_STAGE else 0

    def need(in_turn: bool) -> Need:
        alone = _need(cascade, step_of(cascade, stage, batch_size, halves_in_turn=in_turn))
        return Need(alone.weights + beside, alone.working, in_turn)

    together = need(in_turn=False)
    is_enough = together.total <= _limit(cascade)
    return together if is_enough or config.guided_away_from(stage) is None else need(in_turn=True)


def halves_in_turn(cascade: Described, stage: Stage, batch_size: int) -> bool:
    """Whether `memory_limit_gb` has a stage run the halves of guidance one after the other."""
    return cascade.config.memory_limit_gb > 0 and stage_need(cascade, stage, batch_size).halves_in_turn


def _limit(cascade: Described) -> float:
    return cascade.config.memory_limit_gb * GIB or math.inf


def _need(cascade: Described, program: Program) -> Need:
    with as_sampled(cascade):
        plan: Any = program.trace().lower().compile().memory_analysis()
    weights = weight_bytes(program)
    used = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return Need(weights, used - weights)


def weight_bytes(program: Program) -> int:
    """Bytes of a program's weights on each device."""
    leaves = jax.tree.leaves(program.weights)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
