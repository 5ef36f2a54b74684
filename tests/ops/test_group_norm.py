"""The reference is the norm of Flax, and one pass is as exact in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show1_jax.ops.group_norm import one_pass, two_pass

GROUPS, EPSILON = 4, 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(2, 5, 6, 16), (3, 7, 16)])
def test_the_reference_is_flax_s_norm(shape: tuple[int, ...], dtype: str) -> None:
    layer = nnx.GroupNorm(16, GROUPS, epsilon=EPSILON, use_fast_variance=False, dtype=dtype, rngs=nnx.Rngs(0))
    x, scale, bias = (jax.random.normal(jax.random.key(i), s, dtype) for i, s in enumerate((shape, (16,), (16,))))
    graph, weights = nnx.split(layer)
    nnx.replace_by_pure_dict(weights, {"scale": scale.astype(jnp.float32), "bias": bias.astype(jnp.float32)})
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))(weights, x)
    ours = jax.jit(two_pass, static_argnums=(3, 4))(x, scale, bias, GROUPS, EPSILON)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (10, 0.1), (100, 1), (1000, 1), (1000, 0.1)])
@pytest.mark.parametrize("shape", [(2, 64, 64, 16), (3, 577, 16)])
def test_one_pass_is_as_exact_as_the_reference_in_half_precision(
    shape: tuple[int, ...], mean: float, std: float
) -> None:
    """Where the mean is large, the rounding of the features hides that of their squares."""
    x = mean * np.linspace(0.9, 1.1, 16) + std * np.random.default_rng(0).standard_normal(shape)
    centred = x.reshape(len(x), -1, GROUPS, 4)
    centred = centred - centred.mean((1, 3), keepdims=True)
    exact = (centred / np.sqrt(np.square(centred).mean((1, 3), keepdims=True) + EPSILON)).reshape(shape)
    rounded, ones = jnp.asarray(x, jnp.bfloat16), jnp.ones(16, jnp.bfloat16)
    norms = (function(rounded, ones, 0 * ones, GROUPS, EPSILON) for function in (two_pass, one_pass))
    of_reference, ours = (np.abs(np.asarray(norm, np.float64) - exact).max() for norm in norms)
    assert ours <= 1.1 * of_reference
