"""Gaussian draws that depend only on the video's seed and the draw's purpose.

So the same prompt and seed give the same video alone, in a batch, on another mesh, or resumed from a stage.
"""

import functools
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float32, UInt32

from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.diffusion.random_keys import fold_in, new_key, normal
from show1_jax.errors import UserError
from show1_jax.parallel import batch_sharding, put_batch

Purpose = Literal["initial", "augmentation", "posterior", "step", "pass"]
_DRAW_PURPOSES: Final = get_args(Purpose)


class Draw(NamedTuple):
    """Identity of a draw.

    Its purpose is the sampler's start, noise on a low-resolution condition, the autoencoder's posterior, a step, or
    another pass of a step.
    """

    stage: Stage
    purpose: Purpose
    step: int = 0
    window: int = 0


@runtime_checkable
class NoiseSource(Protocol):
    """A source of standard Gaussian draws: `SeededNoise`, or the draws of a recorded run for a comparison."""

    def __call__(self, draw: Draw, shape: tuple[int, ...]) -> Float32[Array, "b ..."]:
        """Return a draw of `shape` (time, height, width, channel) for every video of the batch."""


class SeededNoise:
    """Draws from each video's seed. The windows of a stage share their draws, as in the original."""

    def __init__(self, seeds: Sequence[int], mesh: Mesh):
        for seed in seeds:
            if not 0 <= seed <= MAX_SEED:
                raise UserError(f"seed {seed} is out of range; use 0 to {MAX_SEED}")
        self._seeds = put_batch(np.array(seeds, np.uint32), mesh)
        self._sharding = batch_sharding(mesh)

    def __call__(self, draw: Draw, shape: tuple[int, ...]) -> Float32[Array, "b ..."]:
        """Return a draw for every video; see `NoiseSource`."""
        path = np.array([STAGES.index(draw.stage), draw.step, _DRAW_PURPOSES.index(draw.purpose)], np.uint32)
        return _normal(self._seeds, path, shape, self._sharding)


@functools.partial(jax.jit, static_argnames=("shape", "sharding"))
def _normal(
    seeds: UInt32[Array, " b"], path: UInt32[Array, "3"], shape: tuple[int, ...], sharding: NamedSharding
) -> Float32[Array, "b ..."]:
    def draw_one(seed: UInt32[Array, ""]) -> Float32[Array, "..."]:
        key = new_key(seed)
        for part in path:
            key = fold_in(key, part)
        return normal(key, shape)

    return jax.lax.with_sharding_constraint(jax.vmap(draw_one)(seeds), sharding)
