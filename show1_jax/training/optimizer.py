"""AdamW or Muon with warm-up and decay, and the average of the weights."""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32

from show1_jax.config.training import OptimizerConfig
from show1_jax.parallel.weights import Weights

_ENDS = frozenset({"conv_in", "conv_out"})
"""Layers whose inputs or outputs are pixels or latents, not features."""


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of every step, from 0 to `num_steps`: see `OptimizerConfig`."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, num_steps)
    rest = max(num_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_share),
        "linear": optax.linear_schedule(peak, peak * config.final_share, rest),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def make_optimizer(config: OptimizerConfig, num_steps: int, kept: Collection[str] = ()) -> optax.GradientTransformation:
    """Clipping by the norm of all gradients, then AdamW or Muon; biases and norms are not decayed.

    Args:
        config: of the optimiser.
        num_steps: of the run.
        kept: modules of the network, by their first name, that stay as they are.
    """
    trained = _make_optimizer(config, num_steps)
    if not kept:
        return trained

    def label(path: tuple[Any, ...], weight: Array) -> str:
        return "kept" if path[0].key[0] in kept else "trained"

    labels = functools.partial(jax.tree.map_with_path, label)
    return optax.partition({"trained": trained, "kept": optax.set_to_zero()}, labels)


def _make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.kind == "muon":
        return optax.chain(clip, _muon(config, num_steps))
    adamw = optax.adamw(
        learning_rate(config, num_steps),
        config.beta1,
        config.beta2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=lambda weights: jax.tree.map(lambda weight: weight.ndim > 1, weights),
    )
    return optax.chain(clip, adamw)


def _muon(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Muon of the hidden matrices, a convolution's being taps and inputs by outputs; Adam of everything else.

    Updates have the root mean square that AdamW's have (Moonlight, arXiv 2502.16982, equation 4), so that one learning
    rate fits both.
    """

    def matrix(path: tuple[Any, ...], weight: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if weight.ndim < 2 or not _ENDS.isdisjoint(path[0].key):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(weight.ndim - 1)), weight.ndim - 1)

    return optax.contrib.muon(
        learning_rate(config, num_steps),
        weight_decay=config.weight_decay,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        eps=config.epsilon,
        muon_weight_dimension_numbers=functools.partial(jax.tree.map_with_path, matrix),
        consistent_rms=0.2,
    )


def update_average(average: Weights, weights: Weights, step: Int32[Array, ""], decay: float) -> Weights:
    """The exponential average after step number `step`, from 0; young averages forget faster (see `ema_decay`)."""
    age: Float32[Array, ""] = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + age) / (10 + age))
    return jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), average, weights)
