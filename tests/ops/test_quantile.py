"""The quantile found by counting is the same as by sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from show1_jax.ops.quantile import magnitude_quantile

values = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30])


@given(
    st.sampled_from([(2, 3, 4, 3), (1, 1, 1, 1)]).flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=values)),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.995, 1.0]),
)
def test_the_quantile_is_the_same_as_numpy_s(x: np.ndarray, share: float) -> None:
    expected = np.quantile(np.abs(x).astype(np.float64), share, axis=(-3, -2, -1), keepdims=True)
    found = jax.jit(magnitude_quantile, static_argnums=1)(x, share)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("shape", [(2, 8, 40, 64, 3), (3, 10, 16, 3)])
def test_quantiles_are_per_frame(shape: tuple[int, ...]) -> None:
    x = 3 * jax.random.normal(jax.random.key(0), shape)
    expected = np.quantile(np.abs(np.asarray(x, np.float64)), 0.995, axis=(-3, -2, -1), keepdims=True)
    np.testing.assert_allclose(magnitude_quantile(x, 0.995), expected, rtol=1e-6)
    assert magnitude_quantile(jnp.float32(x), 0.995).shape == (*shape[:-3], 1, 1, 1)
