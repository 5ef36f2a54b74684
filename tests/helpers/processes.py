"""Subprocesses, for tests of jobs with several processes and of killed ones."""

import os
import re
import socket
from pathlib import Path


def environment(num_devices: int) -> dict[str, str]:
    """Return the environment of this process, with another number of CPU devices."""
    flags = re.sub(r"(?<=device_count=)\d+", str(num_devices), os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def without_modules(folder: Path, *names: str) -> dict[str, str]:
    """Return the environment of this process with one device, in which some modules cannot be imported."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n\n\nclass Missing:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {names!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n\n\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return environment(1) | {"PYTHONPATH": str(folder)}


def free_address() -> str:
    """Return an address with a free port, for the coordinator of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
