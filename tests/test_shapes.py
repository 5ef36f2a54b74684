"""Every test run checks the types and shapes in the signatures of `show1_jax`; see `addopts` in pyproject.toml."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from show1_jax.cascade.resize import resize_bilinear
from show1_jax.diffusion.samplers import guide


def test_an_array_without_an_axis_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="resize_bilinear"):
        resize_bilinear(jnp.zeros((2, 4, 4, 3)), 8, 8)


def test_arrays_of_different_sizes_are_refused_though_they_broadcast() -> None:
    with pytest.raises(TypeCheckError, match="guide"):
        guide(jnp.zeros((1, 3)), jnp.zeros((2, 3)), 1.0, 3)


def test_an_array_of_another_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="resize_bilinear"):
        resize_bilinear(jnp.zeros((1, 1, 4, 4, 3), jnp.bfloat16), 8, 8)
