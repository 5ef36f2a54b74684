"""Released folders from the Hugging Face hub: one pinned revision, only the files needed.

If the hub cannot be reached, or HF_HUB_OFFLINE is set, the hub's cache is used.
"""

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id

from show1_jax.errors import UserError
from show1_jax.files import read_bounded

from .reader import choose_file, read_index
from .released import MODEL_INDEX, TOKENIZER_FILES, ReleasedStage

_REVISION = re.compile(r"(?!.*\.\.)[\w./-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class _UnreachableError(UserError):
    """The hub cannot be reached, or HF_HUB_OFFLINE is set."""


def is_hub_id(source: str) -> bool:
    """Return whether `source` looks like `owner/name` or `owner/name@revision`."""
    repository, at, revision = source.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return "/" in repository and (not at or _REVISION.fullmatch(revision) is not None)


@dataclass(frozen=True)
class NeededFiles:
    """The files of a repository that are needed.

    Attributes:
        name: name of the stage or network that needs them.
        repository: a repository that has them, for messages.
        names: returns their names, from the names of all files, the repository's name for messages, and a function that
            downloads a file and returns its path.
    """

    name: str
    repository: str
    names: Callable[[list[str], str, Callable[[str], Path]], Iterator[str]]


def download(source: str, stage: ReleasedStage, variant: str | None = None) -> tuple[Path, str]:
    """Download the files that a stage needs; see `download_files`.

    Args:
        source: `owner/name` or `owner/name@revision`.
        stage: the stage, with the parts that are needed.
        variant: the variant of the weights, see `open_weights`.
    """
    names = functools.partial(_stage_files, stage, variant)
    return download_files(source, NeededFiles(stage.name, stage.repository, names))


def download_files(source: str, needed: NeededFiles) -> tuple[Path, str]:
    """Download files into the hub's cache, or find them there if the hub cannot be reached.

    Args:
        source: `owner/name` or `owner/name@revision`.
        needed: the files.

    Returns:
        The folder, and the commit of `revision` (by default `main`).

    Raises:
        UserError: gated, missing or unreachable repository, missing revision, or missing files.
    """
    repository, _, revision = source.partition("@")
    try:
        with _hub_errors(repository, revision):
            return _from_hub(source, repository, revision, needed)
    except _UnreachableError as error:
        snapshot = _cached_snapshot(repository, revision)
        if snapshot is None:
            raise UserError(str(error)) from None
        _check_snapshot(snapshot, source, needed)
    print(f"{repository}: using commit {snapshot.name} from the hub's cache", file=sys.stderr)
    return snapshot, snapshot.name


def _from_hub(source: str, repository: str, revision: str, needed: NeededFiles) -> tuple[Path, str]:
    info = HfApi().model_info(repository, revision=revision or None)
    commit = str(info.sha)

    def get(name: str) -> Path:
        return Path(hf_hub_download(repository, name, revision=commit))

    names = [file.rfilename for file in info.siblings or ()]
    wanted = list(needed.names(names, source, get))
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise UserError(
            f"{source}: has no {', '.join(missing)}; {needed.name} needs a repository like {needed.repository}"
        )
    paths = [get(name) for name in wanted]
    root = paths[0]
    for _ in Path(wanted[0]).parts:
        root = root.parent
    return root, commit


def _cached_snapshot(repository: str, revision: str) -> Path | None:
    """Return the folder of a revision in the hub's cache, or None if it is not there.

    Our downloads are of one commit, and do not record its branch. So if no revision is given and a repository's cache
    holds a single commit, that commit is used.
    """
    cache = Path(constants.HF_HUB_CACHE) / "--".join(("models", *repository.split("/")))
    try:
        commit = read_bounded(cache / "refs" / (revision or "main"), 100).decode().strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    if _COMMIT.fullmatch(commit) and (cache / "snapshots" / commit).is_dir():
        return cache / "snapshots" / commit
    commits = [path for path in (cache / "snapshots").glob("*") if _COMMIT.fullmatch(path.name)]
    return commits[0] if not revision and len(commits) == 1 else None


def _check_snapshot(snapshot: Path, source: str, needed: NeededFiles) -> None:
    """Refuse a folder of the hub's cache that lacks files.

    Raises:
        UserError: files are missing; the message names them.
    """
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    wanted = needed.names(names, f"{source} in the hub's cache", snapshot.joinpath)
    if missing := sorted(set(wanted) - set(names)):
        raise UserError(
            f"{source}: the hub cannot be reached, and its cache of commit {snapshot.name} has no "
            f"{', '.join(missing)}; go online"
        )


def _stage_files(
    stage: ReleasedStage, variant: str | None, names: list[str], source: str, get: Callable[[str], Path]
) -> Iterator[str]:
    if MODEL_INDEX in names:
        yield MODEL_INDEX
    for part in stage.parts:
        if part.optional and part.config not in names:
            continue
        yield part.config
        yield from weight_files(names, f"{part.folder}/", variant, source, get)
        for scheduler in part.schedulers:
            yield f"{scheduler}/scheduler_config.json"
        for name in TOKENIZER_FILES if part.tokenizer else ():
            if name in part.tokenizer or f"tokenizer/{name}" in names:
                yield f"tokenizer/{name}"


def weight_files(
    names: list[str], prefix: str, variant: str | None, source: str, get: Callable[[str], Path]
) -> Iterator[str]:
    """Yield the names of the files of weights in a repository's folder.

    Args:
        names: the names of all files.
        prefix: the folder with a slash behind it; empty for the repository's own.
        variant: the variant of the weights, see `open_weights`.
        source: the repository's name, for messages.
        get: downloads a file and returns its path.
    """
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    chosen = choose_file(inside, variant, where=f"{source}/{prefix}".rstrip("/"))
    yield prefix + chosen.name
    if chosen.is_index:
        yield from sorted(prefix + shard for shard in set(read_index(get(prefix + chosen.name)).values()))


@contextmanager
def _hub_errors(repository: str, revision: str) -> Iterator[None]:
    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{repository} is gated: log in at {page}, accept its licence there, then run `hf auth login` "
            "and convert again"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repository} has no revision {revision!r}; see {page}/commits/main") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repository}: no such repository on the hub, or a private one; check the name, or run `hf auth login`"
        ) from None
    except OfflineModeIsEnabled:
        raise _UnreachableError(
            f"{repository}: HF_HUB_OFFLINE is set, and the hub's cache has no copy; unset it, or download the folder "
            "elsewhere and give its path"
        ) from None
    except (LocalEntryNotFoundError, httpx.TransportError):
        raise _UnreachableError(
            f"{repository}: the hub cannot be reached; go online, or download the folder elsewhere and give its path"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(f"{repository}: the hub answers {error.response.status_code}; try again later") from None
    except OSError as error:
        raise UserError(
            f"{repository}: cannot be downloaded ({error.strerror or error}); correct this and try again"
        ) from None
