"""The variants that shapes get on devices. The shapes are those that were measured on a GPU, and those of the demo."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest

from show1_jax.ops import attention, group_norm, quantile
from show1_jax.ops.choice import AttentionShape, attention_variant, norm_variant, quantile_variant
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
        (NVIDIA, ("cudnn", "cudnn", "cudnn", "cudnn", "elementwise", "elementwise", "plain", "plain")),
        (OTHER_GPU, ("by_frame", "plain", "plain", "by_frame", "elementwise", "elementwise", "plain", "plain")),
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
        (SELF_SMALL, {"width": 60}, "plain"),
        (SELF_SMALL, {"width": 128}, "cudnn"),
        (SELF_SMALL, {"width": 136}, "plain"),
        (SELF_SMALL, {"queries": 40, "keys": 117}, "plain"),
        (SELF_SMALL, {"keys": 16}, "plain"),
        (EIGHT_FRAMES, {"dtype": jnp.float32}, "elementwise"),
        (EIGHT_FRAMES, {"width": 64}, "plain"),
        (EIGHT_FRAMES, {"queries": 9, "keys": 9}, "plain"),
        (EIGHT_FRAMES, {"query_shards": 4}, "elementwise"),
    ],
)
def test_attention_of_other_shapes_on_an_nvidia_gpu(
    shape: AttentionShape, changes: dict[str, Any], variant: str
) -> None:
    assert attention_variant(NVIDIA, dataclasses.replace(shape, **changes)) == variant


@pytest.mark.parametrize(
    ("target", "num_bytes", "pixel_shards", "variant"),
    [
        (NVIDIA, 2 * 16 * 40960 * 192, 1, "per_channel"),
        (NVIDIA, 2 * 16 * 10240 * 384, 1, "per_channel"),
        (OTHER_GPU, 2 * 16 * 40960 * 192, 1, "per_channel"),
        (NVIDIA, 2 * 16 * 640 * 1152, 1, "per_channel"),
        (NVIDIA, 2 * 16 * 160 * 1152, 1, "two_pass"),
        (NVIDIA, 2 * 16 * 40960 * 192, 2, "two_pass"),
        (TPU, 2 * 16 * 40960 * 192, 1, "two_pass"),
        (CPU, 2 * 16 * 40960 * 192, 1, "two_pass"),
    ],
)
def test_norms(target: Target, num_bytes: int, pixel_shards: int, variant: str) -> None:
    assert norm_variant(target, num_bytes, pixel_shards) == variant


@pytest.mark.parametrize(
    ("target", "pixel_shards", "variant"),
    [(NVIDIA, 1, "sorted"), (OTHER_GPU, 1, "sorted"), (NVIDIA, 4, "counted"), (TPU, 1, "counted"), (CPU, 1, "counted")],
)
def test_quantiles(target: Target, pixel_shards: int, variant: str) -> None:
    assert quantile_variant(target, pixel_shards) == variant


def test_every_variant_is_a_choice_somewhere() -> None:
    targets = (NVIDIA, OTHER_GPU, TPU, CPU)
    assert {attention_variant(target, shape) for target in targets for shape in MEASURED} == set(attention.VARIANTS)
    assert {norm_variant(target, 2**30) for target in targets} == set(group_norm.VARIANTS)
    assert {quantile_variant(target) for target in targets} == set(quantile.VARIANTS)
