"""Memory that a training run requires on each device, from shapes only: a laptop is enough to plan a job for a pod."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh

from show1_jax.checkpoints.adapters import adapted_kernel
from show1_jax.checkpoints.networks import architecture_of, make_network
from show1_jax.config.training import StageTrainingConfig
from show1_jax.diffusion.random_keys import new_key, numbered_keys
from show1_jax.parallel import mesh_sizes, shardings_by_path
from show1_jax.parallel.weights import WeightShapes, to_weights
from show1_jax.training.inputs import abstract_inputs
from show1_jax.training.plan import Plan
from show1_jax.training.state import abstract_state
from show1_jax.training.step import Batch, Frozen, Keys, Model
from show1_jax.training.trainable import frozen_shapes, trains_all

GB = 1e9
_UNEVEN_RATIO = 1.5
"""Ratio of a device's weights to an even share, above which the report adds a hint."""


def describe_training_memory(plan: Plan, num_devices: int, activation_bytes: int) -> str:
    """Return a table of the memory that each device requires, in GB (1e9 bytes), by use.

    Counted are the weights (float32, sharded over the mesh); the average, the optimiser's moments and the gradient of
    those that are trained; the weights with their low-rank changes; the frozen networks in the compute dtype; and the
    saved activations. Not counted are activations that `remat` recomputes block by block, gradients of weights with
    low-rank changes, layer by layer, and the compiler's own buffers. Leave room for them.

    Args:
        plan: plan of the stage.
        num_devices: number of devices of the whole job.
        activation_bytes: bytes of saved activations per clip; see `saved_activation_bytes`.

    Raises:
        UserError: the mesh does not fit the devices.
    """
    sizes = mesh_sizes(plan.config.train.mesh, num_devices, "train.mesh")
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    shapes, trained, training = plan.shapes(), plan.trained_shapes(), plan.training
    state = abstract_state(trained, plan.optimizer(), mesh)
    base = frozen_shapes(training, shapes, trained)
    places = sizes["data"] * sizes["fsdp"]
    at_a_time = math.ceil(training.batch_size / training.num_microbatches / places)
    gradients = 2 if training.num_microbatches > 1 else 1
    needs = {
        "weights": _bytes_per_device(state.weights) + _sharded_bytes(base, mesh),
        "average": _bytes_per_device(state.average),
        "optimizer": _bytes_per_device(state.optimizer),
        "gradient": gradients * _bytes_per_device(state.weights),
        "frozen networks": sum(_frozen_bytes(plan, name, mesh) for name in plan.frozen),
        f"activations, {at_a_time} clips": activation_bytes * at_a_time,
    }
    if adapted := {kernel: shapes[kernel] for path in trained if (kernel := adapted_kernel(path))}:
        needs["adapted weights"] = _sharded_bytes(adapted, mesh)
    return _format_report(plan, sizes, (_num_elements(shapes), _num_elements(trained)), needs)


def _format_report(
    plan: Plan, sizes: Mapping[str, int], num_parameters: tuple[int, int], needs: Mapping[str, float]
) -> str:
    """Format the table; the numbers of parameters are those of the network and those that are trained."""
    num_all, num_trained = num_parameters
    training, spec = plan.training, plan.spec
    mesh = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    lines = [
        f"{plan.stage} on {math.prod(sizes.values())} devices, mesh {mesh}",
        f"  {num_all / 1e6:,.1f} million parameters{_trained_part(num_trained, plan)}; {plan.dtype} activations; "
        f"remat={training.remat}",
        f"  {training.batch_size} clips of {spec.num_frames} x {spec.height} x {spec.width} a step, in "
        f"{training.num_microbatches} microbatches{_batch_advice(training, sizes)}",
        *(f"  {name:<22}{size / GB:>9.3f} GB" for name, size in needs.items()),
        f"  {'each device':<22}{sum(needs.values()) / GB:>9.3f} GB",
    ]
    if needs["weights"] > _UNEVEN_RATIO * 4 * num_all / (sizes["fsdp"] * sizes["tensor"]):
        lines.append(f"  fsdp={sizes['fsdp']} divides few of the weights: a smaller fsdp with a larger data needs less")
    return "\n".join(lines)


def _batch_advice(training: StageTrainingConfig, sizes: Mapping[str, int]) -> str:
    """Return a hint if the batch does not divide over the mesh, else nothing. The table counts as if it did."""
    multiple = sizes["data"] * sizes["fsdp"] * training.num_microbatches
    return f": use a multiple of {multiple} clips" if training.batch_size % multiple else ""


def _trained_part(num_trained: int, plan: Plan) -> str:
    return "" if trains_all(plan.training) else f", of which {num_trained / 1e6:,.3f} million are trained"


def _num_elements(shapes: WeightShapes) -> int:
    return sum(math.prod(leaf.shape) for leaf in shapes.values())


def _sharded_bytes(shapes: WeightShapes, mesh: AbstractMesh) -> int:
    """Return the bytes of weights on each device."""
    shardings = shardings_by_path(shapes, mesh)
    return sum(
        math.prod(shardings[path].shard_shape(leaf.shape)) * leaf.dtype.itemsize for path, leaf in shapes.items()
    )


def _bytes_per_device(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _frozen_bytes(plan: Plan, name: str, mesh: AbstractMesh) -> int:
    record = plan.frozen_record(name)
    architecture = architecture_of(record)
    model = make_network(record.kind, architecture, dtype=plan.dtype, param_dtype=plan.dtype)
    return _sharded_bytes(to_weights(nnx.state(model, nnx.Param)), mesh)


def saved_activation_bytes(plan: Plan) -> int:
    """Return the bytes of activations that the forward pass saves per clip: the increase from one clip to two."""
    graph, like = plan.network()
    model, trained = (
        Model(graph, like, plan.objective(), _no_inputs, plan.training, plan.lora_scale),
        plan.trained_shapes(),
    )

    def saved_bytes(batch_size: int) -> int:
        video, text = abstract_inputs(plan, batch_size)
        keys = jax.eval_shape(lambda: numbered_keys(new_key(0), batch_size))
        saved = jax.eval_shape(
            lambda weights, base, *inputs: jax.vjp(
                lambda weights: model.losses(weights, base, *inputs).loss.sum(), weights
            )[1],
            *(trained, frozen_shapes(plan.training, plan.shapes(), trained), video, text, keys),
        )
        return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(saved))

    return saved_bytes(2) - saved_bytes(1)


def _no_inputs(frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> NoReturn:
    raise AssertionError("shapes need no inputs")
