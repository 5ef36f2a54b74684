"""The device mesh and the processes behind it."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from show1_jax.errors import UserError
from show1_jax.sampling_config import MeshConfig


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the devices (all, of all processes, if not given) with axes `data` and `fsdp`.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    sizes, devices = dataclasses.asdict(config), devices or jax.devices()
    known = math.prod(size for size in sizes.values() if size != -1)
    filled = {axis: len(devices) // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != len(devices):
        asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(f"mesh {asked} does not fit {len(devices)} devices; set the sizes with --config.mesh.data/fsdp")
    grid = np.asarray(devices).reshape(tuple(filled.values()))
    return Mesh(grid, tuple(filled), axis_types=(AxisType.Auto,) * len(filled))


def initialize_distributed(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of the job; call it before anything else uses JAX.

    With all three arguments the job is what they say (`host:port` of the first process, how many, which this is).
    Without any, JAX finds them by itself on TPU pods, SLURM and the like (`sample.py --distributed`).

    Raises:
        UserError: only some of the arguments, or the others could not be reached.
    """
    given = [value is not None for value in (coordinator_address, num_processes, process_id)]
    if any(given) and not all(given):
        raise UserError("several processes need --coordinator_address, --num_processes and --process_id together")
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot join the other processes: {reason}") from error


def is_first_process() -> bool:
    """Whether this process is the one that writes files and speaks to the person."""
    return jax.process_index() == 0
