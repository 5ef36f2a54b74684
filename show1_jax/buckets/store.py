"""The objects of a bucket: read, written, listed and deleted by TensorStore.

TensorStore repeats requests that fail for a reason that may pass: an overloaded server, a dropped connection. It is
imported at the first operation, so that runs without buckets do not import it here.
"""

import errno
import functools
import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from show1_jax.buckets.errors import NO_ANSWER, BucketError, OutOfRangeError, translate_error
from show1_jax.buckets.s3_credentials import s3_credentials

Result = TypeVar("Result")

RETRIES: Final[dict[str, Any]] = {"max_retries": 10, "initial_delay": "250ms", "max_delay": "32s"}
"""A request is repeated for about two minutes."""
_FIRST_RETRIES: Final = 5
"""Repetitions of a request to a server that has not answered yet, or not the last time: for about eight seconds."""
_TRANSPORT: Final = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "20",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "60",  # without a byte in this time, a request is repeated
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}
_DRIVERS: Final = {"gs": "gcs", "s3": "s3"}
_MISSING: Final = "missing"


class Versioned(NamedTuple):
    """An object's content and its generation, which changes with every write."""

    content: bytes
    generation: bytes


class Bucket:
    """A bucket. Names of objects are keys such as "runs/a/config.json". All methods may be called by any thread.

    Args:
        scheme: "gs" or "s3".
        name: name of the bucket.

    Every method raises `BucketError` if the bucket does not exist, access is denied, or the server does not answer.
    """

    def __init__(self, scheme: str, name: str):
        self.scheme, self.name = scheme, name
        self._is_answering = False  # not known yet

    @property
    def _objects(self) -> Any:
        """TensorStore's client. While the server does not answer, requests are not repeated for minutes again."""
        return self._patient if self._is_answering else self._quick

    @functools.cached_property
    def _patient(self) -> Any:
        from tensorstore import KvStore

        return KvStore.open(kvstore_spec(self.scheme, self.name, "")).result()

    @functools.cached_property
    def _quick(self) -> Any:
        from tensorstore import KvStore

        spec = kvstore_spec(self.scheme, self.name, "")
        retries = RETRIES | {"max_retries": min(_FIRST_RETRIES, RETRIES["max_retries"])}
        return KvStore.open(spec | {f"{spec['driver']}_request_retries": retries}).result()

    def read(self, key: str) -> Versioned | None:
        """Return an object, or None if there is none of that name."""
        found = self._run(lambda: self._objects.read(key).result())
        return None if found.state == _MISSING else Versioned(found.value, found.stamp.generation)

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes of an object from `start` to `stop`, fewer at its end.

        Raises:
            FileNotFoundError: there is no such object.
        """
        try:
            found = self._run(lambda: self._objects.read(key, byte_range=slice(start, stop)).result())
        except OutOfRangeError as error:
            if not self.exceeds(key, start):
                return b""
            found = self._run(lambda: self._objects.read(key, byte_range=slice(start, None)).result())
            if len(found.value) >= stop - start:
                raise BucketError(f"{self._url(key)} changed while it was read; try again") from error
        if found.state == _MISSING:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._url(key))
        value: bytes = found.value
        return value

    def exceeds(self, key: str, size: int) -> bool:
        """Return whether an object exists and has more than `size` bytes."""
        try:
            found = self._run(lambda: self._objects.read(key, byte_range=slice(size, size + 1)).result())
        except OutOfRangeError:
            return False
        return bool(found.state != _MISSING)

    def exists(self, key: str) -> bool:
        """Return whether there is an object of that name."""
        found = self._run(lambda: self._objects.read(key, byte_range=slice(0, 0)).result())
        return bool(found.state != _MISSING)

    def write(self, key: str, content: bytes) -> None:
        """Write an object, as a whole: others see the old content or the new one."""
        self._run(lambda: self._objects.write(key, content).result())

    def write_if(self, key: str, content: bytes | None, generation: bytes | None) -> bytes | None:
        """Write an object only if it still has a generation; return the new one, or None if it has another.

        Args:
            key: name of the object.
            content: new content; None: delete it.
            generation: required generation; None: there must be no such object.
        """
        required = _NO_GENERATION if generation is None else generation
        stamp = self._run(lambda: self._objects.write(key, content, if_equal=required).result())
        return stamp.generation or None

    def names(self, prefix: str) -> list[str]:
        """Return the names of the objects that begin with `prefix`, sorted.

        If listing is not permitted, TensorStore returns no names: an empty list alone shows nothing.
        """
        found = self._run(lambda: self._objects.list(_range(prefix)).result())
        return sorted(name.decode(errors="surrogateescape") for name in found)

    def delete(self, key: str) -> None:
        """Delete an object if there is one."""
        self._run(lambda: self._objects.write(key, None).result())

    def delete_all(self, prefix: str) -> None:
        """Delete all objects whose names begin with `prefix`."""
        self._run(lambda: self._objects.delete_range(_range(prefix)).result())

    def _url(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}"

    def _run(self, operation: Callable[[], Result]) -> Result:
        try:
            result = operation()
        except ValueError as error:  # TensorStore has no classes for its errors
            self._is_answering = not str(error).startswith(NO_ANSWER)
            raise translate_error(str(error), self.scheme, self.name) from error
        self._is_answering = True
        return result


_NO_GENERATION: Final = b"\x02"
"""TensorStore's generation of an object that does not exist."""


@functools.lru_cache(maxsize=64)
def open_bucket(scheme: str, name: str) -> Bucket:
    """Return a bucket; its client is opened once."""
    return Bucket(scheme, name)


def kvstore_spec(scheme: str, bucket: str, path: str) -> dict[str, Any]:
    """Return TensorStore's description of a place in a bucket, with credentials and addresses of the environment.

    Args:
        scheme: "gs" or "s3".
        bucket: name of the bucket.
        path: prefix of the keys.

    Raises:
        BucketError: there are no credentials.
    """
    for name, value in _TRANSPORT.items():
        os.environ.setdefault(name, value)
    driver = _DRIVERS[scheme]
    spec: dict[str, Any] = {"driver": driver, "bucket": bucket, "path": path, f"{driver}_request_retries": RETRIES}
    if scheme == "s3":
        spec["aws_credentials"] = s3_credentials()
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            spec |= {"endpoint": endpoint, "aws_region": region}
    return spec


def _range(prefix: str) -> Any:
    import tensorstore

    first = prefix.encode(errors="surrogateescape")
    last = first[:-1] + bytes([first[-1] + 1]) if first else b""  # a prefix ends with "/", or with another ASCII letter
    return tensorstore.KvStore.KeyRange(first, last)
