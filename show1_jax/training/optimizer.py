"""AdamW or Muon with warm-up and decay of the learning rate, and the moving average of the weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32

from show1_jax.config.training import OptimizerConfig
from show1_jax.parallel.weights import Weights

_INPUT_OUTPUT_LAYERS = frozenset({"conv_in", "conv_out"})
"""Layers whose inputs or outputs are pixels or latents, not features; Muon does not train them."""


def learning_rate(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step, from 0 to `num_steps`; see `OptimizerConfig`."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, num_steps)
    decay_steps = max(num_steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final_share),
        "linear": optax.linear_schedule(peak, peak * config.final_share, decay_steps),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Make the optimiser: clipping by the global norm of the gradient, then AdamW or Muon.

    Biases and norms have no weight decay.

    Args:
        config: settings of the optimiser.
        num_steps: number of steps of the run.
    """
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
    """Make Muon for the hidden matrices, with Adam for all other weights.

    The matrix of a convolution has kernel positions and input channels as rows and output channels as columns. Updates
    have the root mean square of AdamW's updates (Moonlight, arXiv 2502.16982, equation 4), so that one learning rate
    fits both.
    """

    def matrix(path: tuple[Any, ...], weight: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if weight.ndim < 2 or not _INPUT_OUTPUT_LAYERS.isdisjoint(path[0].key):
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
    """Return the exponential moving average of the weights after a step.

    The decay is min(decay, (1 + step) / (10 + step)): in the first steps the average follows the weights faster.

    Args:
        average: the average before the step.
        weights: the weights after the step.
        step: number of the step, from 0.
        decay: `OptimizerConfig.ema_decay`, from 0 to 1.
    """
    age: Float32[Array, ""] = step.astype(jnp.float32)
    current_decay = jnp.minimum(decay, (1 + age) / (10 + age))
    return jax.tree.map(lambda old, new: old + (1 - current_decay) * (new - old), average, weights)
