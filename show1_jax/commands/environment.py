"""Reports on the environment for `--version` and `--devices`: what a report of an error should contain."""

import platform
from collections.abc import Sequence
from typing import Final

from show1_jax import cli

FLAGS: Final = ("--version", "--devices")
"""Flags of a command that print a report and end it; both may be given."""
_DISTRIBUTIONS: Final = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")


def report(program: str, argv: Sequence[str]) -> bool:
    """Print the reports that a command line asks for.

    Args:
        program: name of the command.
        argv: command line; flags of reports are found in any place.

    Returns:
        True if there was one: the command ends then, and its other flags are not read.

    Raises:
        UserError: JAX does not start, or finds no devices.
    """
    asked = [flag for flag in FLAGS if {flag, flag[1:]} & set(argv[1:])]  # as for other flags, one dash is enough
    if "--version" in asked:
        print("\n".join(versions()))
    if "--devices" in asked:
        with cli.importing_jax(program):
            print("\n".join(devices()))
    return bool(asked)


def versions() -> list[str]:
    """Return a line for the package, Python, each library that computes, and the operating system."""
    lines = [
        f"show1-jax {cli.installed_version('show1-jax') or 'from a checkout'}",
        f"Python {platform.python_version()}",
    ]
    lines += [f"{name} {cli.installed_version(name) or 'not installed'}" for name in _DISTRIBUTIONS]
    return [*lines, f"platform {platform.platform()}"]


def devices() -> list[str]:
    """Return a line for each device that JAX sees: its place in JAX's list, its kind and its memory.

    Raises:
        UserError: JAX finds none.
    """
    from show1_jax.parallel import all_devices, device_bytes

    found = all_devices()
    lines = []
    for number, device in enumerate(found):
        size = device_bytes(device, len(found))
        memory = f"{size / 1e9:.1f} GB" if size else "memory unknown"
        lines.append(f"device {number}: {device.platform}, {device.device_kind}, {memory}")
    if found[0].platform == "cpu" and len(found) > 1:
        lines.append("the memory of the host is divided by the number of its CPU devices")
    return lines
