"""Adapters: arrays that change some weights of a network, by path, so that no layer knows of them.

An adapter is a dictionary of arrays. An array with the path of a weight replaces it. A pair `(*layer, "lora_a")` and
`(*layer, "lora_b")` is added to the layer's kernel as a matrix of low rank: W + scale A B (LoRA, Hu et al. 2021, arXiv
2106.09685, equation 3).
"""

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from show1_jax.config.settings import Settings
from show1_jax.parallel.weights import WeightPath, Weights, WeightShapes

ADAPTER: Final = "adapter"
"""Kind of a component that is an adapter; it has the name of the component that it adapts."""
LORA_A: Final = "lora_a"
LORA_B: Final = "lora_b"
KERNEL: Final = "kernel"


@dataclass(frozen=True)
class AdapterConfig(Settings):
    """The record of an adapter, in the place of an architecture.

    Attributes:
        base: digest of the component that it was trained on (`Manifest.digest`).
        rank: rank of the low-rank pairs; 0 if there are none.
        alpha: their factor is alpha / rank.
    """

    base: str
    rank: int = 0
    alpha: float = 1.0

    @property
    def scale(self) -> float:
        """Factor of the low-rank changes, for `apply_adapter`."""
        return self.alpha / self.rank if self.rank else 1.0


def lora_shapes(kernels: WeightShapes, rank: int) -> WeightShapes:
    """Return the float32 shapes of the pairs that adapt some kernels.

    A has the kernel's axes with `rank` instead of the output channels, and B has (rank, output channels). So the pair
    of a convolution is a convolution to `rank` channels and one of kernel size 1, as in other implementations.

    Args:
        kernels: shapes of the kernels, by path.
        rank: rank of the change, 1 or more.
    """
    shapes: WeightShapes = {}
    for path, kernel in kernels.items():
        *inputs, outputs = kernel.shape
        shapes[*path[:-1], LORA_A] = jax.ShapeDtypeStruct((*inputs, rank), jnp.float32)
        shapes[*path[:-1], LORA_B] = jax.ShapeDtypeStruct((rank, outputs), jnp.float32)
    return shapes


def adapted_kernel(path: WeightPath) -> WeightPath | None:
    """Return the path of the kernel that A of a low-rank pair adapts; None for the path of any other array."""
    return (*path[:-1], KERNEL) if path[-1] == LORA_A else None


def changed_weight(path: WeightPath) -> WeightPath:
    """Return the path of the weight that an array of an adapter changes."""
    return (*path[:-1], KERNEL) if path[-1] in (LORA_A, LORA_B) else path


def apply_adapter(frozen: Weights, adapter: Weights, scale: float) -> Weights:
    """Return all weights of a network from the frozen ones and an adapter. Pure and differentiable.

    Args:
        frozen: all weights that the adapter does not replace, by path, of any dtype; those with a low-rank change
            become float32.
        adapter: its arrays, see the module.
        scale: factor of the low-rank changes, alpha / rank; an array that replaces a weight is not scaled.
    """
    weights = frozen | {path: array for path, array in adapter.items() if path[-1] not in (LORA_A, LORA_B)}
    for path, a in adapter.items():
        if kernel := adapted_kernel(path):
            change = scale * low_rank_product(a, adapter[*path[:-1], LORA_B])
            weights[kernel] = frozen[kernel].astype(jnp.float32) + change
    return weights


def weight_changes(base: Weights, adapter: Weights, scale: Float[ArrayLike, ""]) -> Weights:
    """Return the float32 change of every weight that an adapter changes, by path.

    Args:
        base: the weights that it belongs to, of any dtype.
        adapter: its arrays, float32.
        scale: see `apply_adapter`.
    """
    changes: Weights = {}
    for path, array in adapter.items():
        if kernel := adapted_kernel(path):
            changes[kernel] = jnp.multiply(scale, low_rank_product(array, adapter[*path[:-1], LORA_B]))
        elif path[-1] != LORA_B:
            changes[path] = array - base[path].astype(jnp.float32)
    return changes


def low_rank_product(a: Float[Array, "*inputs r"], b: Float[Array, "r outputs"]) -> Float[Array, "*inputs outputs"]:
    """Return A B in the shape of the kernel; in full float32, also on accelerators, which round products by default."""
    return jnp.einsum("...r,ro->...o", a, b, precision=jax.lax.Precision.HIGHEST)
