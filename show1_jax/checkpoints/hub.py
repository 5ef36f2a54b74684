"""Repositories of the Hugging Face hub: their names, their errors in one line, the hub's cache, and checkpoints there.

A checkpoint `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION` is downloaded into the hub's cache, one component at a time.
Its revision is resolved once in a process. If the hub cannot be reached, or HF_HUB_OFFLINE is set, the cache is used.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id
from tqdm import tqdm

from show1_jax.checkpoints.manifest import HUB_PREFIX, MANIFEST, SNAPSHOTS, read_manifest, sha256
from show1_jax.errors import UserError
from show1_jax.files import check_space, read_bounded
from show1_jax.parallel import from_first_process, is_first_process
from show1_jax.progress import Bar

_REVISION: Final = re.compile(r"(?!/|.*\.\.)[\w./-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DOWNLOADS: Final = 4
"""Files that are downloaded at the same time."""
_REFUSED: Final = {401: "the token is missing or refused", 403: "the token may not do this"}


class UnreachableError(UserError):
    """The hub cannot be reached, or HF_HUB_OFFLINE is set."""


def is_hub_id(source: str) -> bool:
    """Return whether `source` looks like `owner/name` or `owner/name@revision`."""
    repository, at, revision = source.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return "/" in repository and (not at or _REVISION.fullmatch(revision) is not None)


def cached_snapshot(repository: str, revision: str) -> Path | None:
    """Return the folder of a revision in the hub's cache, or None if it is not there.

    Our downloads are of one commit, and do not record its branch. So if no revision is given and a repository's cache
    holds a single commit, that commit is used.
    """
    cache = _cache_folder(repository)
    try:
        commit = read_bounded(cache / "refs" / (revision or "main"), 100).decode().strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    if _COMMIT.fullmatch(commit) and (cache / SNAPSHOTS / commit).is_dir():
        return cache / SNAPSHOTS / commit
    commits = [path for path in (cache / SNAPSHOTS).glob("*") if _COMMIT.fullmatch(path.name)]
    return commits[0] if not revision and len(commits) == 1 else None


def _cache_folder(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / "--".join(("models", *repository.split("/")))


@contextmanager
def hub_errors(repository: str, revision: str, again: str) -> Iterator[None]:
    """Raise the errors of the hub's library in the block as one line.

    Args:
        repository: name of the repository.
        revision: its revision; empty: the default.
        again: advice after a login, e.g. "convert again".

    Raises:
        UnreachableError: there is no network, or HF_HUB_OFFLINE is set.
        UserError: any other error of the hub, or of the disk; or there is no place for the hub's cache.
    """
    if constants.HF_HUB_CACHE.startswith("~"):  # the library would make a folder of this name here
        raise UserError(f"{repository}: there is no home directory for the hub's cache; set HF_HOME to a folder")
    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{repository} is gated: log in at {page}, accept its licence there, then run `hf auth login` and {again}"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{repository} has no revision {revision!r}; see {page}/commits/main") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repository}: no such repository on the hub, or a private one; check the name, or run `hf auth login`"
        ) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError):
        problem = "the hub cannot be reached; go online"
        if constants.HF_HUB_OFFLINE:
            problem = "HF_HUB_OFFLINE is set, and the hub's cache has no copy; unset it"
        raise UnreachableError(f"{repository}: {problem}, or download the folder elsewhere and give its path") from None
    except HfHubHTTPError as error:
        raise _http_error(repository, error, again) from None
    except UnicodeEncodeError:
        raise UserError(
            f"{repository}: the token for the hub has characters that no token has; correct HF_TOKEN, or run "
            f"`hf auth login`, and {again}"
        ) from None
    except json.JSONDecodeError:
        raise UserError(
            f"{repository}: the answer is not one of the hub; check HF_ENDPOINT, and whether a network asks for a login"
        ) from None
    except OSError as error:
        raise UserError(
            f"{repository}: cannot be downloaded ({error.strerror or error}); correct this and try again"
        ) from None


def _http_error(repository: str, error: HfHubHTTPError, again: str) -> UserError:
    status = error.response.status_code
    if status in _REFUSED:
        return UserError(f"{repository}: {_REFUSED[status]}; run `hf auth login` with one that may, and {again}")
    return UserError(f"{repository}: the hub answers {status}; try again later")


class HubCheckpoint:
    """A checkpoint in a repository of the hub, at one commit.

    Attributes:
        name: its name as the user gave it, `hub:OWNER/NAME[@REVISION]`.
        repository: `OWNER/NAME`.
        folder: its folder in the hub's cache, in which files appear as they are downloaded.
    """

    def __init__(self, name: str):
        """Resolve the revision, and get the manifest. All processes must call this at the same point.

        Raises:
            UserError: the name is not valid; the repository or its revision does not exist, is gated or is not a
                checkpoint; or the hub cannot be reached and its cache has no copy.
        """
        self.name = name
        source = name.removeprefix(HUB_PREFIX)
        if not is_hub_id(source):
            raise UserError(f"{name}: not a checkpoint on the hub; give hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
        self.repository, _, self._revision = source.partition("@")
        commit = from_first_process(self._resolve)
        self.folder = _cache_folder(self.repository) / SNAPSHOTS / commit
        self._complete: set[str] = set()
        self._lock = threading.Lock()
        self._get(MANIFEST)

    @property
    def commit(self) -> str:
        """Commit that is used."""
        return self.folder.name

    def fetch(self, component: str) -> None:
        """Download the files of a component that the hub's cache lacks, and compare them with the manifest.

        Raises:
            UserError: no such component, no network, a full disk, or files that differ from the manifest.
        """
        with self._lock:
            if component in self._complete:
                return
            manifest = read_manifest(self.folder)
            manifest.component(component)
            missing = {
                file: recorded
                for file, recorded in manifest.files.items()
                if file.startswith(f"{component}/") and not (self.folder / file).is_file()
            }
            if missing:
                total = sum(recorded["size"] for recorded in missing.values())
                check_space(self.folder, total, "make room, or set HF_HOME to a folder on another disk")
                with Bar(f"download {component}", total, unit="B", leave=False, shown=is_first_process()) as bar:
                    self._download(missing, bar)
            self._complete.add(component)

    def _download(self, files: dict[str, dict[str, Any]], bar: Bar) -> None:
        counter = _counter(bar)
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            waiting = [pool.submit(self._get_checked, file, files[file], counter) for file in files]
            try:
                for future in waiting:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _get_checked(self, file: str, recorded: dict[str, Any], counter: type["tqdm[Any]"]) -> None:
        path = self._get(file, counter)
        if path.stat().st_size == recorded["size"] and sha256(path) == recorded["sha256"]:
            return
        with suppress(OSError):
            path.resolve().unlink()  # the link would give the damaged file again
            path.unlink()
        raise UserError(
            f"{self.name}: {file} is damaged (it is not the file of {MANIFEST}); run this again, and if that does not "
            "help, ask the owner to upload it again"
        )

    def _get(self, file: str, counter: type["tqdm[Any]"] | None = None) -> Path:
        if (self.folder / file).is_file():
            return self.folder / file
        with hub_errors(self.repository, self._revision, "run this again"):
            try:
                hf_hub_download(self.repository, file, revision=self.commit, tqdm_class=counter or _counter(None))
            except RemoteEntryNotFoundError:
                if file == MANIFEST:
                    raise UserError(
                        f"{self.name}: has no {MANIFEST}, so it is no checkpoint of show1_jax; released PyTorch "
                        "weights are converted by `python -m convert --help`"
                    ) from None
                raise UserError(f"{self.name}: has no {file}, which its {MANIFEST} lists; ask its owner") from None
        return self.folder / file

    def _resolve(self) -> str:
        snapshot = cached_snapshot(self.repository, self._revision)
        if snapshot is not None and snapshot.name == self._revision:
            return snapshot.name  # a commit never changes
        try:
            with hub_errors(self.repository, self._revision, "run this again"):
                return str(HfApi().model_info(self.repository, revision=self._revision or None).sha)
        except UnreachableError:
            if snapshot is None or not (snapshot / MANIFEST).is_file():
                raise
        print(f"{self.name}: using commit {snapshot.name} from the hub's cache", file=sys.stderr)
        return snapshot.name


def _counter(bar: Bar | None) -> type["tqdm[Any]"]:
    """Return a class of invisible bars, whose progress is that of one bar for all files."""
    lock = threading.Lock()

    class Counter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if bar is not None:
                with lock:
                    bar.update(int(n or 0))
            return None

    return Counter


_opened: Final[dict[str, HubCheckpoint]] = {}
"""Checkpoints of the hub that this process has opened, by name: a name is resolved to a commit once."""


def open_hub(name: str) -> Path:
    """Return the folder of a checkpoint of the hub, with its manifest; see `HubCheckpoint`."""
    if name not in _opened:
        _opened[name] = HubCheckpoint(name)
    return _opened[name].folder


def origin_of(folder: Path) -> HubCheckpoint | None:
    """Return the checkpoint of the hub whose folder this is; None for any other folder."""
    return next((checkpoint for checkpoint in _opened.values() if checkpoint.folder == folder), None)
