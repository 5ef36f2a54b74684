"""The relay passes bytes both ways, and hides a closed connection once the processes have joined."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from show1_jax.parallel.relay import Relay

WAIT = 20
"""Seconds after which a test fails; a message arrives in milliseconds."""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(WAIT)
        yield listening


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def connect(relay: Relay) -> socket.socket:
    near = socket.socket(socket.AF_UNIX)
    near.settimeout(WAIT)
    near.connect(relay.target.removeprefix("unix:"))
    return near


def test_bytes_pass_both_ways(server: socket.socket) -> None:
    relay = Relay(address_of(server), lambda: None)
    with connect(relay) as near, server.accept()[0] as far:
        near.sendall(b"there")
        assert far.recv(100) == b"there"
        far.sendall(b"and back")
        assert near.recv(100) == b"and back"
        near.shutdown(socket.SHUT_WR)
        assert far.recv(100) == b""
    relay.close()
    assert not Path(relay.target.removeprefix("unix:")).parent.exists()


def test_before_joining_a_closed_or_refused_connection_is_visible(server: socket.socket) -> None:
    lost = threading.Event()
    relay = Relay(address_of(server), lost.set)
    with connect(relay) as near:
        server.accept()[0].close()
        assert near.recv(100) == b""
    server.close()
    with connect(relay) as near:
        assert near.recv(100) == b""
    assert not lost.is_set()
    relay.close()


def test_after_joining_a_closed_connection_is_hidden_and_reported(server: socket.socket) -> None:
    lost = threading.Event()
    relay = Relay(address_of(server), lost.set)
    with connect(relay) as near:
        far, _ = server.accept()
        relay.joined()
        far.close()
        assert lost.wait(WAIT)
        for _ in range(3):
            near.sendall(b"more")
            time.sleep(0.05)
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(100)
    assert not Path(relay.target.removeprefix("unix:")).exists()
