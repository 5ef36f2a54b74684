"""Reads from folders of unknown origin: a link that leads out of the folder is refused.

A link may lead to any file of this machine, and files that are read are copied into a checkpoint. The hub's cache
consists of links, too: `snapshots/COMMIT/FILE` leads to `blobs/HASH` of the same repository.
"""

from pathlib import Path
from typing import Any, Final

from show1_jax.errors import FileError, UserError
from show1_jax.files import read_bounded, read_json

MAX_CONFIG_BYTES: Final = 1 << 20
"""Size limit of a `config.json` and similar files; released ones have at most 3 KB."""
MAX_FILE_BYTES: Final = 16 << 20
"""Size limit of a tokenizer's file and of an index of weights; released ones have at most 3 MB."""

AllowedRoots = tuple[Path, ...]
_SHARED_BLOBS: Final = ".huggingface-shared-blobs"
"""Marker file of the hub's library in a shared store of blobs, to which `blobs/HASH` of a repository may be a link."""


def allowed_roots(folder: Path) -> AllowedRoots:
    """Return the folders that links in a released folder must not leave.

    They are the folder itself or, in the hub's cache, its repository and the store that the cache's repositories share.

    Raises:
        UserError: the folder's own path is a loop of links.
    """
    real = _resolved(folder)
    for parent in (real, *real.parents):
        repository = parent.parent
        if parent.name == "snapshots" and _is_own_folder(repository / "blobs"):
            shared = repository.parent / "blobs"
            return (repository, shared) if (shared / _SHARED_BLOBS).is_file() else (repository,)
    return (real,)


def check_inside(path: Path, roots: AllowedRoots) -> Path:
    """Return `path` after checking that it does not lead out of `roots`.

    Raises:
        UserError: it is a link, or below a link, that leads elsewhere or to no file.
    """
    real = _resolved(path)
    if not any(real.is_relative_to(root) for root in roots):
        raise UserError(f"{path}: leads out of {roots[0]} by a link, which is not followed; copy the file to its place")
    return path


def read_settings(path: Path, roots: AllowedRoots) -> dict[str, Any]:
    """Return the content of a configuration file (`-Infinity` is allowed, as in released schedulers).

    Args:
        path: the path of the file.
        roots: the folders that links must not leave, see `allowed_roots`.

    Raises:
        UserError: a missing file, no JSON object, too large, or a link out of `roots`.
    """
    try:
        values = read_json(check_inside(path, roots), "download it again", max_bytes=MAX_CONFIG_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; download the whole released folder") from None
    if not isinstance(values, dict):
        raise FileError(f"{path}: not a table of settings", "download it again")
    return values


def read_file(path: Path, roots: AllowedRoots) -> bytes:
    """Return the content of a file of a tokenizer.

    Args:
        path: the path of the file, which exists.
        roots: the folders that links must not leave, see `allowed_roots`.

    Raises:
        UserError: not a regular file, too large, or a link out of `roots`.
    """
    try:
        return read_bounded(check_inside(path, roots), MAX_FILE_BYTES)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", "download it again") from None


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        raise UserError(f"{path}: a link that leads nowhere; download the folder again") from None
