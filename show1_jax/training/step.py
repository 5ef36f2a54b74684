"""One step of training, as one compiled program: the same for every stage."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Int32, UInt8, UInt32

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
    """Clips, and for each what the text encoding takes: ids and mask, or states, or nothing."""

    video: UInt8[Array, "b t h w 3"]
    text: tuple[Array, ...] = ()


Frozen = Mapping[str, Any]
"""Weights that are not trained, by component: text encoder and autoencoder."""


@runtime_checkable
class Prepare(Protocol):
    """Makes of a batch, in the step, what the objective takes."""

    def __call__(self, frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> tuple[Video, TextStates | None]:
        """Video or latents, and text states; while training, of a share of the clips those of the empty caption."""


class Metrics(NamedTuple):
    """Means over a batch; and the loss in bands of timesteps as sums and counts, for stages that have timesteps."""

    loss: Float32[Array, ""]
    grad_norm: Float32[Array, ""]
    parts: dict[str, Float32[Array, ""]]
    bands: tuple[Float32[Array, " bands"], Float32[Array, " bands"]] | None


def example_keys(key: UInt32[Array, "..."], step: Int32[Array, ""], batch_size: int) -> Keys:
    """A random key for every example: of the run, the step and the row alone."""
    return numbered_keys(fold_in(as_key(key), step), batch_size)


class Model(NamedTuple):
    """What is trained, as pure functions take it.

    Attributes:
        graph: the network's structure.
        like: its parameters, as shapes.
        objective: of its stage.
        prepare: what the objective takes, of a batch.
        config: of its stage.
    """

    graph: "nnx.GraphDef[nnx.Module]"
    like: nnx.State
    objective: Objective
    prepare: Prepare
    config: StageTrainingConfig

    def losses(self, weights: Weights, video: Video, text: TextStates | None, keys: Keys) -> Losses:
        """The objective of every example."""
        network = nnx.merge(self.graph, to_state(self.like, weights))
        return self.objective(network, constrain_activation(video), text, keys)

    def in_parts(self, batch: Any) -> Any:
        """A batch as its microbatches; interleaved, so that every device keeps the rows that it has."""
        return jax.tree.map(lambda x: rearrange(x, "(b m) ... -> m b ...", m=self.config.num_microbatches), batch)


def gradient(
    model: Model, weights: Weights, frozen: Frozen, batch: Batch, keys: Keys, shardings: Any = None
) -> tuple[Weights, Metrics]:
    """The gradient of the mean loss of a batch, whole or in microbatches, and its metrics. Pure.

    Args:
        model: what is trained.
        weights: float32.
        frozen: the other networks' weights.
        batch: whole.
        keys: one an example.
        shardings: of the gradient, as of the weights; it is never whole on a device then.
    """

    def of_part(batch: Batch, keys: Keys) -> tuple[Weights, Metrics]:
        video, text = model.prepare(frozen, batch, keys, training=True)

        def mean_loss(weights: Weights) -> tuple[Array, Losses]:
            losses = model.losses(weights, video, text, keys)
            return losses.loss.mean(), losses

        (loss, losses), grads = jax.value_and_grad(mean_loss, has_aux=True)(weights)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        return grads, _metrics(loss, losses, model.config)

    num = model.config.num_microbatches
    if num == 1:
        grads, metrics = of_part(batch, keys)
        return grads, metrics._replace(grad_norm=optax.tree.norm(grads))
    parts = model.in_parts((batch, keys))
    first = jax.eval_shape(lambda parts: of_part(*jax.tree.map(lambda x: x[0], parts)), parts)
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total: Any, part: tuple[Batch, Keys]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(*part)), None

    (grads, summed), _ = jax.lax.scan(add, start, parts)
    grads, loss, of_parts = jax.tree.map(lambda x: x / num, (grads, summed.loss, summed.parts))
    return grads, Metrics(loss, optax.tree.norm(grads), of_parts, summed.bands)


def _metrics(loss: Array, losses: Losses, config: StageTrainingConfig) -> Metrics:
    """All but the gradient's norm, which is known once the parts are added up."""
    bands = None
    if losses.timestep is not None:
        assert isinstance(config, DenoisingTrainingConfig)
        bands = band_sums(losses, config.num_timesteps, config.num_bands)
    parts = {name: part.mean() for name, part in losses.parts.items()}
    return Metrics(loss, jnp.zeros_like(loss), parts, bands)


def make_train_step(
    model: Model, optimizer: optax.GradientTransformation, shardings: Any
) -> Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]:
    """A compiled step: gradient, optimiser, average. It takes the memory of the state that it is given.

    Args:
        model: what is trained.
        optimizer: gradients to updates.
        shardings: of every part of the state.
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
    """A compiled evaluation: the sum of the losses of a batch's valid examples, all with captions, and their number.

    Its noise is of the run's key and the batch's number alone, so that the loss is always of the same.
    """

    def evaluate(
        weights: Weights,
        frozen: Frozen,
        batch: Batch,
        key: Array,
        number: Int32[Array, ""],
        valid: Float32[Array, " b"],
    ) -> tuple[Array, Array]:
        keys = example_keys(key, -1 - number, len(batch.video))  # no step of training has a number below 0

        def of_part(part: tuple[Batch, Keys, Array]) -> Array:
            batch, keys, valid = part
            video, text = model.prepare(frozen, batch, keys, training=False)
            return (model.losses(weights, video, text, keys).loss * valid).sum()

        return jax.lax.map(of_part, model.in_parts((batch, keys, valid))).sum(), valid.sum()

    return jax.jit(evaluate, compiler_options=compiler_options(platform_of(mesh)))
