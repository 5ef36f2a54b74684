"""Memory that a training run requires on each device, from shapes only: a laptop is enough to plan a job for a pod."""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

import jax
from flax import nnx
from jax.sharding import AbstractMesh
from jaxtyping import Array

from show1_jax.checkpoints.adapters import adapted_kernel
from show1_jax.checkpoints.networks import architecture_of, make_network
from show1_jax.config.training import StageTrainingConfig
from show1_jax.diffusion.random_keys import new_key, numbered_keys
from show1_jax.parallel import mesh_sizes, shardings_by_path
from show1_jax.parallel.weights import Weights, WeightShapes, to_weights
from show1_jax.training.flops import inner_programs
from show1_jax.training.inputs import abstract_inputs
from show1_jax.training.plan import Plan
from show1_jax.training.state import abstract_state
from show1_jax.training.step import Batch, Frozen, Keys, Model
from show1_jax.training.trainable import frozen_shapes, trained_shapes, trains_all

GB = 1e9
_USED_SHARE: Final = 0.75
_DEVICE_SIZES: Final = (16, 24, 40, 80)
_UNEVEN_RATIO = 1.5
"""Ratio of a device's weights to an even share, above which the report adds a hint."""


class TrainingMemory(NamedTuple):
    """The memory that each device of a job requires.

    Attributes:
        sizes: sizes of the mesh's axes.
        num_parameters: number of the network's parameters.
        num_trained: number of those that are trained.
        needs: bytes by use.
    """

    sizes: Mapping[str, int]
    num_parameters: int
    num_trained: int
    needs: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bytes of all uses."""
        return sum(self.needs.values())


def describe_training_memory(plan: Plan, num_devices: int, activation_bytes: int) -> str:
    """Return a table of the memory that each device requires, in GB (1e9 bytes), by use; see `training_memory`.

    The last line leaves room for what is not counted.
    """
    return _format_report(plan, training_memory(plan, num_devices, activation_bytes))


def training_memory(plan: Plan, num_devices: int, activation_bytes: int) -> TrainingMemory:
    """Return the memory that each device requires.

    Counted are the weights, sharded over the mesh; the average, the optimiser's moments and the gradient of those that
    are trained; the weights with their low-rank changes; the frozen networks in the compute dtype; and the activations.
    Not counted are gradients of weights with low-rank changes, layer by layer, the activations of the frozen networks,
    and the compiler's own buffers.

    Args:
        plan: plan of the stage.
        num_devices: number of devices of the whole job.
        activation_bytes: bytes of activations per clip; see `activation_bytes`.

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
    needs: dict[str, float] = {
        "weights": _tree_bytes(state.weights) + _sharded_bytes(base, mesh),
        "average": _tree_bytes(state.average),
        "optimizer": _tree_bytes(state.optimizer),
        "gradient": gradients * _tree_bytes(state.weights),
        "frozen networks": sum(_frozen_bytes(plan, name, mesh) for name in plan.frozen),
        f"activations, {at_a_time} clips": activation_bytes * at_a_time,
    }
    if adapted := {kernel: shapes[kernel] for path in trained if (kernel := adapted_kernel(path))}:
        needs["adapted weights"] = _sharded_bytes(adapted, mesh)
    return TrainingMemory(sizes, _num_elements(shapes), _num_elements(trained), needs)


def _format_report(plan: Plan, memory: TrainingMemory) -> str:
    """Format the table."""
    sizes, num_all, num_trained, needs = memory
    training, spec = plan.training, plan.spec
    mesh = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    lines = [
        f"{plan.stage} on {math.prod(sizes.values())} devices, mesh {mesh}",
        f"  {num_all / 1e6:,.1f} million parameters{_trained_part(num_trained, plan)}; {plan.dtype} activations; "
        f"remat={training.remat}",
        f"  {training.batch_size} clips of {spec.num_frames} x {spec.height} x {spec.width} a step, in "
        f"{training.num_microbatches} microbatches{_batch_advice(training, sizes)}",
        *(f"  {name:<22}{size / GB:>9.3f} GB" for name, size in needs.items()),
        f"  {'each device':<22}{memory.total / GB:>9.3f} GB",
        f"  with {_USED_SHARE:.0%} of its memory, as JAX uses by default: "
        + ", ".join(f"{size} GB {_suffices(memory.total, size)}" for size in _DEVICE_SIZES),
    ]
    if needs["weights"] > _UNEVEN_RATIO * 4 * num_all / (sizes["fsdp"] * sizes["tensor"]):
        lines.append(f"  fsdp={sizes['fsdp']} divides few of the weights: a smaller fsdp with a larger data needs less")
    return "\n".join(lines)


def _suffices(needed: float, device_gb: int) -> str:
    """Return whether a device suffices; vendors count its memory in GiB, and call them GB."""
    return "suffices" if needed <= _USED_SHARE * device_gb * 2**30 else "does not suffice"


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


def _tree_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _frozen_bytes(plan: Plan, name: str, mesh: AbstractMesh) -> int:
    record = plan.frozen_record(name)
    architecture = architecture_of(record)
    model = make_network(record.kind, architecture, dtype=plan.dtype, param_dtype=plan.dtype)
    return _sharded_bytes(to_weights(nnx.state(model, nnx.Param)), mesh)


def activation_bytes(plan: Plan) -> int:
    """Return the bytes of activations per clip when most are alive: the increase from one clip to two.

    These are the saved activations, and those of the block that `remat` recomputes at that time. The operations are
    counted in their order and without fusion, so that a compiled step needs less.
    """
    model = model_without_inputs(plan)
    shapes = to_weights(model.like)
    trained = trained_shapes(plan.training, shapes)
    frozen = frozen_shapes(plan.training, shapes, trained)

    def loss(weights: Weights, base: Weights, *inputs: Any) -> Array:
        return model.losses(weights, base, *inputs).loss.sum()

    def most_bytes(batch_size: int) -> int:
        keys = jax.eval_shape(lambda: numbered_keys(new_key(0), batch_size))
        gradient = jax.make_jaxpr(jax.grad(loss))(trained, frozen, *abstract_inputs(plan, batch_size), keys)
        return peak_bytes(gradient.jaxpr)

    return most_bytes(2) - most_bytes(1)


def model_without_inputs(plan: Plan) -> Model:
    """Return the model of a stage from shapes, to trace its losses for given video and text states."""
    graph, like = plan.network()
    return Model(graph, like, plan.objective(), _no_inputs, plan.training, plan.lora_scale)


def peak_bytes(jaxpr: Any) -> int:
    """Return the bytes of the arrays that a traced program has made and still needs, when they are most.

    Its arguments are not counted.

    Args:
        jaxpr: of `jax.make_jaxpr`.
    """
    uses = [*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars]
    last_use = {id(variable): number for number, variables in enumerate(uses) for variable in variables}
    alive: dict[int, int] = {}
    total = peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        made = {id(variable): _num_bytes(variable.aval) for variable in equation.outvars}
        inside = max((peak_bytes(part) for part in inner_programs(equation.params.values())), default=0)
        peak = max(peak, total + max(sum(made.values()), inside))
        alive |= {variable: size for variable, size in made.items() if variable in last_use}
        total += sum(size for variable, size in made.items() if variable in last_use)
        total -= sum(alive.pop(variable, 0) for variable in map(id, equation.invars) if last_use[variable] == number)
    return peak


def _num_bytes(array: Any) -> int:
    """Return the bytes of an array's shape; random keys have a dtype without a size, and are small."""
    return math.prod(array.shape) * getattr(array.dtype, "itemsize", 0)


def _no_inputs(frozen: Frozen, batch: Batch, keys: Keys, *, training: bool) -> NoReturn:
    raise AssertionError("shapes need no inputs")
