"""The device mesh and the processes behind it."""

import contextlib
import dataclasses
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from show1_jax.config.sampling import MeshConfig
from show1_jax.errors import BAD_INPUT, UserError

_MAX_PROCESSES: Final = 1_000_000
_PATIENCE_SECONDS: Final = 300
_SAY_AFTER_SECONDS: Final = 5


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


def all_devices() -> list[jax.Device]:
    """All devices of all processes.

    Raises:
        UserError: there are none of the kind that JAX is told to use.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX lacks the plugin of that kind
        reason = (str(error).splitlines() or ["none of that kind"])[0].partition(" (set JAX_PLATFORMS")[0]
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no devices ({reason}); correct JAX_PLATFORMS={platforms}, or install JAX for that kind"
        ) from error


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None, setting: str = "mesh") -> Mesh:
    """A mesh of the devices (all, of all processes, if not given) with the axes that are `config`'s fields.

    Raises:
        UserError: the axes do not multiply to the number of devices; see `mesh_sizes`.
    """
    devices = devices or all_devices()
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
        UserError: only some of the arguments, one that cannot be, or the others could not be reached.
    """
    given = [value is not None for value in (coordinator_address, num_processes, process_id)]
    if any(given) and not all(given):
        raise UserError("several processes need --coordinator_address, --num_processes and --process_id together")
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        _check_processes(coordinator_address, num_processes, process_id)
    try:
        with _patience(coordinator_address):
            jax.distributed.initialize(
                coordinator_address, num_processes, process_id, initialization_timeout=_PATIENCE_SECONDS
            )
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot join the other processes: {reason}") from error


def _check_processes(coordinator_address: str, num_processes: int, process_id: int) -> None:
    """Refuse what JAX ends by a traceback or a crash."""
    host, _, port = coordinator_address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise UserError(f"--coordinator_address={coordinator_address} must be HOST:PORT, such as node0:1234")
    if not 0 <= process_id < num_processes <= _MAX_PROCESSES:
        raise UserError(
            f"--process_id={process_id} must be from 0 to --num_processes - 1, and --num_processes={num_processes} "
            f"from 1 to {_MAX_PROCESSES}"
        )


@contextlib.contextmanager
def _patience(coordinator_address: str | None) -> Iterator[None]:
    """A block that ends the process in one line shortly before JAX would: that aborts where it cannot join."""
    where = f"at {coordinator_address}" if coordinator_address else "that this cluster names"
    joined = threading.Event()

    def watch() -> None:
        if not joined.wait(_SAY_AFTER_SECONDS):
            print(f"waiting for the other processes {where}", file=sys.stderr, flush=True)
        if not joined.wait(_PATIENCE_SECONDS - 2 * _SAY_AFTER_SECONDS):
            line = f"cannot join the other processes {where} within {_PATIENCE_SECONDS} s; check address and number"
            print(line, file=sys.stderr, flush=True)
            os._exit(BAD_INPUT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def is_first_process() -> bool:
    """Whether this process is the one that writes files and speaks to the person."""
    return jax.process_index() == 0
