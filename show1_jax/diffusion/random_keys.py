"""Random keys and what is drawn with them: a function of the seed, whatever JAX is set to.

JAX's own `jax.random.key` follows JAX_DEFAULT_PRNG_IMPL and JAX_RANDOM_SEED_OFFSET, and its draws follow
JAX_THREEFRY_PARTITIONABLE. Here the generator is threefry2x32 (Salmon et al. 2011), seeded by the seed alone, and
partitionable: a draw depends neither on the draws beside it nor on how they are sharded. Keys are made, and draws
taken, here and nowhere else in the package.
"""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float32, Int32, Integer, Key, UInt32

_GENERATOR: Final = "threefry2x32"

P = ParamSpec("P")
T = TypeVar("T")


def _partitionable(draw: Callable[P, T]) -> Callable[P, T]:
    """The function, traced with the partitionable form of the generator: the trace keeps it."""

    def in_that_form(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.threefry_partitionable(True):
            return draw(*args, **kwargs)

    return in_that_form


def key_data(seed: Integer[ArrayLike, ""]) -> UInt32[Array, "2"]:
    """The data of the key of a seed from 0 to 2^32 - 1, as `jax.random.key` makes it."""
    return jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)])


def as_key(data: UInt32[Array, "2"]) -> Key[Array, ""]:
    """The key of `key_data`."""
    return jax.random.wrap_key_data(data, impl=_GENERATOR)


def new_key(seed: Integer[ArrayLike, ""]) -> Key[Array, ""]:
    """The key of a seed from 0 to 2^32 - 1."""
    return as_key(key_data(seed))


def fold_in(key: Key[Array, ""], number: Integer[ArrayLike, ""]) -> Key[Array, ""]:
    """A key of a key and a number."""
    return jax.random.fold_in(key, number)


def numbered_keys(key: Key[Array, ""], count: int) -> Key[Array, " {count}"]:
    """So many keys of a key, each with its number folded in."""
    return jax.vmap(lambda number: fold_in(key, number))(jnp.arange(count, dtype=jnp.int32))


@_partitionable
def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float32[Array, "..."]:
    """A standard Gaussian draw."""
    return jax.random.normal(key, shape, jnp.float32)


@_partitionable
def below(key: Key[Array, ""], bound: int) -> Int32[Array, ""]:
    """A whole number from 0 to `bound` - 1."""
    return jax.random.randint(key, (), 0, bound, jnp.int32)


@_partitionable
def happens(key: Key[Array, ""], probability: float | Float32[Array, ""]) -> Bool[Array, ""]:
    """True with this probability."""
    return jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32))
