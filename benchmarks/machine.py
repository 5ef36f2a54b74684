"""The machine and the library versions of a measurement."""

import importlib.metadata
import platform

import jax


def describe_machine(*more: str) -> str:
    """Return one line: the devices, the processor, and the versions of Python, JAX, Flax and of more distributions."""
    device = jax.devices()[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", *more))
    machine = f"{jax.device_count()} x {device.device_kind}, {platform.machine()}"
    return f"{machine}, Python {platform.python_version()}, {versions}"
