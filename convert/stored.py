"""Reads of networks in our own checkpoints, for the commands that start from one."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from show1_jax.checkpoints.arrays import load_weights, weight_shapes
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.networks import architecture_of
from show1_jax.config.sampling import MeshConfig
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture
from show1_jax.parallel import make_mesh
from show1_jax.parallel.weights import WeightPath, to_state, to_weights

from .rules import Problems, check_values


def stored_architecture(checkpoint: Path, name: str, component: Component) -> Architecture:
    """Return the architecture of a component.

    Raises:
        UserError: an unknown kind of component, or damaged settings.
    """
    try:
        return architecture_of(component)
    except UserError as error:
        raise UserError(f"{checkpoint}: {name}: {error}; convert again") from None


def cpu_mesh() -> Mesh:
    """Return a mesh of one CPU device, for functions that load to a mesh."""
    return make_mesh(MeshConfig(), jax.local_devices(backend="cpu")[:1])


def read_weights(
    checkpoint: Path, name: str, state: nnx.State, dtype: np.dtype | None = None
) -> dict[WeightPath, np.ndarray]:
    """Return the weights of a component, each in its stored dtype, in the host's memory.

    Args:
        checkpoint: the checkpoint's directory.
        name: the name of the component.
        state: the parameters of its network, as `parameters` returns them.
        dtype: the dtype in which they will be written, only checked here; None keeps each tensor's.

    Raises:
        UserError: no such component; weights that are damaged, do not fit the network, or are NaN, infinite or too
            large for `dtype`.
    """
    stored = weight_shapes(checkpoint, name)
    as_stored = {
        path: jax.ShapeDtypeStruct(leaf.shape, stored.get(path, leaf).dtype) for path, leaf in to_weights(state).items()
    }
    on_host = jax.sharding.SingleDeviceSharding(cpu_mesh().devices.item())
    loaded = load_weights(checkpoint, name, to_state(state, as_stored), shardings=on_host)
    weights = {path: np.asarray(array) for path, array in to_weights(loaded).items()}
    problems = Problems()
    for path, array in weights.items():
        check_values("/".join(path), array, dtype or array.dtype, problems)
    problems.raise_any(f"{checkpoint}: {name}", "use another checkpoint, or a wider --dtype")
    return weights
