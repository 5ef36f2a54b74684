"""Buckets for Orbax, which writes and reads its own small files by `epath` and arrays by TensorStore.

Orbax knows Google Cloud Storage only, and other libraries would be needed for its small files. Here both take our
client, with one set of credentials and repeated requests. The name that Orbax gets for `s3://bucket/folder` is
`gs://s3:bucket/folder`; no bucket of Google has a colon in its name.
"""

import errno
import fnmatch
import io
import os
from collections.abc import Iterator
from typing import Any, Final

from etils import epath  # type: ignore[import-untyped]
from etils.epath import backend, gpath, stat_utils  # type: ignore[import-untyped]
from orbax.checkpoint._src.path import gcs_utils

from show1_jax.buckets.path import BucketPath
from show1_jax.buckets.store import kvstore_spec

_PREFIX: Final = "gs://"
_S3: Final = "s3:"


def orbax_path(folder: BucketPath) -> epath.Path:
    """Return a folder in a bucket as Orbax's path."""
    scheme, (bucket, *parts) = folder.parts[0], folder.parts[1:]
    return _OrbaxPath(_PREFIX + "/".join([f"{_S3}{bucket}" if scheme == _S3 else bucket, *parts]))


def _bucket_path(text: Any) -> BucketPath:
    bucket, *parts = os.fspath(text).removeprefix(_PREFIX).rstrip("/").split("/")
    scheme = _S3 if bucket.startswith(_S3) else "gs:"
    return BucketPath(scheme, bucket.removeprefix(_S3), *parts)


def _kvstore_of(text: Any) -> dict[str, Any]:
    """Return TensorStore's description of one of Orbax's paths; a trailing slash stays."""
    path = _bucket_path(text)
    slash = "/" if os.fspath(text).endswith("/") else ""
    return kvstore_spec(path.parts[0].rstrip(":"), path.parts[1], path.key + slash)


gcs_utils.get_kvstore_for_gcs = _kvstore_of  # private, but Orbax asks for the place of arrays only here


class _ObjectBackend(backend.Backend):
    """The operations of `epath` on the objects of a bucket, of those that Orbax uses."""

    def open(self, path: Any, mode: str) -> Any:
        found = _bucket_path(path)
        if mode in ("r", "rb"):
            content = io.BytesIO(found.read_bytes())
            return content if mode == "rb" else io.TextIOWrapper(content, encoding="utf-8")
        writer = _ObjectWriter(found)
        return writer if mode == "wb" else io.TextIOWrapper(writer, encoding="utf-8")

    def exists(self, path: Any) -> bool:
        return _bucket_path(path).exists()

    def isdir(self, path: Any) -> bool:
        return _bucket_path(path).is_dir()

    def listdir(self, path: Any) -> list[str]:
        return [found.name for found in _bucket_path(path).iterdir()]

    def glob(self, path: Any) -> list[str]:
        folder, _, pattern = os.fspath(path).rpartition("/")
        return [f"{folder}/{name}" for name in fnmatch.filter(self.listdir(folder), pattern)]

    def walk(self, top: Any, *, top_down: bool = True, on_error: Any = None) -> Iterator[Any]:
        raise NotImplementedError

    def makedirs(self, path: Any, *, exist_ok: bool = False, mode: int | None = None) -> None:
        _bucket_path(path).mkdir()

    def mkdir(self, path: Any, *, exist_ok: bool = False, mode: int | None = None) -> None:
        _bucket_path(path).mkdir()

    def rmtree(self, path: Any) -> None:
        _bucket_path(path).remove_all()

    def remove(self, path: Any) -> None:
        _bucket_path(path).unlink()

    def rename(self, path: Any, dst: Any) -> None:
        raise NotImplementedError

    def replace(self, path: Any, dst: Any) -> None:
        raise NotImplementedError

    def copy(self, path: Any, dst: Any, overwrite: bool) -> None:
        raise NotImplementedError

    def stat(self, path: Any) -> stat_utils.StatResult:
        found = _bucket_path(path)
        is_file = found.is_file()
        if not is_file and not found.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(found))
        size = len(found.read_bytes()) if is_file else 0
        return stat_utils.StatResult(is_directory=not is_file, length=size, mtime=0, owner=None, group=None, mode=None)


class _ObjectWriter(io.BytesIO):
    """A file in memory that becomes an object when it is closed."""

    def __init__(self, path: BucketPath):
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            self._path.write_bytes(self.getvalue())
        super().close()


@epath.register_path_cls(_PREFIX)
class _OrbaxPath(gpath.PosixGPath):
    """A path of `epath` whose objects are read and written by this package."""

    @property
    def _backend(self) -> backend.Backend:
        return _ObjectBackend()
