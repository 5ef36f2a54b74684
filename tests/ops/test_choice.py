"""The variants that shapes get on devices. The shapes are those that were measured on a GPU, and those of the demo."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest

from show1_jax.ops import attention, group_norm, quantile
from show1_jax.ops.choice import (
    AttentionShape,
    attention_variant,
    norm_variant,
    num_input_channels,
    quantile_variant,
)
from show1_jax.ops.target import Target

CPU, TPU = Target("cpu"), Target("tpu")
NVIDIA, OTHER_GPU = Target("gpu", has_cudnn=True), Target("gpu")
SELF_LARGE = AttentionShape(jnp.bfloat16, 2, 29, 2880, 2880, 5, 64)
SELF_SMALL = AttentionShape(jnp.bfloat16, 2, 29, 180, 180, 20, 64)
CROSS = AttentionShape(jnp.bfloat16, 2, 29, 2880, 77, 5, 64)
ADDED_TEXT = AttentionShape(jnp.bfloat16, 2, 8, 640, 717, 10, 64)
FIVE_FRAMES = AttentionShape(jnp.bfloat16, 640, 1, 5, 5, 64, 10)
EIGHT_FRAMES = AttentionShape(jnp.bfloat16, 640, 1, 8, 8, 64, 18)
ALL_FRAMES = AttentionShape(jnp.bfloat16, 2880, 1, 29, 29, 5, 64)
AUTOENCODER = AttentionShape(jnp.bfloat16, 1, 1, 2880, 2880, 1, 512)
MEASURED = (SELF_LARGE, SELF_SMALL, CROSS, ADDED_TEXT, FIVE_FRAMES, EIGHT_FRAMES, ALL_FRAMES, AUTOENCODER)


@pytest.mark.parametrize(
    ("target", "variants"),
    [
        (NVIDIA, ("cudnn", "cudnn", "cudnn", "cudnn", "elementwise", "elementwise", "padded", "plain")),
        (OTHER_GPU, ("by_frame", "padded", "padded", "by_frame", "elementwise", "elementwise", "padded", "plain")),
        (TPU, ("by_frame", "plain", "plain", "by_frame", "plain", "plain", "plain", "plain")),
        (CPU, ("by_frame", "plain", "plain", "by_frame", "plain", "plain", "plain", "plain")),
    ],
)
def test_attention_of_measured_shapes(target: Target, variants: tuple[str, ...]) -> None:
    assert tuple(attention_variant(target, shape) for shape in MEASURED) == variants


@pytest.mark.parametrize(
    ("shape", "changes", "variant"),
    [
        (SELF_LARGE, {"dtype": jnp.float32}, "by_frame"),
        (SELF_LARGE, {"dtype": jnp.float16}, "cudnn"),
        (SELF_LARGE, {"query_shards": 4}, "by_frame"),
        (SELF_SMALL, {"query_shards": 4}, "plain"),
        (SELF_SMALL, {"width": 60}, "padded"),
        (SELF_SMALL, {"width": 128}, "cudnn"),
        (SELF_SMALL, {"width": 136}, "padded"),
        (SELF_SMALL, {"queries": 40, "keys": 117}, "padded"),
        (SELF_SMALL, {"queries": 45, "keys": 45}, "padded"),
        (SELF_SMALL, {"queries": 45, "keys": 45, "query_shards": 4}, "plain"),
        (SELF_SMALL, {"queries": 45, "keys": 45, "dtype": jnp.float32}, "plain"),
        (SELF_SMALL, {"keys": 16}, "padded"),
        (SELF_SMALL, {"queries": 176, "keys": 16}, "plain"),
        (EIGHT_FRAMES, {"dtype": jnp.float32}, "elementwise"),
        (EIGHT_FRAMES, {"width": 64}, "plain"),
        (EIGHT_FRAMES, {"queries": 9, "keys": 9}, "padded"),
        (EIGHT_FRAMES, {"query_shards": 4}, "elementwise"),
    ],
)
def test_attention_of_other_shapes_on_an_nvidia_gpu(
    shape: AttentionShape, changes: dict[str, Any], variant: str
) -> None:
    assert attention_variant(NVIDIA, dataclasses.replace(shape, **changes)) == variant


@pytest.mark.parametrize(
    ("target", "dtype", "pixel_shards", "variant"),
    [
        (NVIDIA, jnp.bfloat16, 1, "one_pass"),
        (NVIDIA, jnp.float16, 1, "one_pass"),
        (OTHER_GPU, jnp.bfloat16, 1, "one_pass"),
        (NVIDIA, jnp.float32, 1, "two_pass"),
        (NVIDIA, jnp.bfloat16, 2, "two_pass"),
        (TPU, jnp.bfloat16, 1, "two_pass"),
        (CPU, jnp.bfloat16, 1, "two_pass"),
    ],
)
def test_norms(target: Target, dtype: Any, pixel_shards: int, variant: str) -> None:
    assert norm_variant(target, dtype, pixel_shards) == variant


@pytest.mark.parametrize(
    ("target", "dtype", "channels", "filled"),
    [
        (NVIDIA, jnp.bfloat16, 4, 8),
        (OTHER_GPU, jnp.float16, 7, 8),
        (NVIDIA, jnp.bfloat16, 320, 320),
        (NVIDIA, jnp.float32, 4, 4),
        (TPU, jnp.bfloat16, 4, 4),
        (CPU, jnp.bfloat16, 4, 4),
    ],
)
def test_input_channels_of_convolutions(target: Target, dtype: Any, channels: int, filled: int) -> None:
    assert num_input_channels(target, dtype, channels) == filled


@pytest.mark.parametrize(
    ("target", "pixel_shards", "variant"),
    [(NVIDIA, 1, "sorted"), (OTHER_GPU, 1, "sorted"), (NVIDIA, 4, "counted"), (TPU, 1, "counted"), (CPU, 1, "counted")],
)
def test_quantiles(target: Target, pixel_shards: int, variant: str) -> None:
    assert quantile_variant(target, pixel_shards) == variant


def test_every_variant_is_a_choice_somewhere() -> None:
    targets = (NVIDIA, OTHER_GPU, TPU, CPU)
    assert {attention_variant(target, shape) for target in targets for shape in MEASURED} == set(attention.VARIANTS)
    assert {norm_variant(target, jnp.bfloat16) for target in targets} == set(group_norm.VARIANTS)
    assert {quantile_variant(target) for target in targets} == set(quantile.VARIANTS)
