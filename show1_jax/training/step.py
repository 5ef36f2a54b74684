"""One step of training as one compiled program, the same for every stage."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Int32, UInt8, UInt32

from show1_jax.checkpoints.adapters import apply_adapter
from show1_jax.config.training import DenoisingTrainingConfig, StageTrainingConfig
from show1_jax.diffusion.random_keys import as_key, fold_in, numbered_keys
from show1_jax.nn.array_types import Keys, TextStates, Video
from show1_jax.parallel import constrain_activation, platform_of
from show1_jax.parallel.weights import Weights, to_state
from show1_jax.runtime import compiler_options
from show1_jax.training.losses import Losses, band_sums
from show1_jax.training.objectives import Objective
from show1_jax.training.optimizer import update_average
from show1_jax.training.state import TrainState


class Batch(NamedTuple):
    """A batch of clips, with the arrays of a `TextSource`: ids and mask, or states; empty without text."""

    video: UInt8[Array, "b t h w 3"]
    text: tuple[Array, ...] = ()


Frozen = Mapping[str, Any]
"""Weights of the frozen networks, by component: text encoder and autoencoder; and under `BASE` those of the trained
network."""
BASE: Final = "base"
"""Key of the weights of the trained network that are frozen, by path; it is absent if all weights are trained."""


@runtime_checkable
class PrepareInputs(Protocol):
    """A function that computes the objective's inputs from a batch, inside the step."""

    def __call__(self, frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> tuple[Video, TextStates | None]:
        """Compute video or latents, and text states.

        Args:
            frozen: weights of the frozen networks.
            batch: clips and captions.
            keys: one random key per example.
            training: if True, a share of the clips gets the text states of the empty caption.
        """


class Metrics(NamedTuple):
    """Metrics of one step, as means over the batch.

    Attributes:
        loss: the trained loss.
        grad_norm: global norm of the gradient, before clipping.
        parts: see `Losses.parts`.
        bands: sums and counts of the loss in bands of timesteps; None for a stage without timesteps.
    """

    loss: Float32[Array, ""]
    grad_norm: Float32[Array, ""]
    parts: dict[str, Float32[Array, ""]]
    bands: tuple[Float32[Array, " bands"], Float32[Array, " bands"]] | None


def example_keys(key: UInt32[Array, "..."], step: Int32[Array, ""], batch_size: int) -> Keys:
    """Return one random key per example: a function of the run's key, the step and the row only."""
    return numbered_keys(fold_in(as_key(key), step), batch_size)


class Model(NamedTuple):
    """The trained network with its objective, as arguments of pure functions.

    Attributes:
        graph: structure of the network.
        like: shapes of its parameters.
        objective: objective of its stage.
        prepare: computes the objective's inputs from a batch.
        config: training settings of its stage.
        scale: factor of trained low-rank changes, see `apply_adapter`.
    """

    graph: "nnx.GraphDef[nnx.Module]"
    like: nnx.State
    objective: Objective
    prepare: PrepareInputs
    config: StageTrainingConfig
    scale: float = 1.0

    def losses(self, weights: Weights, base: Weights, video: Video, text: TextStates | None, keys: Keys) -> Losses:
        """Compute the objective of every example, from the trained and the frozen weights of the network."""
        network = nnx.merge(self.graph, to_state(self.like, self.network_weights(weights, base)))
        return self.objective(network, constrain_activation(video), text, keys)

    def network_weights(self, weights: Weights, base: Weights) -> Weights:
        """Return all weights of the network from the trained and the frozen ones."""
        return apply_adapter(base, weights, self.scale)

    def split_microbatches(self, batch: Any) -> Any:
        """Split the leading axis of every array into (microbatches, rows).

        Rows are interleaved, so that no row moves to another device.
        """
        return jax.tree.map(lambda x: rearrange(x, "(b m) ... -> m b ...", m=self.config.num_microbatches), batch)


def gradient(
    model: Model, weights: Weights, frozen: Frozen, batch: Batch, keys: Keys, shardings: Any = None
) -> tuple[Weights, Metrics]:
    """Compute the gradient of the mean loss of a batch, at once or in microbatches, and its metrics. Pure.

    Args:
        model: the trained network with its objective.
        weights: trained weights, float32.
        frozen: weights of the frozen networks.
        batch: the whole batch.
        keys: one random key per example.
        shardings: shardings of the gradient, those of the weights, so that no device holds a whole gradient; or None.
    """

    def microbatch_gradient(batch: Batch, keys: Keys) -> tuple[Weights, Metrics]:
        video, text = model.prepare(frozen, batch, keys, training=True)

        def mean_loss(weights: Weights) -> tuple[Array, Losses]:
            losses = model.losses(weights, frozen.get(BASE, {}), video, text, keys)
            return losses.loss.mean(), losses

        (loss, losses), grads = jax.value_and_grad(mean_loss, has_aux=True)(weights)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        return grads, _metrics(loss, losses, model.config)

    num = model.config.num_microbatches
    if num == 1:
        grads, metrics = microbatch_gradient(batch, keys)
        return grads, metrics._replace(grad_norm=optax.tree.norm(grads))
    parts = model.split_microbatches((batch, keys))
    first = jax.eval_shape(lambda parts: microbatch_gradient(*jax.tree.map(lambda x: x[0], parts)), parts)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total: Any, part: tuple[Batch, Keys]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, microbatch_gradient(*part)), None

    (grads, summed), _ = jax.lax.scan(add, start, parts)
    grads, loss, loss_parts = jax.tree.map(lambda x: x / num, (grads, summed.loss, summed.parts))
    return grads, Metrics(loss, optax.tree.norm(grads), loss_parts, summed.bands)


def _metrics(loss: Array, losses: Losses, config: StageTrainingConfig) -> Metrics:
    """Return the metrics, with a norm of 0: the gradient's norm is known only after all microbatches are added."""
    bands = None
    if losses.timestep is not None:
        assert isinstance(config, DenoisingTrainingConfig)
        bands = band_sums(losses, config.num_timesteps, config.num_bands)
    parts = {name: part.mean() for name, part in losses.parts.items()}
    return Metrics(loss, jnp.zeros_like(loss), parts, bands)


def make_train_step(
    model: Model, optimizer: optax.GradientTransformation, shardings: Any
) -> Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]:
    """Make the compiled step: gradient, optimiser, moving average. The step donates the state's memory.

    Args:
        model: the trained network with its objective.
        optimizer: maps gradients to updates.
        shardings: a `TrainState` of shardings.
    """

    def train_step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = example_keys(state.key, state.step, len(batch.video))
        grads, metrics = gradient(model, state.weights, frozen, batch, keys, shardings.weights)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to integer powers
            updates, moments = optimizer.update(grads, state.optimizer, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = update_average(state.average, weights, state.step, model.config.optimizer.ema_decay)
        return TrainState(state.step + 1, state.key, weights, average, moments), metrics

    return jax.jit(
        train_step,
        donate_argnums=0,
        out_shardings=(shardings, shardings.step),
        compiler_options=compiler_options(platform_of(shardings.step.mesh)),
    )


def make_evaluation_step(
    model: Model, mesh: Mesh
) -> Callable[[Weights, Frozen, Batch, UInt32[Array, "..."], Int32[ArrayLike, ""], Array], tuple[Array, Array]]:
    """Make the compiled evaluation of a batch: the sum of the losses of its valid examples, and their number.

    No caption is dropped. The noise depends only on the run's key and the batch's number, so that losses of several
    steps are comparable.

    Args:
        model: the trained network with its objective.
        mesh: devices.
    """

    def evaluate(
        weights: Weights,
        frozen: Frozen,
        batch: Batch,
        key: Array,
        number: Int32[Array, ""],
        valid: Float32[Array, " b"],
    ) -> tuple[Array, Array]:
        keys = example_keys(key, -1 - number, len(batch.video))  # numbers of training steps are not negative

        def summed_losses(part: tuple[Batch, Keys, Array]) -> Array:
            batch, keys, valid = part
            video, text = model.prepare(frozen, batch, keys, training=False)
            return (model.losses(weights, frozen.get(BASE, {}), video, text, keys).loss * valid).sum()

        return jax.lax.map(summed_losses, model.split_microbatches((batch, keys, valid))).sum(), valid.sum()

    return jax.jit(evaluate, compiler_options=compiler_options(platform_of(mesh)))
