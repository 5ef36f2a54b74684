"""Every variant of an operation gives the reference's results and gradients, on the device that the tests run on.

cuDNN's attention runs on NVIDIA GPUs, and is emulated elsewhere. Results for bfloat16 are compared with those of the
reference in float32 for the same inputs. The gradients of quantiles are not used.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from show1_jax.ops import attention, choice, convolution, group_norm, quantile
from show1_jax.ops.choice import AttentionShape, runs_cudnn
from show1_jax.ops.target import Target, has_cudnn_attention
from tests.helpers import cudnn

TOLERANCE = {"float32": 2e-5, "bfloat16": 2.0**-6}
"""Of the largest value of a result. In bfloat16, operands and results are rounded by up to 2^-9 of their values."""
ATTENTION = {
    "pixels": AttentionShape(jnp.float32, 2, 3, 130, 130, 2, 16),
    "pixels to text": AttentionShape(jnp.float32, 1, 2, 144, 77, 2, 16),
    "pixels to text and pixels": AttentionShape(jnp.float32, 1, 2, 135, 212, 2, 8),
    "5 frames": AttentionShape(jnp.float32, 40, 1, 5, 5, 8, 10),
    "8 frames": AttentionShape(jnp.float32, 40, 1, 8, 8, 8, 18),
    "29 frames": AttentionShape(jnp.float32, 20, 1, 29, 29, 5, 64),
}
"""Shapes of the cascade's attentions, with fewer rows, pixels and heads."""
NORM = {"frames": (4, 16, 20, 24), "clips": (2, 5, 640, 16), "text": (3, 7, 64), "one pixel": (2, 1, 32)}
QUANTILE = {"batch": (2, 3, 16, 10, 3), "one value": (1, 1, 1, 1)}


def attention_cases() -> list[Any]:
    """Return the variants that each shape could get on some device, but not the reference compared with itself."""
    cases = []
    for name, wide in ATTENTION.items():
        for dtype in TOLERANCE:
            shape = dataclasses.replace(wide, dtype=jnp.dtype(dtype))
            runs = {
                "plain": dtype != "float32",
                "by_frame": shape.frames > 1,
                "padded": bool(shape.queries % 8 or shape.keys % 8),
                "elementwise": shape.frames == 1,
                "cudnn": runs_cudnn(Target("gpu", has_cudnn=True), shape),
            }
            cases += [pytest.param(v, shape, id=f"{v}, {name}, {dtype}") for v in attention.VARIANTS if runs[v]]
    return cases


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def results(function: Callable[..., Array], *inputs: Array) -> list[Array]:
    """Return the output of a function, and the gradients of a weighted sum of it."""
    out, pull_back = jax.jit(functools.partial(jax.vjp, function))(*inputs)
    return [out, *pull_back(jnp.asarray(random(*out.shape), out.dtype))]


def hold(
    variants: Mapping[Any, Callable[..., Array]],
    names: tuple[str, str],
    dtype: str,
    *inputs: np.ndarray,
    **settings: Any,
) -> None:
    """Compare a variant, the first of the names, with the reference in float32."""
    ours, reference = (functools.partial(variants[name], **settings) for name in names)
    rounded = [jnp.asarray(x, dtype) for x in inputs]
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        found = results(lambda *x: ours(*x), *rounded)
        expected = results(lambda *x: reference(*x), *(x.astype(jnp.float32) for x in rounded))
    assert found[0].dtype == jnp.dtype(dtype)
    for own, other in zip(found, expected, strict=True):
        bound = TOLERANCE[dtype] * float(jnp.abs(other).max())
        np.testing.assert_allclose(np.asarray(own, np.float32), other, rtol=0, atol=bound)


@pytest.mark.parametrize(("variant", "shape"), attention_cases())
def test_attention(monkeypatch: pytest.MonkeyPatch, variant: str, shape: AttentionShape) -> None:
    if variant == "cudnn" and not has_cudnn_attention():
        cudnn.emulate(monkeypatch)
    monkeypatch.setattr(choice, "MAX_LOGITS_BYTES", 1)  # one frame at a time
    rows = shape.videos * shape.frames
    inputs = (random(rows, tokens, shape.heads, shape.width) for tokens in (shape.queries, shape.keys, shape.keys))
    dtype = jnp.dtype(shape.dtype).name
    hold(attention.VARIANTS, (variant, "plain"), dtype, *inputs, num_frames=shape.frames)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", NORM.values(), ids=NORM.keys())
@pytest.mark.parametrize("variant", group_norm.VARIANTS)
def test_group_norm(variant: str, shape: tuple[int, ...], dtype: str) -> None:
    x, scale, bias = 3 * random(*shape) + 2, random(shape[-1]) + 1, random(shape[-1])
    hold(group_norm.VARIANTS, (variant, "two_pass"), dtype, x, scale, bias, num_groups=4, epsilon=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "sides"), [((2, 6, 5, 3), (3, 3)), ((1, 4, 5, 6, 7), (3, 3, 3)), ((1, 4, 4, 8), (1, 1))]
)
def test_convolution(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], sides: tuple[int, ...], dtype: str
) -> None:
    monkeypatch.setattr(convolution, "num_input_channels", lambda target, dtype, channels: max(channels, 8))
    variants: dict[str, Any] = {"filled": convolution.convolve, "plain": jax.lax.conv_general_dilated}
    letters = "DHW"[-len(sides) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    settings = {"window_strides": (1,) * len(sides), "padding": "SAME", "dimension_numbers": layout}
    hold(variants, ("filled", "plain"), dtype, random(*shape), random(*sides, shape[-1], 4), **settings)


@pytest.mark.parametrize("shape", QUANTILE.values(), ids=QUANTILE.keys())
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_quantile(share: float, shape: tuple[int, ...]) -> None:
    x = jnp.asarray(random(*shape))
    reference, *others = (variant(x, share) for variant in quantile.VARIANTS.values())
    for other in others:
        np.testing.assert_array_equal(other, reference)


def test_all_variants_are_held() -> None:
    assert {case.values[0] for case in attention_cases()} == set(attention.VARIANTS)
