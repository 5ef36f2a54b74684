"""Meshes, shardings and processes: all code for more than one device.

It contains sharding rules for weights and activations, transfer of batches to and from devices, values shared by
processes, and weights as flat dictionaries. It imports neither networks nor samplers, and reads no files.
"""

from show1_jax.parallel.mesh import (
    MeshConfig,
    all_devices,
    device_bytes,
    initialize_distributed,
    is_first_process,
    make_mesh,
    mesh_sizes,
    platform_of,
)
from show1_jax.parallel.processes import from_all_processes, from_first_process
from show1_jax.parallel.sharding import (
    BATCH_AXES,
    activation_axes,
    batch_sharding,
    check_finite,
    constrain_activation,
    constrain_batch,
    constrain_replicated,
    constrain_stored,
    gather,
    local_rows,
    not_finite,
    put_batch,
    put_rows,
    replicated_sharding,
    shardings_by_path,
    shards_of,
    stored_sharding,
    weight_shardings,
)

__all__ = [
    "BATCH_AXES",
    "MeshConfig",
    "activation_axes",
    "all_devices",
    "batch_sharding",
    "check_finite",
    "constrain_activation",
    "constrain_batch",
    "constrain_replicated",
    "constrain_stored",
    "device_bytes",
    "from_all_processes",
    "from_first_process",
    "gather",
    "initialize_distributed",
    "is_first_process",
    "local_rows",
    "make_mesh",
    "mesh_sizes",
    "not_finite",
    "platform_of",
    "put_batch",
    "put_rows",
    "replicated_sharding",
    "shardings_by_path",
    "shards_of",
    "stored_sharding",
    "weight_shardings",
]
