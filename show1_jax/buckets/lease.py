"""The lock of a folder in a bucket: an object that its owner renews.

A bucket has no locks that end with a process. All writes are conditional on the object's generation, so that two
processes never both own it. A lease that is not renewed for `EXPIRY_SECONDS` may be taken over. No clocks are compared:
who waits sees whether the object changes.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.path import BucketPath
from show1_jax.buckets.store import Versioned
from show1_jax.errors import UserError, shown_name

LEASE: Final = "lease.json"
RENEWAL_SECONDS: Final = 15.0
EXPIRY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 2.0
_RECENT_SECONDS: Final = 1.0

_held: Final[dict[BucketPath, "Lease"]] = {}


class Lease:
    """The lock of one folder, renewed in a thread until it is released; made by `leased_folder`."""

    def __init__(self, folder: BucketPath):
        self._folder, self._object = folder, folder / LEASE
        self._owner, self._count = {"id": secrets.token_hex(8), **_this_process()}, 0
        self._generation: bytes | None = None
        self._renewed = _now()
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew_regularly, name="lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease, if need be after that of a process that was killed has expired.

        Raises:
            UserError: another process holds it, or this account may not list the folder.
        """
        if not self._write(None):
            self._take_over()
        if LEASE not in self._folder.names():  # an empty list is TensorStore's answer to a denied one as well
            self.release()
            raise UserError(f"{self._folder}: its objects cannot be listed; use an account that may list them")
        self._thread.start()

    def renew(self) -> None:
        """Renew the lease now, if it was not renewed in this second: services limit the writes of one object.

        Raises:
            UserError: another process has taken it over.
        """
        with self._lock:
            if self._generation is not None and _now() - self._renewed < _RECENT_SECONDS:
                return
            if self._generation is None or not self._write(self._generation):
                self._generation = None
                raise UserError(
                    f"{self._folder}: another process writes there, because this one did not answer for "
                    f"{EXPIRY_SECONDS:.0f} s; stop one of them"
                )

    def release(self) -> None:
        """Stop renewing, and delete the object if it is still this process's. It never raises."""
        self._stopped.set()
        with self._lock, suppress(BucketError):
            if self._generation is not None:
                self._object.bucket.write_if(self._object.key, None, self._generation)
            self._generation = None

    def _renew_regularly(self) -> None:
        while not self._stopped.wait(RENEWAL_SECONDS):
            try:
                self.renew()
            except BucketError:
                continue  # the server does not answer: the next write will tell
            except UserError:
                return  # `check_lease` raises it in the thread that writes

    def _write(self, generation: bytes | None) -> bool:
        """Write the object if it has this generation, and return whether it was written."""
        self._count += 1  # each content is another one: S3's generation is a hash of it
        content = json.dumps(self._owner | {"renewed": self._count}).encode()
        began, write_if = _now(), self._object.bucket.write_if
        written = write_if(self._object.key, content, generation)
        if written is None:  # perhaps this or an earlier request was served, and its answer was lost
            found = self._object.bucket.read(self._object.key)
            if found is None:
                self._folder.names()  # raises the error of a bucket that does not exist; S3 has none for such a write
            elif found.content == content:
                written = found.generation
            elif _owner(found).get("id") == self._owner["id"]:
                written = write_if(self._object.key, content, found.generation)
        self._generation, self._renewed = written, began
        return written is not None

    def _take_over(self) -> None:
        """Wait until the other's lease expires, and take it over; the owner may also release it meanwhile.

        Raises:
            UserError: the other process renews it.
        """
        seen, deadline = self._object.bucket.read(self._object.key), time.monotonic() + EXPIRY_SECONDS
        if seen is not None and not _is_dead(seen) and not _is_own_machine(seen):
            print(f"{self._folder}: waiting at most {EXPIRY_SECONDS:.0f} s for {_name(seen)}", flush=True)
        while True:
            found = self._object.bucket.read(self._object.key)
            if found is not None and (seen is None or found.generation != seen.generation):  # it is in use
                raise self._refusal(found)
            if found is not None and _is_own_machine(found) and not _is_dead(found):
                raise self._refusal(found)
            if found is None or _is_dead(found) or time.monotonic() > deadline:
                if not self._write(None if found is None else found.generation):
                    raise self._refusal(self._object.bucket.read(self._object.key))
                return
            time.sleep(_POLL_SECONDS)

    def _refusal(self, found: Versioned | None) -> UserError:
        return UserError(f"{self._folder}: {_name(found)} is writing there; wait until it has ended")


@contextmanager
def leased_folder(folder: BucketPath) -> Iterator[None]:
    """Hold the lease of a folder while the block lasts.

    Raises:
        UserError: see `Lease.acquire`.
    """
    lease = Lease(folder)
    lease.acquire()
    _held[folder] = lease
    try:
        yield
    finally:
        del _held[folder]
        lease.release()


def check_lease(path: BucketPath) -> None:
    """Renew this process's lease of a folder above `path`, if it has one. Call this before a write that counts.

    Raises:
        UserError: another process has taken it over.
    """
    for folder, lease in list(_held.items()):
        if folder == path or folder in path.parents:
            lease.renew()


def _now() -> float:
    """Return seconds since the machine started, with those during which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _this_process() -> dict[str, Any]:
    """Return what identifies a process on its machine, for a later process on the same machine."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid()), **_machine()}


def _machine() -> dict[str, str]:
    """Return the boot of this machine and the namespace of its process ids; empty where the system has none."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pids": os.readlink("/proc/self/ns/pid")}
    return {}


def _start_time(pid: int) -> str | None:
    """Return the start time of a process, which a later process of the same id does not have; None if it has ended."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None


def _owner(found: Versioned) -> dict[str, Any]:
    try:
        owner = json.loads(found.content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_own_machine(found: Versioned) -> bool:
    owner, machine = _owner(found), _machine()
    return bool(machine) and {name: owner.get(name) for name in machine} == machine


def _is_dead(found: Versioned) -> bool:
    """Return whether the owner was a process of this machine that has ended."""
    owner = _owner(found)
    if not _is_own_machine(found) or not isinstance(owner.get("pid"), int):
        return False
    return _start_time(owner["pid"]) != owner.get("started")


def _name(found: Versioned | None) -> str:
    owner = {} if found is None else _owner(found)
    host, pid = owner.get("host"), owner.get("pid")
    return (
        f"process {pid} of {shown_name(host)}" if isinstance(host, str) and isinstance(pid, int) else "another process"
    )
