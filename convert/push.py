"""`python -m convert push`: upload a checkpoint or an adapter to a repository of the hub.

Large files are uploaded first, component by component, and a single commit then adds everything: readers see the old
checkpoint or the new one. After a failure, the same command skips the files that the hub already has.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_token

from show1_jax.checkpoints.arrays import parameter_counts
from show1_jax.checkpoints.cards.licences import licence_of
from show1_jax.checkpoints.cards.model_card import model_card, own_card_in
from show1_jax.checkpoints.checkpoint_set import resolve_checkpoint
from show1_jax.checkpoints.hub import hub_errors, is_hub_id
from show1_jax.checkpoints.manifest import (
    CARD,
    HUB_PREFIX,
    LICENCE_FILES,
    MANIFEST,
    TRAINING,
    Manifest,
    read_manifest,
    verify_files,
)
from show1_jax.errors import UserError
from show1_jax.media.contact_sheet import CONTACT_SHEET
from show1_jax.progress import Bar, say

from .card import with_licence

_MESSAGE: Final = "Upload a checkpoint of show1_jax"
_AGAIN: Final = "run this again"


@dataclass(frozen=True)
class Upload:
    """Target of an upload.

    Attributes:
        repository: `OWNER/NAME`.
        is_private: only the owner sees a new repository.
        revision: branch; it is made if it does not exist.
        message: message of the commit.
        accepts_licences: the user has read the licences of the weights, and may publish them.
        licence: licence of the components that record none, as the hub names it; empty: it stays unknown.
    """

    repository: str
    is_private: bool = False
    revision: str = "main"
    message: str = _MESSAGE
    accepts_licences: bool = False
    licence: str = ""


def push(checkpoint: Path, upload: Upload) -> str:
    """Upload a checkpoint, an adapter, or the newest intact step of a training run without its training state.

    Args:
        checkpoint: its directory.
        upload: the target.

    Returns:
        The commit.

    Raises:
        UserError: the target is not valid; the checkpoint is damaged; weights without a recorded licence, or without
            `accepts_licences` under one that restricts them, would be public; there is no token, or it is refused; the
            hub cannot be reached. Nothing is then visible in the repository.
    """
    if not is_hub_id(upload.repository) or "@" in upload.repository:
        raise UserError(f"{upload.repository}: not the name of a repository; give OWNER/NAME, and --revision if needed")
    if not is_hub_id(f"{upload.repository}@{upload.revision}"):
        raise UserError(f"--revision={upload.revision} is not the name of a branch; give e.g. main or v2")
    if not upload.message.strip():
        raise UserError("--message is empty; give the message of the commit, or omit it")
    if get_token() is None:
        raise UserError("there is no token for the hub; run `hf auth login` with one that may write, or set HF_TOKEN")
    folder = resolve_checkpoint(checkpoint)
    manifest = _verified(folder)
    if upload.licence:
        manifest = with_licence(manifest, upload.licence, checkpoint)
    api = HfApi()
    with _errors(upload):
        existing = _make_repository(api, manifest, upload)
        additions = _additions(api, folder, manifest, upload, existing)
        for part, files in _by_folder(additions).items():
            say(f"upload {part or 'card and manifest'}: {sum(map(_size, files)) / 1e6:,.1f} MB")
            api.preupload_lfs_files(upload.repository, additions=files, revision=upload.revision)
        kept = {addition.path_in_repo for addition in additions}
        stale = [CommitOperationDelete(name) for name in _recorded_files(upload, existing) if name not in kept]
        commit = api.create_commit(
            upload.repository, [*additions, *stale], commit_message=upload.message, revision=upload.revision
        )
    print(f"{HUB_PREFIX}{upload.repository}: commit {commit.oid} in {upload.revision}, {len(kept)} files")
    return str(commit.oid)


def _verified(folder: Path) -> Manifest:
    """Return the manifest of an intact checkpoint, without the files of a training state."""
    manifest = read_manifest(folder)
    with Bar("hash", sum(file["size"] for file in manifest.files.values()), unit="B", leave=False) as bar:
        verify_files(folder, bar.update)
    files = {name: file for name, file in manifest.files.items() if not name.startswith(f"{TRAINING}/")}
    return dataclasses.replace(manifest, files=files)


@contextmanager
def _errors(upload: Upload) -> Iterator[None]:
    with hub_errors(upload.repository, upload.revision, _AGAIN):
        try:
            yield
        except (UnicodeEncodeError, json.JSONDecodeError):
            raise
        except (ValueError, RuntimeError) as error:  # of the upload's threads, or a card that the hub refuses
            line = " ".join(str(error.__cause__ or error).split())
            line = re.sub(r"\?[^\s'\"]+", "", line)[:300]  # the query of an upload's address is a signature
            raise UserError(f"{upload.repository}: the upload failed ({line}); {_AGAIN}") from error


def _make_repository(api: HfApi, manifest: Manifest, upload: Upload) -> list[str]:
    """Create the repository and the branch if they do not exist; return the names of the files in the branch."""
    try:
        info = api.model_info(upload.repository)
    except RepositoryNotFoundError:
        _check_licences(manifest, upload, is_private=upload.is_private)
        api.create_repo(upload.repository, private=upload.is_private)
        info = api.model_info(upload.repository)
    else:
        _check_licences(manifest, upload, is_private=bool(info.private))
        if upload.is_private and not info.private:
            raise UserError(
                f"{upload.repository}: exists and is public; make it private on its page, or omit --private"
            )
    if upload.revision == "main":
        return [file.rfilename for file in info.siblings or ()]
    try:
        info = api.model_info(upload.repository, revision=upload.revision)
    except RevisionNotFoundError:
        api.create_branch(upload.repository, branch=upload.revision)
        info = api.model_info(upload.repository, revision=upload.revision)
    return [file.rfilename for file in info.siblings or ()]


def _check_licences(manifest: Manifest, upload: Upload, *, is_private: bool) -> None:
    """Refuse to publish weights without a licence, or under one that restricts this without the user's consent."""
    if is_private:
        return
    found: dict[tuple[str, str], list[str]] = {}
    without = []
    for name, component in manifest.components.items():
        licence = licence_of(component.provenance)
        if not licence.text:
            without.append(name)
        elif licence.restriction and not upload.accepts_licences:
            found.setdefault((licence.text, licence.restriction), []).append(name)
    if found:
        listed = "; ".join(f"{', '.join(names)}: {text} ({reason})" for (text, reason), names in found.items())
        raise UserError(
            f"{upload.repository} would be public, with weights under licences of others: {listed}; read them, then "
            "add --accept_licences if they let you publish these weights, or --private"
        )
    if without:
        raise UserError(
            f"{upload.repository} would be public, with weights whose licence is not recorded: {', '.join(without)}; "
            "state it with --licence, e.g. --licence apache-2.0 for your own, or add --private"
        )


def _additions(
    api: HfApi, folder: Path, manifest: Manifest, upload: Upload, existing: list[str]
) -> list[CommitOperationAdd]:
    """Return the files to upload: those of the manifest, the manifest, and the files beside the components."""
    additions = []
    for name, recorded in manifest.files.items():
        additions.append(CommitOperationAdd(name, str(folder / name)))
        additions[-1].upload_info.sha256 = bytes.fromhex(recorded["sha256"])  # it is not computed again
    additions.append(CommitOperationAdd(MANIFEST, manifest.to_bytes()))
    beside = [name for name in (CONTACT_SHEET, *LICENCE_FILES) if (folder / name).is_file()]
    additions += [CommitOperationAdd(name, str(folder / name)) for name in beside]
    if not own_card_in(folder):
        additions.append(CommitOperationAdd(CARD, str(folder / CARD)))
    elif CARD not in existing or _has_own_card(upload):
        counts = parameter_counts(folder, manifest.components)
        text = model_card(manifest, counts, where=f"{HUB_PREFIX}{upload.repository}", has_sheet=CONTACT_SHEET in beside)
        additions.append(CommitOperationAdd(CARD, text.encode()))
    return additions


def _has_own_card(upload: Upload) -> bool:
    """Return whether the repository's card is one of ours, which nobody has edited."""
    return own_card_in(Path(hf_hub_download(upload.repository, CARD, revision=upload.revision)).parent)


def _recorded_files(upload: Upload, existing: list[str]) -> list[str]:
    """Return the files of the checkpoint that is in the branch; others there are not ours, and are never removed."""
    if MANIFEST not in existing:
        return []
    folder = Path(hf_hub_download(upload.repository, MANIFEST, revision=upload.revision)).parent
    try:
        recorded = read_manifest(folder).files
    except UserError:  # of another format version, or damaged
        return []
    return [name for name in existing if name in recorded and "/" in name]


def _size(addition: CommitOperationAdd) -> int:
    return addition.upload_info.size


def _by_folder(additions: list[CommitOperationAdd]) -> dict[str, list[CommitOperationAdd]]:
    """Return the files of each component, and under an empty name those beside the components."""
    folders: dict[str, list[CommitOperationAdd]] = {}
    for addition in additions:
        folders.setdefault(addition.path_in_repo.rpartition("/")[0].partition("/")[0], []).append(addition)
    return folders
