"""Paths in buckets: `BucketPath` has the methods of `pathlib.Path` that this package uses."""

import errno
import io
import os
import re
from collections.abc import Iterator
from pathlib import PosixPath
from typing import Any, Final, NoReturn

from show1_jax.buckets.store import Bucket, open_bucket

_URL: Final = re.compile(r"(gs|s3)://([^/]+)(?:/(.*))?", re.DOTALL)
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_MAX_KEY: Final = 900
"""Bytes of a folder's or object's name; the services allow 1024, and names inside a folder are shorter than 124."""
_PART_BYTES: Final = 16 << 20


class BucketPath(PosixPath):
    """A path such as `gs://bucket/runs/a`. Objects stand for files; folders exist while they have objects.

    It is a `Path`, so that code which only passes paths on works with both. It is not accepted by functions of the
    system, such as `os.stat` and `open`: these would use a local path of the same name.
    """

    @property
    def bucket(self) -> Bucket:
        """The bucket."""
        return open_bucket(self.parts[0].rstrip(":"), self.parts[1])

    @property
    def key(self) -> str:
        """Name of the object, without the bucket's."""
        return "/".join(self.parts[2:])

    def __str__(self) -> str:
        is_url = self.parts and self.parts[0].endswith(":")
        return f"{self.parts[0]}//{'/'.join(self.parts[1:])}" if is_url else "/".join(self.parts)

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __fspath__(self) -> str:
        raise TypeError(f"{self} is not a path of the file system")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(("bucket", self.parts))

    def as_posix(self) -> str:
        """Return the URL."""
        return str(self)

    def is_absolute(self) -> bool:
        """Return True: there is no working directory in a bucket."""
        return True

    def absolute(self) -> "BucketPath":
        """Return the path itself."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Return the path itself: there are no links."""
        return self

    def expanduser(self) -> "BucketPath":
        """Return the path itself."""
        return self

    def samefile(self, other_path: Any) -> bool:
        """Return whether two paths are the same."""
        return self == other_path

    def exists(self, **_: Any) -> bool:
        """Return whether it is an object or a folder with objects."""
        return self.is_file() or self.is_dir()

    def is_file(self, **_: Any) -> bool:
        """Return whether it is an object."""
        return bool(self.key) and self.bucket.exists(self.key)

    def is_dir(self, **_: Any) -> bool:
        """Return whether it is a folder with objects."""
        return bool(self.names())

    def is_symlink(self) -> bool:
        """Return False: there are no links."""
        return False

    def names(self) -> list[str]:
        """Return the relative paths of all objects below this folder, sorted.

        Empty objects named "a/", with which consoles and mounts stand for folders, are left out.
        """
        prefix = f"{self.key}/" if self.key else ""
        return [name.removeprefix(prefix) for name in self.bucket.names(prefix) if not name.endswith("/")]

    def iterdir(self) -> "Iterator[BucketPath]":  # type: ignore[override]
        """Yield the objects and folders in this folder; none if it does not exist."""
        for name in dict.fromkeys(name.partition("/")[0] for name in self.names()):
            yield self / name

    def rglob(self, pattern: str, **_: Any) -> "Iterator[BucketPath]":  # type: ignore[override]
        """Yield all objects below this folder; the pattern must be "*"."""
        assert pattern == "*"
        for name in self.names():
            yield self / name

    def has_size(self, size: int) -> bool:
        """Return whether it is an object of that size in bytes."""
        exceeds = self.bucket.exceeds
        is_long_enough = exceeds(self.key, size - 1) if size else self.bucket.exists(self.key)
        return is_long_enough and not exceeds(self.key, size)

    def read_bytes(self) -> bytes:
        """Return the object's content."""
        found = self.bucket.read(self.key)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return found.content

    def read_text(self, encoding: str | None = None, errors: str | None = None, *_: Any) -> str:
        """Return the object's content as text, by default UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def read_bounded(self, max_bytes: int) -> bytes:
        """Return the object's content; a larger object is refused without being read."""
        if self.bucket.exceeds(self.key, max_bytes):
            raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(self))
        return self.read_bytes()

    def reader(self) -> io.BufferedReader:
        """Return a file for reading that reads the object part by part."""
        if not self.bucket.exists(self.key):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return io.BufferedReader(_ObjectReader(self.bucket, self.key), _PART_BYTES)

    def write_bytes(self, data: Any) -> int:
        """Write the object as a whole."""
        self.bucket.write(self.key, bytes(data))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        """Write the object as text, by default UTF-8."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Do nothing: a folder exists while it has objects."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        self.bucket.delete(self.key)

    def remove_all(self) -> None:
        """Delete all objects below this folder."""
        assert self.key
        self.bucket.delete_all(f"{self.key}/")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{self}: this operation needs a file system")

    # All other operations of a `Path` would use the local path of the same name.
    open = stat = lstat = glob = walk = touch = rename = replace = rmdir = chmod = lchmod = owner = group = _refuse
    readlink = symlink_to = hardlink_to = link_to = is_mount = is_socket = is_fifo = is_block_device = _refuse
    is_char_device = is_junction = copy = copy_into = move = move_into = _refuse


class _ObjectReader(io.RawIOBase):
    """An object as a raw file for reading."""

    def __init__(self, bucket: Bucket, key: str):
        self._bucket, self._key, self._position = bucket, key, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._bucket.read_range(self._key, self._position, self._position + len(buffer))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def parse_url(text: str) -> BucketPath | None:
    """Return the path of a URL in a bucket; None if the text has another scheme, or none.

    Raises:
        ValueError: the name of the bucket or of the folder is not valid; the reason is a sentence's end.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return None
    bucket, key = match[2], match[3] or ""
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not the name of a bucket")
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") for part in parts) or not key.isprintable() or set(key) & set("*?[]#"):
        raise ValueError("a folder in a bucket has no '.', '..', '*', '?', '[', ']', '#' and no line breaks")
    if key != key.strip():
        raise ValueError("it begins or ends with a blank")
    if len(key.encode()) > _MAX_KEY:
        raise ValueError(f"it has more than {_MAX_KEY} bytes")
    return BucketPath(f"{match[1]}:", bucket, *parts)
