"""New datasets and text caches, here or in a bucket, and uploads of those that are here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from show1_jax.buckets.upload import FolderKind, bucket_target, upload_existing
from show1_jax.data.transfer.record import RECORD, UPLOAD, read_record, write_record
from show1_jax.errors import UserError
from show1_jax.files import check_target, check_utf8_path, new_folder
from show1_jax.progress import say

_MARKS: Final = ("dataset_info.json", "cache.json")
"""A folder has one of these if it is a dataset or a text cache, also one from before there was a `files.json`."""
_REMAKE: Final = "make the folder again"
_DATA: Final = FolderKind(
    "dataset or text cache", RECORD, lambda folder: read_record(folder, remedy=_REMAKE)[1], UPLOAD
)


@contextmanager
def new_data_folder(out: Path) -> Iterator[Path]:
    """Create a local folder that becomes `out`, with its `files.json`, if the block succeeds; see `new_folder`.

    Call `check_data_target` first.
    """
    with new_folder(out, _DATA) as folder:
        yield folder
        write_record(folder)


def check_data_target(
    out: Path, kind: str = "", is_ours: Callable[[Path], bool] | None = None, *, overwrite: bool = False
) -> None:
    """Refuse a path for a new dataset or text cache, which may be in a bucket; see `check_target`.

    Raises:
        UserError: as `check_target`; or the path is not UTF-8.
    """
    check_utf8_path(out)
    check_target(out, kind, is_ours, overwrite=overwrite, uploaded=_DATA)


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
    target = bucket_target(out)
    if not (folder / RECORD).is_file() and any((folder / name).is_file() for name in _MARKS):
        write_record(folder)
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder}: no dataset and no cache of text states with its {RECORD}; make one with `build` or "
            "`encode_text`"
        )
    files = upload_existing(folder, target, _DATA, overwrite=overwrite)
    say(f"{out}: {len(files)} files of {sum(size for size, _ in files.values()):,} bytes are uploaded")
