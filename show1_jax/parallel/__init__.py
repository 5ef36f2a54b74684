"""Meshes, shardings and processes: everything that knows there is more than one device.

Rules for weights and activations, batches put on devices and gathered from them, values that several processes agree
on, and weights as flat dictionaries. Networks, samplers and files are unknown here.
"""

from show1_jax.parallel.mesh import (
    MeshConfig,
    all_devices,
    initialize_distributed,
    is_first_process,
    make_mesh,
    mesh_sizes,
    platform_of,
)
from show1_jax.parallel.processes import from_all_processes, from_first_process
from show1_jax.parallel.sharding import (
    BATCH_AXES,
    batch_sharding,
    check_finite,
    constrain_activation,
    constrain_batch,
    gather,
    local_rows,
    put_batch,
    put_rows,
    replicated_sharding,
    shardings_by_path,
    weight_shardings,
)

__all__ = [
    "BATCH_AXES",
    "MeshConfig",
    "all_devices",
    "batch_sharding",
    "check_finite",
    "constrain_activation",
    "constrain_batch",
    "from_all_processes",
    "from_first_process",
    "gather",
    "initialize_distributed",
    "is_first_process",
    "local_rows",
    "make_mesh",
    "mesh_sizes",
    "platform_of",
    "put_batch",
    "put_rows",
    "replicated_sharding",
    "shardings_by_path",
    "weight_shardings",
]
