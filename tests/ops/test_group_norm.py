"""The reference is the norm of Flax, and sums a channel first do not cancel where the mean is large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from show1_jax.ops.group_norm import per_channel, two_pass

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


def features(mean: float, std: float, outlier: float, shape: tuple[int, ...] = (2, 64, 64, 8)) -> np.ndarray:
    """Return channels around a mean; one of their sampled pixels is an outlier, in multiples of the deviation."""
    x = mean * np.linspace(0.5, 1.5, shape[-1]) + std * np.random.default_rng(0).standard_normal(shape)
    x[:, 0, 0] += std * outlier
    return x.astype(np.float32)


@pytest.mark.parametrize(
    ("mean", "std", "outlier"), [(0, 1, 0), (10, 0.1, 0), (1000, 1, 0), (1000, 0.1, 0), (100, 1, 1e3), (0, 1, 1e6)]
)
def test_a_large_mean_does_not_cancel(mean: float, std: float, outlier: float) -> None:
    """Groups have one channel, so that differences of means do not hide an error of the variance."""
    x = features(mean, std, outlier)
    exact = x.astype(np.float64)
    centred = exact - exact.mean((1, 2), keepdims=True)
    exact = centred / np.sqrt(np.square(centred).mean((1, 2), keepdims=True) + EPSILON)
    found = per_channel(jnp.asarray(x), jnp.ones(8), jnp.zeros(8), 8, EPSILON)
    of_mean = 2.0**-23 * (1 + mean / std)  # its rounding, in units of the deviation; the reference has it, too
    of_variance = 2.0**-24 * (1 + 256)  # as bounded in the docstring
    assert np.abs(found - exact).max() <= (of_mean + of_variance) * np.abs(exact).max()
