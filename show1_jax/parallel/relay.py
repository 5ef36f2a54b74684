"""A relay between JAX and the first process of a job, which hides from JAX that the connection was closed.

JAX's client aborts its process from C++, with pages of log, as soon as it loses the first process. Behind the relay, it
does not see that; `parallel.supervision` does, and ends the process with one line.
"""

import contextlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from show1_jax.terminal import BACKGROUND

_CONNECT_SECONDS: Final = 10
_BUFFER_BYTES: Final = 1 << 16


class Relay:
    """Passes connections to a local socket on to an address.

    Args:
        address: `host:port` to connect to.
        on_lost: called once the address has closed a connection, from another thread.

    Attributes:
        target: the local socket as an address of gRPC. A file in a private folder, so that no other user connects to
            it, and no proxy for HTTP is asked.
    """

    def __init__(self, address: str, on_lost: Callable[[], None]):
        self._address, self._on_lost = address, on_lost
        self._hides = False
        self._folder = Path(tempfile.mkdtemp(prefix="show1-"))
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._folder / "relay"))
        self._listening.listen()
        self.target = f"unix:{self._folder / 'relay'}"
        _start(self._accept)

    def joined(self) -> None:
        """Accept no more connections, and hide from now on that those there are lose their address."""
        self._hides = True
        self.close()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                host, _, port = self._address.rpartition(":")
                try:
                    far = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS)
                except (OSError, ValueError):
                    near.close()  # JAX tries again until its own timeout
                    continue
                far.settimeout(None)
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _start(partial(self._connect, near, far))

    def _connect(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = _start(partial(self._pass_back, near, far))
            _copy(near, far)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)
            back.join()
            with contextlib.suppress(OSError):
                while self._hides and near.recv(_BUFFER_BYTES):
                    pass  # JAX sends on, to nobody

    def _pass_back(self, near: socket.socket, far: socket.socket) -> None:
        _copy(far, near)
        if self._hides:
            self._on_lost()
        else:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one of the sockets is closed."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BUFFER_BYTES):
            target.sendall(data)


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"{BACKGROUND}: relay", daemon=True)
    thread.start()
    return thread
