"""The bytes that a traced program has at the same time, without running it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from show1_jax.training.dry_run import peak_bytes

SIZE = 1000
BYTES = 4 * SIZE


def peak(function: Callable[[Array], Array]) -> int:
    return peak_bytes(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((SIZE,), jnp.float32)).jaxpr)


def test_arrays_count_until_their_last_use() -> None:
    assert peak(lambda x: jnp.sin(x)) == BYTES
    assert peak(lambda x: jnp.cos(jnp.sin(x))) == 2 * BYTES

    def chain(x: Array) -> Array:
        for _ in range(10):
            x = jnp.sin(x)
        return x

    assert peak(chain) == 2 * BYTES

    def kept(x: Array) -> Array:
        first = jnp.sin(x)
        return first + chain(first)

    assert peak(kept) == 3 * BYTES
    assert peak(jax.jit(kept)) == 3 * BYTES  # an inner program
    assert peak(lambda x: x.sum()) == 4


def test_recomputed_activations_count_a_block_at_a_time() -> None:
    def block(x: Array) -> Array:
        for _ in range(8):
            x = jnp.sin(x)
        return x

    def gradient(remat: bool) -> Callable[[Array], Array]:
        run = jax.checkpoint(block) if remat else block
        return jax.grad(lambda x: run(run(run(run(x)))).sum())

    saved, recomputed = peak(gradient(False)), peak(gradient(True))
    assert 4 * 8 * BYTES <= saved <= (4 * 8 + 4) * BYTES
    assert (3 + 8) * BYTES <= recomputed <= (3 + 8 + 4) * BYTES
