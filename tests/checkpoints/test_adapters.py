"""Low-rank adapters against a dense update: values and gradients, for linear layers and convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from show1_jax.checkpoints.adapters import AdapterConfig, apply_adapter, lora_shapes
from show1_jax.nn.init import initial_weight
from show1_jax.parallel.weights import Weights

EQUAL = 1e-5
LINEAR, CONV, OTHER = ("a", "to_q", "kernel"), ("b", "conv", "kernel"), ("a", "to_q", "bias")
FROZEN_SHAPES = {LINEAR: (24, 40), CONV: (3, 3, 16, 20), OTHER: (40,)}
RANK, SCALE = 4, 0.75


def drawn(shapes: dict[Any, tuple[int, ...]], seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.standard_normal(shape), jnp.float32) for path, shape in shapes.items()}


FROZEN = drawn(FROZEN_SHAPES, 0)
PAIRS = lora_shapes({path: jax.ShapeDtypeStruct(FROZEN_SHAPES[path], jnp.float32) for path in (LINEAR, CONV)}, RANK)
ADAPTER = drawn({path: leaf.shape for path, leaf in PAIRS.items()}, 1)


def apart(ours: Any, other: Any) -> float:
    ours, other = np.asarray(ours, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(ours - other) / np.linalg.norm(other))


def pair(path: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return A with one row per input, and B, float64."""
    a, b = (np.asarray(ADAPTER[*path[:-1], name], np.float64) for name in ("lora_a", "lora_b"))
    return a.reshape(-1, RANK), b


def outputs(weights: Weights) -> tuple[jax.Array, jax.Array]:
    """Return the outputs of a linear layer and of a convolution with these weights."""
    x, image = drawn({"x": (5, 24), "image": (2, 6, 6, 16)}, 2).values()
    dimensions = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(image, weights[CONV], (1, 1), "SAME", dimension_numbers=dimensions)
    return jnp.tanh(x @ weights[LINEAR] / 20 + weights[OTHER]), convolved


def loss(weights: Weights) -> jax.Array:
    linear, convolved = outputs(weights)
    return jnp.square(linear).sum() + jnp.square(jnp.sin(convolved / 50)).sum()


def test_a_low_rank_adapter_computes_what_its_dense_update_does() -> None:
    dense = dict(FROZEN)
    for path in (LINEAR, CONV):
        a, b = pair(path)
        dense[path] = jnp.asarray(FROZEN[path] + SCALE * (a @ b).reshape(FROZEN_SHAPES[path]), jnp.float32)
    merged = apply_adapter(FROZEN, ADAPTER, SCALE)
    assert merged.keys() == dense.keys()
    assert merged[OTHER] is FROZEN[OTHER]
    for ours, other in zip(outputs(merged), outputs(dense), strict=True):
        assert apart(ours, other) <= EQUAL

    by_adapter = jax.grad(lambda adapter: loss(apply_adapter(FROZEN, adapter, SCALE)))(ADAPTER)
    by_weight = jax.grad(loss)(dense)
    for path in (LINEAR, CONV):
        a, b = pair(path)
        whole = np.asarray(by_weight[path], np.float64).reshape(a.shape[0], -1)
        assert apart(by_adapter[*path[:-1], "lora_a"].reshape(a.shape), SCALE * whole @ b.T) <= EQUAL
        assert apart(by_adapter[*path[:-1], "lora_b"], SCALE * a.T @ whole) <= EQUAL


def test_an_array_with_the_path_of_a_weight_replaces_it() -> None:
    new = drawn({OTHER: (40,)}, 3)
    frozen = {path: weight for path, weight in FROZEN.items() if path != OTHER}
    assert apply_adapter(frozen, new, SCALE) == {**frozen, **new}


def test_a_new_adapter_changes_nothing() -> None:
    new = {path: jnp.asarray(initial_weight(path, leaf.shape)) for path, leaf in PAIRS.items()}
    merged = apply_adapter(FROZEN, new, SCALE)
    assert all(np.array_equal(merged[path], weight) for path, weight in FROZEN.items())
    assert np.std(new[*LINEAR[:-1], "lora_a"]) == pytest.approx(24**-0.5, rel=0.3)


def test_the_scale_is_alpha_over_rank() -> None:
    assert AdapterConfig("", rank=4, alpha=3.0).scale == SCALE
    assert AdapterConfig("").scale == 1
