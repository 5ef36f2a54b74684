"""Folders that are uploaded to a bucket as a whole: datasets, text caches, checkpoints.

Such a folder has a file that lists the others with their hashes: its record. In a bucket the folder counts when the
record is there, written last. The object `uploading.json` names the files from before the first of them is written
until then, so that the next upload removes what a killed one has left.
"""

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from show1_jax.buckets.errors import BucketError
from show1_jax.buckets.lease import LEASE, check_lease, leased_folder
from show1_jax.buckets.path import BucketPath
from show1_jax.errors import UserError, disk_errors, shown_name
from show1_jax.progress import Bar, say

MAX_OBJECT_BYTES: Final = 5_000_000_000
"""Limit of S3 for an object that is written by one request."""
LARGER_DISK: Final = "set TMPDIR to a larger disk"
_STARTED: Final = "uploading.json"
_MAX_STARTED_BYTES: Final = 64 << 20
_REMAKE: Final = "make the folder again"
_OTHER_PLACE: Final = "choose another place, or delete this folder first"
_THREADS: Final = 2
"""Files that are uploaded at the same time. Each is in memory: one of videos has up to 768 MB, one of weights 2 GB."""


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is uploaded as a whole.

    Attributes:
        name: name of one in errors, e.g. "checkpoint".
        record: name of its record.
        files: reads the record of a folder, local or in a bucket, and returns the size in bytes and the SHA-256 of each
            file that it lists, by relative path. It raises a `UserError` if the record is damaged.
        command: the command that uploads a folder; its last words are FOLDER --out URL.
        beside: names of files that the record does not list, and that are uploaded with it.
    """

    name: str
    record: str
    files: Callable[[Path], Mapping[str, tuple[int, str]]]
    command: str
    beside: Collection[str] = ()


def check_upload_target(
    out: BucketPath, kind: FolderKind, *, overwrite: bool = False, new: Collection[str] = ()
) -> None:
    """Refuse a place in a bucket to which `upload_folder` must not write.

    Files that an upload which did not end has left are no obstacle.

    Args:
        out: the folder to make.
        kind: its kind.
        overwrite: replace an earlier one, or what another tool has copied of it.
        new: names of its files, if they are known.

    Raises:
        UserError: it exists, or there are objects of others; or the bucket does not answer.
    """
    if not out.key:
        raise UserError(f"{out}: a bucket itself is no place for a {kind.name}; add a folder")
    names, old = _old_names(out, kind, new)
    if (kind.record in names or names & set(new) - old) and not overwrite:
        raise UserError(f"{out}: exists; choose another place, or replace it with --overwrite")


def bucket_target(out: Path) -> BucketPath:
    """Return the `--out` of a command that uploads.

    Raises:
        UserError: it is not in a bucket.
    """
    if not isinstance(out, BucketPath):
        raise UserError(f"--out={out} is not in a bucket; give gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
    return out


def upload_existing(
    folder: Path, out: BucketPath, kind: FolderKind, *, overwrite: bool
) -> Mapping[str, tuple[int, str]]:
    """Copy a folder that is here to a new place in a bucket; return the files of its record.

    Raises:
        UserError: its record is damaged, another process writes there, or see `check_upload_target` and
            `upload_folder`.
    """
    files = kind.files(folder)
    check_upload_target(out, kind, overwrite=overwrite, new=files.keys())
    with leased_folder(out):
        upload_folder(folder, out, kind)
    return files


def upload_folder(folder: Path, out: BucketPath, kind: FolderKind) -> None:
    """Copy a local folder to a bucket. Call `check_upload_target` first, and hold the lease of `out`.

    Files of an earlier folder that are not in this one are removed.

    Raises:
        UserError: a file is not the one of the record, or is too large; there are objects of others; or the bucket does
            not answer.
    """
    files = dict(kind.files(folder))
    files |= {name: ((folder / name).stat().st_size, "") for name in kind.beside if (folder / name).is_file()}
    for name, (size, _) in files.items():
        if size > MAX_OBJECT_BYTES:
            raise UserError(
                f"{folder / name}: {size / 1e9:.1f} GB, more than can be written at once; copy the folder with the "
                "bucket's own tool (`gcloud storage cp -r`, `aws s3 sync`)"
            )
    names, old = _old_names(out, kind, files.keys())
    (out / _STARTED).write_bytes(json.dumps(sorted(old | files.keys()), indent=1).encode())
    for name in (kind.record, *sorted(names - files.keys() - {kind.record, _STARTED})):
        (out / name).unlink(missing_ok=True)

    def write(name: str) -> int:
        check_lease(out)
        return (out / name).write_bytes(_read(folder / name, files[name][1], kind))

    total = sum(size for size, _ in files.values())
    with Bar(f"upload {out}", total, unit="B", leave=False) as bar, ThreadPoolExecutor(_THREADS) as threads:
        for size in threads.map(write, files):
            bar.update(size)
    check_lease(out)
    (out / kind.record).write_bytes((folder / kind.record).read_bytes())
    (out / _STARTED).unlink(missing_ok=True)


@contextmanager
def uploaded_folder(out: BucketPath, kind: FolderKind) -> Iterator[Path]:
    """Yield a temporary folder that is uploaded to `out` if the block succeeds, and then removed.

    If only the upload fails, the folder is kept. A line at its beginning has the command that repeats it, for a process
    that is killed. Nobody else can write to `out` while the block lasts.

    Raises:
        UserError: another process writes there, the disk is full, or see `upload_folder`.
    """
    with leased_folder(out):
        replaces = (out / kind.record).is_file()
        scratch = Path(tempfile.mkdtemp(prefix="show1_jax-"))
        folder, is_finished = scratch / out.name, False
        command = f"{kind.command} {shlex.quote(str(folder))} --out {shlex.quote(str(out))}"
        if replaces:
            command += " --overwrite"  # the earlier folder may still be there when the upload fails
        try:
            with disk_errors(f"{scratch}", LARGER_DISK):
                folder.mkdir()
                yield folder
            is_finished = True
            say(f"{out}: the upload begins; if this process is killed, repeat it with `{command}`")
            upload_folder(folder, out, kind)
        except BaseException as error:
            if not is_finished:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
            # The remedy of a `UserError` would be to make all of it again.
            problem = str(error).partition("; ")[0] if isinstance(error, UserError) else f"{out} is not complete"
            line = f"{problem}: the {kind.name} is finished and kept in {folder}; upload it with `{command}`"
            if isinstance(error, UserError):
                raise UserError(line) from error
            say(line)
            raise
        shutil.rmtree(scratch, ignore_errors=True)


def _read(path: Path, sha256: str, kind: FolderKind) -> bytes:
    """Return the content of a file, after comparing it with its SHA-256, if that is known."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_REMAKE}") from None
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: is not the file of {kind.record}; {_REMAKE}")
    return data


def _old_names(out: BucketPath, kind: FolderKind, new: Collection[str]) -> tuple[set[str], set[str]]:
    """Return the names of the objects in a folder, and those of an earlier folder, or of one whose upload was begun.

    Raises:
        UserError: there are objects of others.
    """
    names, old = set(out.names()) - {LEASE}, set[str]()
    if kind.record in names:
        old |= {*_recorded(out, kind), *kind.beside}
    if _STARTED in names:
        old |= _begun(out)
    if others := sorted(names - old - set(new) - {kind.record, _STARTED}):
        raise UserError(f"{out}: has {shown_name(others[0])}, which is no part of a {kind.name}; choose another place")
    return names, old


def _recorded(out: BucketPath, kind: FolderKind) -> Collection[str]:
    try:
        return kind.files(out).keys()
    except BucketError:
        raise
    except UserError:
        raise UserError(f"{out / kind.record}: damaged; {_OTHER_PLACE}") from None


def _begun(out: BucketPath) -> set[str]:
    try:
        names = json.loads((out / _STARTED).read_bounded(_MAX_STARTED_BYTES))
    except (OSError, ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{out / _STARTED}: damaged; {_OTHER_PLACE}")
    return set(names)
