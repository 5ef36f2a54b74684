"""The upsampling between stages."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.cascade.resize import resize_bilinear


def aligned(size: int, new_size: int) -> np.ndarray:
    """Return the position of each new pixel among the old ones; first and last pixels coincide."""
    return np.linspace(0, size - 1, new_size) if new_size > 1 else np.zeros(1)


@settings(max_examples=8)
@given(height=st.integers(1, 6), width=st.integers(1, 6), new_height=st.integers(1, 25), new_width=st.integers(1, 25))
def test_bilinear_upsampling_aligns_corners(height: int, width: int, new_height: int, new_width: int) -> None:
    video = np.random.default_rng(0).standard_normal((1, 2, height, width, 3)).astype(np.float32)
    ours = np.asarray(resize_bilinear(jnp.asarray(video), new_height, new_width))
    rows, columns = aligned(height, new_height), aligned(width, new_width)
    expected = np.apply_along_axis(lambda line: np.interp(rows, np.arange(height), line), 2, video)
    expected = np.apply_along_axis(lambda line: np.interp(columns, np.arange(width), line), 3, expected)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
