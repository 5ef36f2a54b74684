"""Muon against the singular vectors of a gradient, Adam for the other weights, and the sharding of their state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from show1_jax.config.sampling import MeshConfig
from show1_jax.config.training import OptimizerConfig
from show1_jax.errors import UserError
from show1_jax.parallel.mesh import make_mesh
from show1_jax.parallel.weights import Weights
from show1_jax.training.optimizer import make_optimizer
from show1_jax.training.state import abstract_state, new_state

KERNEL, BIAS = ("mid", "kernel"), ("mid", "bias")
ENDS = (("conv_in", "kernel"), ("conv_out", "kernel"), ("decoder", "conv_out", "kernel"))
SHAPES = {KERNEL: (3, 3, 8, 16), BIAS: (16,), ENDS[0]: (3, 3, 3, 8), ENDS[1]: (3, 3, 8, 3), ENDS[2]: (3, 3, 8, 3)}
CONFIG = OptimizerConfig(kind="muon", learning_rate=0.1, schedule="constant", warmup_steps=0, clip_norm=0.0)


def random_weights(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.standard_normal(shape), jnp.float32) for path, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def first_update() -> Weights:
    updates: Any = update(make_optimizer(CONFIG, 10), random_weights(1), random_weights(0))
    return updates


def update(optimizer: optax.GradientTransformation, gradient: Weights, weights: Weights) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(weights), weights)
    return updates


def test_muon_scales_all_directions_of_a_gradient_alike(first_update: Weights) -> None:
    left, _, right = np.linalg.svd(np.asarray(random_weights(1)[KERNEL]).reshape(72, 16), full_matrices=False)
    undecayed = first_update[KERNEL] + CONFIG.learning_rate * CONFIG.weight_decay * random_weights(0)[KERNEL]
    step = np.asarray(undecayed).reshape(72, 16) / (-0.1 * 0.2 * 72**0.5)
    lengths = left.T @ step @ right.T
    np.testing.assert_allclose(lengths, np.diag(np.diag(lengths)), atol=1e-4)
    assert (np.diag(lengths) > 0.6).all()
    assert (np.diag(lengths) < 1.3).all()  # five Newton-Schulz steps come no closer to 1


@pytest.mark.parametrize("path", [BIAS, *ENDS])
def test_adam_trains_biases_and_input_and_output_layers(first_update: Weights, path: tuple[str, ...]) -> None:
    nadam = optax.nadam(0.1, CONFIG.beta1, CONFIG.beta2)
    expected = update(nadam, random_weights(1), random_weights(0))
    np.testing.assert_allclose(first_update[path], expected[path], rtol=1e-4, atol=1e-6)


def test_the_state_of_muon_is_sharded_like_the_weights() -> None:
    weights, optimizer = random_weights(0), make_optimizer(CONFIG, 10)
    mesh = make_mesh(MeshConfig(data=1, fsdp=8), jax.devices())
    placed = abstract_state(weights, optimizer, mesh)
    state = new_state(
        jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), weights, placed.weights),
        optimizer,
        0,
        mesh,
    )
    structure: Any = jax.tree.structure(state.optimizer)
    assert structure == jax.tree.structure(placed.optimizer)
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == SHAPES[KERNEL]]
    assert moments  # AdamW would have two
    assert all(leaf.sharding.is_equivalent_to(placed.weights[KERNEL].sharding, 4) for leaf in moments)
    assert moments[0].addressable_shards[0].data.nbytes == moments[0].nbytes / 8


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="kind='sgd' is not one of 'adamw', 'muon'"):
        OptimizerConfig(kind="sgd")  # type: ignore[arg-type]
