"""The machine and the library versions of a measurement."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax


def describe_machine(*more: str) -> str:
    """Return one line: the devices, the processor, and the versions of Python, JAX, Flax and of more distributions."""
    device = jax.devices()[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", *more))
    machine = f"{jax.device_count()} x {device.device_kind}, {platform.machine()}"
    return f"{machine}, Python {platform.python_version()}, {versions}"


def describe_commit() -> str:
    """Return the commit of this checkout and whether files were changed since, as text, if git knows."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "commit not known"
    return f"commit {done.stdout.strip()}"
