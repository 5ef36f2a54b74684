"""Meshes, shardings and processes: everything that knows there is more than one device."""

from show1_jax.parallel.mesh import MeshConfig, initialize_distributed, is_first_process, make_mesh
from show1_jax.parallel.processes import from_first_process
from show1_jax.parallel.sharding import (
    batch_sharding,
    constrain_batch,
    gather,
    put_batch,
    replicated_sharding,
    weight_shardings,
)

__all__ = [
    "MeshConfig",
    "batch_sharding",
    "constrain_batch",
    "from_first_process",
    "gather",
    "initialize_distributed",
    "is_first_process",
    "make_mesh",
    "put_batch",
    "replicated_sharding",
    "weight_shardings",
]
