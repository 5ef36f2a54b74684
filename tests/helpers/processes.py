"""Processes of their own, for tests of jobs that are several or get killed."""

import os
import re
import socket


def environment(num_devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices, and otherwise like this one."""
    flags = re.sub(r"(?<=device_count=)\d+", str(num_devices), os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_address() -> str:
    """Where the first of several processes can wait for the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
