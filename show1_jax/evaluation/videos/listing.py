"""The videos of a folder, a dataset or a file, in a stable order, with everything that is no video named or counted."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from show1_jax.config.sampling import STAGES, Stage
from show1_jax.data.dataset import is_dataset
from show1_jax.data.names import MAX_CAPTION, normalise_name, one_line, split_lines
from show1_jax.data.videos import VideoSource
from show1_jax.errors import UserError
from show1_jax.evaluation.videos.sources import (
    ArrayFrames,
    EncodedFrames,
    FrameSource,
    ImageFrames,
    RecordFrames,
    StageFrames,
)
from show1_jax.files import open_regular, read_bounded, user_path
from show1_jax.media.containers import CONTAINER_SUFFIXES
from show1_jax.media.images import IMAGE_SUFFIXES, list_images, natural_order
from show1_jax.sampling.run_directory import RunDirectory
from show1_jax.sampling.run_record import RECORD

VIDEO_SUFFIXES: Final = (*CONTAINER_SUFFIXES, ".npy")
_OTHER_VIDEOS: Final = (".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv", ".3gp", ".vob", ".y4m")
"""Suffixes of videos that cannot be read; they are named, not skipped."""
_LIST_SUFFIX: Final = ".txt"
_MAX_LIST_BYTES: Final = 256 << 20
_MAX_TEXT_BYTES: Final = 4 * MAX_CAPTION + 1024


@dataclass(frozen=True)
class Video:
    """A video.

    Attributes:
        name: its path in the folder, or its place in the order of the dataset; unique.
        frames: its frames.
        files: the files that its frames are in; empty for a record of a dataset.
        caption: its caption, if its run record or a text file beside it has one.
    """

    name: str
    frames: FrameSource
    files: tuple[Path, ...]
    caption: str | None = None

    def label(self) -> str:
        """Return the name for messages: that of a record of a dataset is in the record."""
        return self.frames.dataset.name(self.frames.position) if isinstance(self.frames, RecordFrames) else self.name

    def stamps(self) -> list[tuple[int, int]]:
        """Return the sizes and times of its files, which show whether they were changed."""
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, self.files)]


@dataclass
class Listing:
    """The videos that were found.

    Attributes:
        videos: the videos, in natural order of their names; records of a dataset in its own order.
        unreadable: the reason for every video that cannot be scored, by name.
        ignored: number of other files, by suffix.
        dataset: hash of the dataset, if it is one.
        stage: stage of the run directories, if there are any.
    """

    videos: list[Video] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    dataset: str | None = None
    stage: Stage | None = None


def list_videos(path: Path, stage: Stage | None = None) -> Listing:
    """List the videos of a folder and of its subfolders.

    A run directory of `sample.py` is one video, the result of a stage. A folder of images is one video; images beside
    videos are ignored, as previews. Hidden files are ignored.

    Args:
        path: a folder, a dataset of `python -m show1_jax.data build`, a video file, or a `.txt` with the path of a
            video, a folder of images or a run directory on each line, relative to the file.
        stage: stage of run directories; by default the last one that any of them has.

    Raises:
        UserError: the path does not exist or cannot be read, has no videos, or has two of the same name.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no {path}; give a folder of videos, a dataset or a video")
    listing = Listing()
    if path.is_dir() and is_dataset(path):
        _list_dataset(path, listing)
    elif path.is_dir():
        _list_folder(path, stage, listing)
    elif path.suffix.lower() == _LIST_SUFFIX:
        _list_paths(path, stage, listing)
    elif path.suffix.lower() in VIDEO_SUFFIXES:
        listing.videos.append(_video_of_file(path, path.name))
    else:
        raise UserError(
            f"{path} is no video ({' '.join(VIDEO_SUFFIXES)}); give a video, a folder of videos or a .txt with their "
            "paths"
        )
    if not listing.videos and not listing.unreadable:
        raise UserError(
            f"{path} has no videos; it must contain {' '.join(VIDEO_SUFFIXES)}, folders of frames, or run directories "
            "of sample.py"
        )
    listing.videos.sort(key=lambda video: natural_order(video.name))
    return listing


def _list_dataset(folder: Path, listing: Listing) -> None:
    dataset = VideoSource.open(folder)
    listing.dataset = dataset.sha256
    for position in range(len(dataset)):
        listing.videos.append(Video(f"video {position}", RecordFrames(dataset, position), ()))


def _list_paths(file: Path, stage: Stage | None, listing: Listing) -> None:
    """List the videos whose paths are in a file. Their names are relative to the folder that all of them are in."""
    try:
        text = read_bounded(file, _MAX_LIST_BYTES).decode("utf-8-sig", "surrogateescape")  # as paths are in Python
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); write a path of a video on each line") from None
    lines = [line.strip() for line in split_lines(text)]
    paths = [
        Path(os.path.abspath(file.parent / user_path(line))) for line in lines if line and not line.startswith("#")
    ]
    if not paths:
        return
    root = Path(os.path.commonpath([path.parent for path in paths]))
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise UserError(f"{file} has {twice[0]} twice; keep one line")
    runs: list[RunDirectory] = []
    for path in paths:
        run = RunDirectory(path)
        if not path.exists():
            listing.unreadable[_name(root, path)] = "there is no such file or folder"
        elif not path.is_dir():
            _list_files(root, [path], listing)
        elif (path / RECORD).exists() or any(run.existing([one]) for one in STAGES):
            runs.append(run)
        elif not any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir()):
            listing.unreadable[_name(root, path)] = "it is a folder without images"
        else:
            _guarded(listing, _name(root, path), lambda name, place=path: _video_of_images(place, name))
    _list_runs(root, runs, stage, listing)


def _list_folder(folder: Path, stage: Stage | None, listing: Listing) -> None:
    runs: list[RunDirectory] = []
    for current, files in _folders(folder, listing):
        run = RunDirectory(current)
        suffixes = {path.suffix.lower() for path in files}
        if any(path.name == RECORD for path in files) or any(run.existing([one]) for one in STAGES):
            runs.append(run)
        elif suffixes & {*VIDEO_SUFFIXES, *_OTHER_VIDEOS}:
            _list_files(folder, files, listing)
        elif suffixes & set(IMAGE_SUFFIXES):
            _guarded(listing, _name(folder, current), lambda name, place=current: _video_of_images(place, name))
        else:
            listing.ignored.update(path.suffix.lower() or "no suffix" for path in files)
    _list_runs(folder, runs, stage, listing)


def _folders(folder: Path, listing: Listing) -> Iterator[tuple[Path, list[Path]]]:
    """Yield every folder below a folder with its files; links are followed, each folder once."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(path for path in current.iterdir() if not path.name.startswith("."))
            folders = {path for path in entries if path.is_dir()}
        except OSError as error:
            if current == folder:
                raise UserError(f"cannot read {folder} ({error.strerror}); check its permissions") from None
            listing.unreadable[_name(folder, current)] = f"the folder cannot be read ({error.strerror})"
            continue
        waiting += folders
        yield current, [path for path in entries if path not in folders]


def _list_files(folder: Path, files: list[Path], listing: Listing) -> None:
    stems: dict[Path, Path] = {}
    for path in files:
        suffix = path.suffix.lower()
        if suffix in _OTHER_VIDEOS:
            listing.unreadable[_name(folder, path)] = f"{suffix} is not one of {' '.join(VIDEO_SUFFIXES)}"
        elif suffix not in VIDEO_SUFFIXES:
            listing.ignored[suffix or "no suffix"] += 1
        elif (other := stems.setdefault(path.with_suffix(""), path)) != path:
            raise UserError(
                f"{path} has the name of {other.name} beside it, which may be the same video; move one of them away"
            )
        else:
            _guarded(listing, _name(folder, path), lambda name, file=path: _video_of_file(file, name))


def _list_runs(folder: Path, runs: list[RunDirectory], stage: Stage | None, listing: Listing) -> None:
    present = {one for run in runs for one in STAGES if run.existing([one])}
    chosen = stage or next((one for one in reversed(STAGES) if one in present), None)
    listing.stage = chosen if runs else None
    for run in runs:
        name = _name(folder, run.path)
        if chosen is None or not run.existing([chosen]):
            listing.unreadable[name] = f"its stage {chosen or STAGES[-1]} is not sampled yet"
        else:
            _guarded(listing, name, lambda name, run=run: _video_of_run(run, chosen, name))


def _guarded(listing: Listing, name: str, make: Callable[..., Video]) -> None:
    """Add a video, or the reason why it cannot be read."""
    try:
        listing.videos.append(make(name))
    except Exception as error:
        listing.unreadable[name] = reason(error)


def reason(error: Exception) -> str:
    """Return the reason of a failure to read a video on one line; decoders raise errors of many types."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(str(error))[:200] or type(error).__name__


def _video_of_file(path: Path, name: str) -> Video:
    frames: FrameSource = EncodedFrames(lambda: open_regular(path))
    if path.suffix.lower() == ".npy":
        frames = ArrayFrames(path)
    return Video(name, frames, (path,), _caption_beside(path.with_suffix(".txt")))


def _video_of_images(folder: Path, name: str) -> Video:
    return Video(name, ImageFrames(folder), tuple(list_images(folder)), _caption_beside(folder / "caption.txt"))


def _video_of_run(run: RunDirectory, stage: Stage, name: str) -> Video:
    """Return a stage's exact result if it is there, or else what was written for viewing."""
    viewable = [path for path in (run.stage_file(stage, suffix) for suffix in (".mp4", ".gif")) if path.exists()]
    record = run.record()
    prompt: Any = None if record is None else record.request.get("prompt")
    caption = prompt if isinstance(prompt, str) else None
    if run.has(stage):
        path = run.stage_file(stage)
        rated = viewable[:1]  # the frame rate is in the file for viewing, so that its hash counts as well
        return Video(name, StageFrames(path, rated[0] if rated else None), (path, *rated), caption)
    return Video(name, EncodedFrames(lambda: open_regular(viewable[0])), (viewable[0],), caption)


def _caption_beside(path: Path) -> str | None:
    try:
        return one_line(read_bounded(path, _MAX_TEXT_BYTES).decode("utf-8-sig")) or None
    except (OSError, UnicodeDecodeError):  # most metrics need no caption; the others refuse a video without one
        return None


def _name(folder: Path, path: Path) -> str:
    return normalise_name(path.relative_to(folder).as_posix())
