"""Random keys and draws: functions of the seed alone, independent of the settings of JAX.

JAX's own `jax.random.key` depends on JAX_DEFAULT_PRNG_IMPL and JAX_RANDOM_SEED_OFFSET, and its draws depend on
JAX_THREEFRY_PARTITIONABLE. Here the generator is threefry2x32 (Salmon et al. 2011), seeded by the seed alone, and
partitionable: a draw depends neither on the other draws of its batch nor on the sharding. All keys and draws of the
package are made in this module.
"""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float32, Int32, Integer, Key, UInt32

_GENERATOR: Final = "threefry2x32"

DrawParams = ParamSpec("DrawParams")
Drawn = TypeVar("Drawn")


def _partitionable(draw: Callable[DrawParams, Drawn]) -> Callable[DrawParams, Drawn]:
    """Return the function with the partitionable form of the generator, which its trace records."""

    def draw_partitionable(*args: DrawParams.args, **kwargs: DrawParams.kwargs) -> Drawn:
        with jax.threefry_partitionable(True):
            return draw(*args, **kwargs)

    return draw_partitionable


def key_data(seed: Integer[ArrayLike, ""]) -> UInt32[Array, "2"]:
    """Return the data of the key of a seed from 0 to 2^32 - 1, the same as in `jax.random.key`."""
    return jnp.stack([jnp.uint32(0), jnp.asarray(seed, jnp.uint32)])


def as_key(data: UInt32[Array, "2"]) -> Key[Array, ""]:
    """Return the key with the data that `key_data` returned."""
    return jax.random.wrap_key_data(data, impl=_GENERATOR)


def new_key(seed: Integer[ArrayLike, ""]) -> Key[Array, ""]:
    """Return the key of a seed from 0 to 2^32 - 1."""
    return as_key(key_data(seed))


def fold_in(key: Key[Array, ""], number: Integer[ArrayLike, ""]) -> Key[Array, ""]:
    """Return the key derived from a key and a number."""
    return jax.random.fold_in(key, number)


def numbered_keys(key: Key[Array, ""], count: int) -> Key[Array, " {count}"]:
    """Return the keys with the numbers 0 to `count` - 1 folded into a key."""
    return jax.vmap(lambda number: fold_in(key, number))(jnp.arange(count, dtype=jnp.int32))


@_partitionable
def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float32[Array, "..."]:
    """Draw standard Gaussian noise, float32."""
    return jax.random.normal(key, shape, jnp.float32)


@_partitionable
def randint(key: Key[Array, ""], bound: int) -> Int32[Array, ""]:
    """Draw an integer from 0 to `bound` - 1."""
    return jax.random.randint(key, (), 0, bound, jnp.int32)


@_partitionable
def bernoulli(key: Key[Array, ""], probability: float | Float32[Array, ""]) -> Bool[Array, ""]:
    """Draw True with this probability."""
    return jax.random.bernoulli(key, jnp.asarray(probability, jnp.float32))
