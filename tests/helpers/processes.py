"""Subprocesses, for tests of jobs with several processes and of killed ones."""

import os
import re
import socket


def environment(num_devices: int) -> dict[str, str]:
    """Return the environment of this process, with another number of CPU devices."""
    flags = re.sub(r"(?<=device_count=)\d+", str(num_devices), os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_address() -> str:
    """Return an address with a free port, for the coordinator of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
