"""Floating-point operations of a training step, and the peak rate of a device."""

import math
from collections.abc import Iterator
from typing import Any, Final

import jax

from show1_jax.diffusion.random_keys import new_key, numbered_keys
from show1_jax.training.inputs import abstract_inputs
from show1_jax.training.plan import Plan
from show1_jax.training.step import Model
from show1_jax.training.trainable import trains_all

PEAK_FLOPS: Final = {
    "h200": 989e12,
    "h100": 989e12,
    "a100": 312e12,
    "tpu v6 lite": 918e12,
    "tpu v5 lite": 197e12,
    "tpu v5": 459e12,
    "tpu v4": 275e12,
}
"""Dense bfloat16 operations per second as published by the vendors, by a part of JAX's device kind."""
_CUDNN_PRODUCTS: Final = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}
"""Number of matrix products of the size of queries times keys, by JAX's name of cuDNN's call. The product that the
gradient repeats does not count."""


def peak_flops(device: jax.Device) -> float | None:
    """Return the dense bfloat16 operations per second that the vendor states for a device, or None if unknown."""
    kind = device.device_kind.lower()
    return next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)


def model_flops(plan: Plan, model: Model) -> float:
    """Return the operations of a step that train the network: three times its forward pass over the batch.

    If few weights are trained, twice: their own gradient is not counted, that of the activations is.
    Rematerialised activations, the frozen networks and the optimiser are not counted, as in the usual definition of
    model FLOP utilisation (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    video, text = abstract_inputs(plan, batch_size=1)
    keys = jax.eval_shape(lambda: numbered_keys(new_key(0), 1))
    forward = jax.make_jaxpr(lambda weights, *inputs: model.losses(weights, {}, *inputs).loss)
    passes = 3.0 if trains_all(plan.training) else 2.0
    return passes * count_flops(forward(plan.shapes(), video, text, keys).jaxpr) * plan.training.batch_size


def count_flops(jaxpr: Any) -> float:
    """Count the operations of all matrix products and convolutions of a traced program, and of cuDNN's attention.

    A multiplication with its addition counts as two. XLA counts operations too, but on some devices only after the
    program is compiled.

    Args:
        jaxpr: of `jax.make_jaxpr`; the body of a scan counts once per iteration.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inputs = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(inputs)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features
        elif products := _CUDNN_PRODUCTS.get(equation.primitive.name):
            query, key = (variable.aval.shape for variable in equation.invars[:2])
            total += 2.0 * products * math.prod(query) * key[1]
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += times * sum(count_flops(part) for part in inner_programs(equation.params.values()))
    return total


def inner_programs(values: Any) -> Iterator[Any]:
    """Yield the programs among an equation's parameters, e.g. the body of a scan."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from inner_programs(value)
        elif hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
            yield inner
