"""The device mesh and the processes behind it."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from show1_jax.errors import UserError
from show1_jax.sampling_config import MeshConfig


def mesh_sizes(config: MeshConfig, num_devices: int, setting: str = "mesh") -> dict[str, int]:
    """The sizes of the mesh's axes over so many devices, with -1 filled in.

    Args:
        config: the sizes asked for.
        num_devices: that they must multiply to.
        setting: where a person sets them in the config.

    Raises:
        UserError: they do not.
    """
    sizes = dataclasses.asdict(config)
    known = math.prod(size for size in sizes.values() if size != -1)
    filled = {axis: num_devices // known if size == -1 else size for axis, size in sizes.items()}
    if math.prod(filled.values()) != num_devices:
        asked = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise UserError(
            f"mesh {asked} does not fit {num_devices} devices; set the sizes with --config.{setting}.{'/'.join(sizes)}"
        )
    return filled


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None, setting: str = "mesh") -> Mesh:
    """A mesh of the devices (all, of all processes, if not given) with the axes that are `config`'s fields.

    Raises:
        UserError: the axes do not multiply to the number of devices; see `mesh_sizes`.
    """
    devices = devices or jax.devices()
    sizes = mesh_sizes(config, len(devices), setting)
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def platform_of(mesh: Mesh) -> str:
    """What kind of devices a mesh is of: `cpu`, `gpu` or `tpu`."""
    return mesh.devices.flat[0].platform


def initialize_distributed(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of the job; call it before anything else uses JAX.

    With all three arguments the job is what they say (`host:port` of the first process, how many, which this is).
    Without any, JAX finds them by itself on TPU pods, SLURM and the like (`--distributed`).

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
