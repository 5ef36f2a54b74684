"""The objects of a bucket: read, written, listed and deleted by TensorStore.

TensorStore repeats requests that fail for a reason that may pass: an overloaded server, a dropped connection. It is
imported at the first operation, so that runs without buckets do not import it here.
"""

import errno
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from show1_jax.errors import UserError

Result = TypeVar("Result")

RETRIES: Final[dict[str, Any]] = {"max_retries": 10, "initial_delay": "250ms", "max_delay": "32s"}
"""A request is repeated for about two minutes."""
_FIRST_RETRIES: Final = 5
"""Repetitions of a request to a server that has not answered yet, or not the last time: for about eight seconds."""
_NO_ANSWER: Final = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
_TRANSPORT: Final = {
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "20",
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "60",  # without a byte in this time, a request is repeated
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
}
_DRIVERS: Final = {"gs": "gcs", "s3": "s3"}
_CREDENTIALS: Final = {
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
_MAX_REASON: Final = 160
_MISSING: Final = "missing"


class BucketError(UserError):
    """A bucket that does not exist, denies access or does not answer; a missing object is no such error."""


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
        except _OutOfRangeError as error:
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
        except _OutOfRangeError:
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
            self._is_answering = not str(error).startswith(_NO_ANSWER)
            raise translate_error(str(error), self.scheme, self.name) from error
        self._is_answering = True
        return result


class _OutOfRangeError(BucketError):
    """An object has fewer bytes than were read."""


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
        spec["aws_credentials"] = {"type": _s3_credentials()}
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            spec |= {"endpoint": endpoint, "aws_region": region}
    return spec


def _s3_credentials() -> str:
    """Return the first source that has credentials; TensorStore's default tries all, and logs each that has none."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "environment"
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    others = (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    )
    if any(Path(file).expanduser().is_file() for file in files) or any(os.environ.get(name) for name in others):
        return "default"
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise BucketError(f"there are no credentials for S3; {_CREDENTIALS['s3']}")
    return "imds"  # the role of an EC2 machine


def translate_error(text: str, scheme: str, bucket: str) -> BucketError:
    """Return TensorStore's error as one line for the user.

    Args:
        text: TensorStore's text; it begins with the code of the error.
        scheme: "gs" or "s3".
        bucket: name of the bucket.
    """
    code, reason, url = text.partition(":")[0], _short_reason(text), f"{scheme}://{bucket}"
    if code == "OUT_OF_RANGE":
        return _OutOfRangeError(f"{url}: an object is shorter than expected; try again")
    if code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "credentials" in reason:
        return BucketError(f"{url}: access is denied ({reason}); {_CREDENTIALS[scheme]}, or use an account that may")
    if code == "NOT_FOUND":
        return BucketError(f"{url}: there is no such bucket; make it, or correct its name")
    if code in _NO_ANSWER:
        return BucketError(f"{url}: the server does not answer ({reason}); resume later with the same command")
    return BucketError(f"{url}: the server refuses ({reason}); correct the path, or resume later")


def _short_reason(text: str) -> str:
    """Return TensorStore's text without its code, the names of its layers and its details in brackets."""
    words = " ".join(re.sub(r"\[[a-z_-]+='.*", "", text, flags=re.DOTALL).split())
    retried = re.search(r"All \d+ retry attempts failed: .*", words)
    words = retried[0] if retried else re.sub(r"^[A-Z_]+: ", "", words)
    return words if len(words) <= _MAX_REASON else f"{words[:_MAX_REASON]}..."


def _range(prefix: str) -> Any:
    import tensorstore

    first = prefix.encode(errors="surrogateescape")
    last = first[:-1] + bytes([first[-1] + 1]) if first else b""  # a prefix ends with "/", or with another ASCII letter
    return tensorstore.KvStore.KeyRange(first, last)
