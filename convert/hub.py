"""Released folders from the Hugging Face hub: one pinned revision, only the files needed.

If the hub cannot be reached, or HF_HUB_OFFLINE is set, the hub's cache is used.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from show1_jax.checkpoints.hub import UnreachableError, cached_snapshot, hub_errors
from show1_jax.errors import UserError

from .reader import choose_file, read_index
from .released import MODEL_INDEX, TOKENIZER_FILES, ReleasedStage


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
        with hub_errors(repository, revision, "convert again"):
            return _from_hub(source, repository, revision, needed)
    except UnreachableError as error:
        snapshot = cached_snapshot(repository, revision)
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
