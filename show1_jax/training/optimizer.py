"""AdamW with warm-up and decay, and the average of the weights."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32

from show1_jax.training_config import OptimizerConfig
from show1_jax.weights import Weights


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


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clipping by the norm of all gradients, then AdamW; biases and norms are not decayed."""
    adamw = optax.adamw(
        learning_rate(config, num_steps),
        config.beta1,
        config.beta2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=lambda weights: jax.tree.map(lambda weight: weight.ndim > 1, weights),
    )
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, adamw)


def update_average(average: Weights, weights: Weights, step: Int32[Array, ""], decay: float) -> Weights:
    """The exponential average after step number `step`, from 0; young averages forget faster (see `ema_decay`)."""
    age: Float32[Array, ""] = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + age) / (10 + age))
    return jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), average, weights)
