"""New datasets and text caches, here or in a bucket, and uploads of those that are here.

In a bucket a folder counts when its `files.json` is there, written last. The object `uploading.json` lists the files
from before the first of them is written until then, so that the next upload removes what a killed one has left.
"""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from show1_jax.buckets.lease import LEASE, check_lease
from show1_jax.buckets.path import BucketPath
from show1_jax.data.pools import map_in_order, pool
from show1_jax.data.transfer.record import (
    RECORD,
    FileTable,
    StoredFile,
    read_record,
    to_bytes,
    write_record,
)
from show1_jax.errors import UserError, shown_name
from show1_jax.files import check_space, check_target, disk_error, locked_folder, new_folder
from show1_jax.progress import Bar, say

MAX_OBJECT_BYTES: Final = 5_000_000_000
"""Limit of S3 for an object that is written by one request."""
_STARTED: Final = "uploading.json"
_MARKS: Final = ("dataset_info.json", "cache.json")
"""A folder has one of these if it is a dataset or a text cache, also one from before there was a `files.json`."""
_REMAKE: Final = "make the folder again"
_AHEAD: Final = 1
"""Files that are read while another one is written; a shard of videos may have 768 MB."""


@contextmanager
def new_data_folder(out: Path) -> Iterator[Path]:
    """Create a local folder that becomes `out`, with its `files.json`, if the block succeeds; otherwise it is removed.

    For a folder in a bucket it is uploaded at the end, and is in the system's folder for temporary files until then.
    Call `check_data_target` first.

    Yields:
        The local folder.

    Raises:
        UserError: the folder cannot be written, the disk is full, or the bucket does not answer.
    """
    if not isinstance(out, BucketPath):
        with new_folder(out) as folder:
            yield folder
            write_record(folder)
        return
    with locked_folder(out), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir()
        try:
            yield folder
            write_record(folder)
        except UserError:
            raise
        except Exception as error:
            if line := disk_error(error):
                raise UserError(f"{scratch}: {line}, nothing was kept; set TMPDIR to a larger disk") from error
            raise
        _upload(folder, out)


def check_data_space(out: Path, folder: Path, needed: int, advice: str = "") -> None:
    """Refuse a disk that is too small for the local folder of a new folder.

    Args:
        out: path of the new folder.
        folder: its local folder, see `new_data_folder`.
        needed: bytes that will be written.
        advice: what else helps, for the end of the line.

    Raises:
        UserError: the disk is too small.
    """
    if isinstance(out, BucketPath):
        check_space(folder, needed, f"set TMPDIR to a larger disk{advice}")
    else:
        check_space(out, needed, f"choose another place with --out{advice}")


def check_data_target(
    out: Path,
    kind: str = "",
    is_ours: Callable[[Path], bool] | None = None,
    *,
    overwrite: bool = False,
    new: Collection[str] = (),
) -> None:
    """Refuse a path for a new folder if there is another one; in a bucket, also if there are objects of others.

    Args:
        out: path of the new folder.
        kind: for a path that is not in a bucket, see `check_target`.
        is_ours: likewise.
        overwrite: replace an earlier dataset or text cache, or what another tool has copied of it to a bucket.
        new: for a path in a bucket, names of its files, if they are known.

    Raises:
        UserError: the line says what is there.
    """
    if not isinstance(out, BucketPath):
        check_target(out, kind, is_ours, overwrite=overwrite)
        return
    if not out.key:
        raise UserError(f"{out}: a bucket itself is no place for a dataset; add a folder")
    names, old = _old_files(out, new)
    if (RECORD in names or names & set(new) - old.keys()) and not overwrite:
        raise UserError(f"{out}: exists; choose another place, or replace it with --overwrite")


def upload(folder: Path, out: Path, *, overwrite: bool = False) -> None:
    """Copy a dataset or a text cache to a bucket.

    Args:
        folder: a local folder; its files are compared with its `files.json`.
        out: the folder to make, in a bucket.
        overwrite: replace an earlier one.

    Raises:
        UserError: a path is wrong, a file has changed or is too large, `out` cannot be replaced, or the bucket does not
            answer.
    """
    if not isinstance(out, BucketPath):
        raise UserError(f"--out={out} is not in a bucket; give gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    if not (folder / RECORD).is_file() and any((folder / name).is_file() for name in _MARKS):
        write_record(folder)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder}: no dataset and no cache of text states with its {RECORD}; make one with `build` or "
            "`encode_text`"
        )
    files = read_record(folder, remedy=_REMAKE)[1]
    check_data_target(out, overwrite=overwrite, new=files)
    with locked_folder(out):
        _upload(folder, out)
    say(f"{out}: {len(files)} files of {sum(file.size for file in files.values()):,} bytes are uploaded")


def _upload(folder: Path, out: BucketPath) -> None:
    content, files = read_record(folder, remedy=_REMAKE)
    for name, file in files.items():
        if file.size > MAX_OBJECT_BYTES:
            raise UserError(
                f"{folder / name}: {file.size / 1e9:.1f} GB, more than can be written at once; copy the folder with "
                "the bucket's own tool (`gcloud storage cp -r`, `aws s3 sync`)"
            )
    names, old = _old_files(out, files)
    (out / _STARTED).write_bytes(to_bytes(old | files))
    for name in (RECORD, *sorted(names - files.keys() - {RECORD, _STARTED})):
        (out / name).unlink(missing_ok=True)
    total = sum(file.size for file in files.values())
    with Bar(f"upload {out}", total, unit="B", leave=False) as bar, pool(0, threads=_AHEAD + 1) as executor:
        for size in map_in_order(executor, partial(_write, folder, out), files.items(), _AHEAD):
            bar.update(size)
    check_lease(out)
    (out / RECORD).write_bytes(content)
    (out / _STARTED).unlink(missing_ok=True)


def _old_files(out: BucketPath, new: Collection[str]) -> tuple[set[str], FileTable]:
    """Return the names of the objects in a folder, and the files of an earlier dataset or of one that was begun.

    Raises:
        UserError: there are objects of others.
    """
    names, old = set(out.names()) - {LEASE}, FileTable()
    for name in (RECORD, _STARTED):
        if name in names:
            old |= read_record(out, name, "choose another place, or delete this folder first")[1]
    if others := sorted(names - old.keys() - set(new) - {RECORD, _STARTED}):
        raise UserError(
            f"{out}: has {shown_name(others[0])}, which is no part of a dataset or text cache; choose another place"
        )
    return names, old


def _write(folder: Path, out: BucketPath, entry: tuple[str, StoredFile]) -> int:
    name, file = entry
    check_lease(out)
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise UserError(f"{folder / name}: cannot be read ({error.strerror}); {_REMAKE}") from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise UserError(f"{folder / name}: is not the file of {RECORD}; {_REMAKE}")
    (out / name).write_bytes(data)
    return len(data)
