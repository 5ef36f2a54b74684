"""The device mesh, and the start of several processes."""

import contextlib
import dataclasses
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from show1_jax.cli import HEARTBEAT_TIMEOUT
from show1_jax.config.sampling import MeshConfig
from show1_jax.errors import BAD_INPUT, UserError
from show1_jax.parallel.supervision import JAX_TIMEOUTS, supervised

_MAX_PROCESSES: Final = 1_000_000
_JOIN_TIMEOUT_SECONDS: Final = 300
_MAX_HEARTBEAT_TIMEOUT: Final = 86_400
_NOTICE_AFTER_SECONDS: Final = 5


def mesh_sizes(config: MeshConfig, num_devices: int, setting: str = "mesh") -> dict[str, int]:
    """Return the sizes of the mesh's axes, with -1 filled in.

    Args:
        config: requested sizes.
        num_devices: required product of the sizes.
        setting: path of the mesh in the config, for the error message.

    Raises:
        UserError: the product of the sizes is not `num_devices`.
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
    """Return all devices of all processes.

    Raises:
        UserError: there are none of the kind that JAX is configured for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: JAX has no plugin for that kind
        reason = (str(error).splitlines() or ["none of that kind"])[0].partition(" (set JAX_PLATFORMS")[0]
        platforms = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"JAX finds no devices ({reason}); correct JAX_PLATFORMS={platforms}, or install JAX for that kind"
        ) from error


def device_bytes(device: jax.Device, num_local: int) -> float:
    """Return the bytes of a device's memory; 0 if they are not known.

    Args:
        device: device of this process.
        num_local: number of devices of this process; those of a CPU share the memory of the host.
    """
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / num_local
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None, setting: str = "mesh") -> Mesh:
    """Return a mesh whose axes are the fields of `config`.

    Args:
        config: sizes of the axes; -1 is filled in.
        devices: devices of the mesh; None for all devices of all processes.
        setting: see `mesh_sizes`.

    Raises:
        UserError: the product of the sizes is not the number of devices; see `mesh_sizes`.
    """
    devices = devices or all_devices()
    sizes = mesh_sizes(config, len(devices), setting)
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def platform_of(mesh: Mesh) -> str:
    """Return the kind of devices of a mesh: `cpu`, `gpu` or `tpu`."""
    return mesh.devices.flat[0].platform


def initialize_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
) -> None:
    """Join the other processes of the job; must be called before any other use of JAX.

    Without arguments, JAX detects them on TPU pods, SLURM and similar clusters (`--distributed`). If a process of the
    job fails or is lost later, all of them end with one line; see `parallel.supervision`.

    Args:
        coordinator_address: `host:port` of the first process.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        heartbeat_timeout: seconds of silence after which a process is lost.

    Raises:
        UserError: only some of the arguments are given, one is invalid, or the other processes are not reachable.
    """
    given = [value is not None for value in (coordinator_address, num_processes, process_id)]
    if any(given) and not all(given):
        raise UserError("several processes need --coordinator_address, --num_processes and --process_id together")
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        _check_processes(coordinator_address, num_processes, process_id)
    if not 1 <= heartbeat_timeout <= _MAX_HEARTBEAT_TIMEOUT:
        raise UserError(f"--heartbeat_timeout={heartbeat_timeout} must be from 1 to {_MAX_HEARTBEAT_TIMEOUT} seconds")
    jax.config.update("jax_enable_preemption_service", False)  # `parallel.agreement` says why
    try:
        with supervised(heartbeat_timeout) as close, _join_timeout(coordinator_address, close):
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                initialization_timeout=_JOIN_TIMEOUT_SECONDS,
                heartbeat_timeout_seconds=JAX_TIMEOUTS * heartbeat_timeout,
            )
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot join the other processes: {reason}") from error


def _check_processes(coordinator_address: str, num_processes: int, process_id: int) -> None:
    """Refuse arguments with which JAX ends in a traceback or a crash."""
    host, _, port = coordinator_address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise UserError(f"--coordinator_address={coordinator_address} must be HOST:PORT, such as node0:1234")
    if not 0 <= process_id < num_processes <= _MAX_PROCESSES:
        raise UserError(
            f"--process_id={process_id} must be from 0 to --num_processes - 1, and --num_processes={num_processes} "
            f"from 1 to {_MAX_PROCESSES}"
        )


@contextlib.contextmanager
def _join_timeout(coordinator_address: str | None, close: Callable[[], None]) -> Iterator[None]:
    """End the process with one line if the block exceeds the timeout, shortly before JAX would abort the process.

    Args:
        coordinator_address: address for the line.
        close: called before the process ends.
    """
    where = f"at {coordinator_address}" if coordinator_address else "that this cluster names"
    joined = threading.Event()

    def watch() -> None:
        if not joined.wait(_NOTICE_AFTER_SECONDS):
            print(f"waiting for the other processes {where}", file=sys.stderr, flush=True)
        if not joined.wait(_JOIN_TIMEOUT_SECONDS - 2 * _NOTICE_AFTER_SECONDS):
            line = f"cannot join the other processes {where} within {_JOIN_TIMEOUT_SECONDS} s; check address and number"
            print(line, file=sys.stderr, flush=True)
            close()
            os._exit(BAD_INPUT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def is_first_process() -> bool:
    """Return whether this process is the one that writes files and prints messages to the user."""
    return jax.process_index() == 0
