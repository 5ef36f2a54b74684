"""The videos of a folder, each with a unique name, and the text files beside them."""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from show1_jax.data.building.left_out import LeftOut
from show1_jax.data.names import MAX_VIDEO_BYTES, normalise_name
from show1_jax.errors import UserError

DATASET_VIDEO_SUFFIXES: Final = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
"""Suffixes of the files that a build uses: no .gif, which `media.containers` can also read."""
_WRONG_SUFFIX: Final = f"its suffix is not one of {' '.join(DATASET_VIDEO_SUFFIXES)}"


@dataclass
class FoundFiles:
    """The files of a folder that a build can use.

    A video's name is its path in the folder without the suffix, in the form of `normalise_name`. Videos whose paths
    differ only in the suffix keep the suffix.

    Attributes:
        videos: paths of the videos, by name, in the order of the paths.
        names: names of the videos with the same path without a suffix, by that path.
        texts: paths ending in `.txt`, by the path without the suffix; some may not be regular files.
    """

    videos: dict[str, Path] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, Path] = field(default_factory=dict)

    def videos_named(self, name: str) -> list[str]:
        """Return the names of the videos that match a name in a table, which may have a suffix or not."""
        stem, suffix = os.path.splitext(name)
        if name in self.videos:
            return [name]
        if stem in self.videos and normalise_name(self.videos[stem].suffix) == suffix:
            return [stem]
        return self.names.get(name, [])


def find_files(folder: Path, left_out: LeftOut, skip: Collection[Path] = ()) -> FoundFiles:
    """Find the videos of a folder and of its subfolders.

    Only links to files inside the folder are followed, since the folder may come from an untrusted source.

    Args:
        folder: folder to search.
        left_out: receives the files that cannot be used.
        skip: files and folders to skip.

    Raises:
        UserError: the folder does not exist, cannot be read, or contains no possible video.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no folder {folder}; give the videos as --videos DIR")
    paths: list[Path] = []
    texts: list[Path] = []
    for entry in _walk(folder, left_out, {os.path.realpath(path) for path in skip}):
        path = Path(entry.path)
        suffix = path.suffix.lower()
        if suffix == ".txt":
            texts.append(path)
        elif problem := _WRONG_SUFFIX if suffix not in DATASET_VIDEO_SUFFIXES else _file_problem(entry):
            left_out.add(_relative_name(folder, path), problem)
        else:
            paths.append(path)
    if not paths and not left_out.count:  # otherwise `left_out` gives the reasons
        raise UserError(
            f"{folder} has no videos ({', '.join(DATASET_VIDEO_SUFFIXES)}); give the folder that holds them"
        )
    found = _assign_names(folder, sorted(paths), left_out)
    for path in sorted(texts, key=lambda path: (path.suffix != ".txt", path)):
        found.texts.setdefault(_stem(folder, path), path)
    return found


def _walk(folder: Path, left_out: LeftOut, skip: Collection[str]) -> "Iterator[os.DirEntry[str]]":
    """Yield the files in a folder and in its subfolders, and any subfolder with the suffix of a text file."""
    root, folders = os.path.realpath(folder), [folder]
    skipped_names = {os.path.basename(path) for path in skip}
    while folders:
        current = folders.pop()
        try:
            with os.scandir(current) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if current is folder:
                raise UserError(f"cannot read {folder} ({error.strerror}); give the videos as --videos DIR") from None
            left_out.add(_relative_name(folder, current), f"the folder cannot be read ({error.strerror})")
            continue
        for entry in listed:
            if entry.name in skipped_names and os.path.realpath(entry.path) in skip:
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if problem := _hidden_problem(entry) or _link_problem(entry, root):
                left_out.add(_relative_name(folder, Path(entry.path)), problem)
                continue
            if is_folder:
                folders.append(Path(entry.path))
            if not is_folder or entry.name.lower().endswith(".txt"):
                yield entry


def _hidden_problem(entry: "os.DirEntry[str]") -> str | None:
    return "it is hidden" if entry.name.startswith(".") else None


def _link_problem(entry: "os.DirEntry[str]", root: str) -> str | None:
    if not entry.is_symlink():
        return None
    target = os.path.realpath(entry.path)
    if os.path.isdir(target):
        return "a link to a folder, which is not followed"
    if not os.path.exists(target):
        return "a link that leads nowhere"
    return None if Path(target).is_relative_to(root) else "a link to outside of the folder; copy the file"


def _file_problem(entry: "os.DirEntry[str]") -> str | None:
    try:
        status = entry.stat()
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size > MAX_VIDEO_BYTES:
        return f"it has more than {MAX_VIDEO_BYTES >> 20} MiB; cut it into clips"
    return None


def _assign_names(folder: Path, paths: list[Path], left_out: LeftOut) -> FoundFiles:
    found = FoundFiles()
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_stem(folder, path), []).append(path)
    for stem, group in groups.items():
        for path in group:
            name = stem if len(group) == 1 else stem + normalise_name(path.suffix)
            if name in found.videos:
                spelled = ascii(_relative_name(folder, path))[1:-1]
                left_out.add(spelled, "another video has the same name in the dataset; rename it")
                continue
            found.videos[name] = path
            found.names.setdefault(stem, []).append(name)
    return found


def _relative_name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _stem(folder: Path, path: Path) -> str:
    return normalise_name(path.relative_to(folder).with_suffix("").as_posix())
