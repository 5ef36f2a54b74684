"""The activations are those of float64, also where bfloat16 rounds their parts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from scipy.special import expit, ndtr

from show1_jax.nn.layers import exact_gelu, silu


@pytest.mark.parametrize(("function", "factor"), [(silu, expit), (exact_gelu, ndtr)])
def test_an_activation_is_rounded_once(
    function: Callable[[Array], Array], factor: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = jnp.linspace(-10, 10, 4001, dtype=jnp.bfloat16)
    exact = np.asarray(x, np.float64) * factor(np.asarray(x, np.float64))
    found = np.asarray(jax.jit(function)(x), np.float64)
    np.testing.assert_allclose(found, exact, rtol=2.0**-8, atol=2e-6)


def test_silu_of_float32_is_jax_s() -> None:
    x = jnp.linspace(-90, 90, 4001, dtype=jnp.float32)
    np.testing.assert_array_equal(jax.jit(silu)(x), jax.jit(jax.nn.silu)(x))
