"""Operations of traced programs are counted, also inside loops and called programs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from show1_jax.ops.attention import attend
from show1_jax.ops.target import traced_for
from show1_jax.training.flops import count_flops
from tests.helpers import cudnn

PRODUCT = 2 * 3 * 4 * 5


def product(x: Array, y: Array) -> Array:
    return x @ y


def three_in_a_loop(x: Array, y: Array) -> Array:
    return jax.lax.scan(lambda total, _: (total + x @ y, None), jnp.zeros((3, 5)), length=3)[0]


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (product, 1),
        (jax.jit(product), 1),
        (jax.checkpoint(product), 1),
        (lambda x, y: jax.lax.map(lambda row: row @ y, x), 1),
        (three_in_a_loop, 3),
        (lambda x, y: x @ y + jnp.sin(jnp.ones((3, 5))), 1),
    ],
)
def test_matrix_products_are_counted_wherever_they_are(function: Callable[..., Any], times: int) -> None:
    assert count_flops(jax.make_jaxpr(function)(jnp.ones((3, 4)), jnp.ones((4, 5))).jaxpr) == times * PRODUCT


@pytest.mark.parametrize(("stride", "pixels"), [(1, 36), (2, 9)])
def test_convolutions_are_counted_by_their_results(stride: int, pixels: int) -> None:
    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    jaxpr = jax.make_jaxpr(convolve)(jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 7))).jaxpr
    assert count_flops(jaxpr) == 2 * pixels * 7 * (3 * 3 * 2)


@pytest.mark.parametrize("argument", [None, (0, 1, 2)])
def test_the_attention_of_cudnn_counts_as_its_matrix_products(
    argument: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn.emulate(monkeypatch)
    query, key = (jax.ShapeDtypeStruct((2, tokens, 4, 64), jnp.bfloat16) for tokens in (256, 128))

    def total(query: Array, key: Array, value: Array) -> Array:
        return attend(query, key, value).astype(jnp.float32).sum()

    counted, has_cudnn = {}, {}
    for platform in ("cpu", "gpu"):
        with traced_for(platform), jax.numpy_dtype_promotion("standard"):  # for JAX's own attention
            traced = jax.make_jaxpr(total if argument is None else jax.grad(total, argument))(query, key, key)
        counted[platform], has_cudnn[platform] = count_flops(traced.jaxpr), "dot_product_attention" in str(traced)
    assert has_cudnn == {"cpu": False, "gpu": True}
    assert counted["gpu"] == counted["cpu"] == (4 if argument is None else 12) * 2 * 4 * 64 * 256 * 128
