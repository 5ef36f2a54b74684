"""The captions of videos: from a file that the user gives, from run records, or from text files beside the videos."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from show1_jax.data.building.table import TOO_MANY
from show1_jax.data.names import MAX_CAPTION, marks_missing, normalise_name, one_line, split_lines
from show1_jax.errors import UserError, shown
from show1_jax.evaluation.videos.listing import Video
from show1_jax.evaluation.videos.sources import RecordFrames
from show1_jax.files import parse_json, read_bounded
from show1_jax.media.errors import VideoError

_MAX_FILE_BYTES: Final = 256 << 20
_NAMES: Final = ("video", "video_id", "videoid", "name", "file")
_CAPTIONS: Final = ("caption", "prompt", "text")
FORMATS: Final = (
    "captions are read from .txt (a line a video, in natural order of the names), .json (an object of captions by "
    "video), .jsonl, .csv and .tsv (with the columns video,caption)"
)


def captions_of(videos: Sequence[Video], file: Path | None) -> list[str]:
    """Return the caption of every video.

    Args:
        videos: all videos of a folder, in natural order.
        file: file of captions, which replaces all others; None: the videos' own captions. A video is named by its path
            in the folder, with or without the suffix; a name without folders will do if it is unique.

    Raises:
        UserError: the file cannot be read or has another format, or videos have no caption; the line names the first.
    """
    found = [_own_caption(video) for video in videos] if file is None else _from_file(videos, file)
    missing = [video.name for video, caption in zip(videos, found, strict=True) if caption is None]
    if missing:
        where = "with --captions FILE, a text file in UTF-8 beside each video, or run directories of sample.py"
        remedy = f"give them {where}" if file is None else f"add them to {file}"
        raise UserError(f"{len(missing)} of {len(videos)} videos have no caption, the first is {missing[0]}; {remedy}")
    return [caption for caption in found if caption is not None]


def _own_caption(video: Video) -> str | None:
    if isinstance(video.frames, RecordFrames):
        try:
            return video.frames.caption() or None
        except VideoError:
            return None
    return video.caption


def _from_file(videos: Sequence[Video], file: Path) -> list[str | None]:
    suffix = file.suffix.lower()
    text = _read_text(file)
    if suffix == ".txt":
        lines = [one_line(line) for line in split_lines(text) if line.strip()]
        if len(lines) != len(videos):
            raise UserError(f"{file} has {len(lines)} captions for {len(videos)} videos; write one line for each")
        return [*lines]
    if suffix in (".csv", ".tsv"):
        table = _from_rows(file, _table_rows(file, text, "\t" if suffix == ".tsv" else ","))
    elif suffix in (".json", ".jsonl"):
        table = _from_json(file, text)
    else:
        raise UserError(f"{file}: {suffix or 'no suffix'} is an unknown format; {FORMATS}")
    return _matched(videos, table)


def _read_text(file: Path) -> str:
    try:
        return read_bounded(file, _MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path of --captions") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8; save it as UTF-8") from None


def _from_json(file: Path, text: str) -> dict[str, str]:
    try:
        if file.suffix.lower() == ".jsonl":
            value: Any = [parse_json(line) for line in split_lines(text) if line.strip()]
        else:
            value = parse_json(text)
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); {FORMATS}") from None
    if isinstance(value, Mapping):
        return {name: _checked(file, name, caption) for name, caption in value.items()}
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise UserError(f"{file}: {shown(value)} is neither an object of captions nor a list of objects; {FORMATS}")
    return _from_rows(file, value)


def _table_rows(file: Path, text: str, delimiter: str) -> Iterator[Mapping[str | None, Any]]:
    """Yield the rows of a table; one with more fields than columns would have its caption cut off."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        if twice := next((name for name in (*_NAMES, *_CAPTIONS) if names.count(name) > 1), None):
            raise UserError(f"{file} has the column {twice} twice; keep one")
        for row in reader:
            if None in row:
                raise UserError(f"{file}: line {reader.line_num}: {TOO_MANY}")
            yield row
    except csv.Error as error:
        raise UserError(f"{file} is not valid CSV ({error}, near line {reader.line_num}); correct it") from None


def _from_rows(file: Path, rows: Iterable[Mapping[Any, Any]]) -> dict[str, str]:
    table: dict[str, str] = {}
    for row in rows:
        fields = {str(key).strip().lower(): value for key, value in row.items()}
        name = next((fields[key] for key in _NAMES if fields.get(key)), None)
        caption = next((fields[key] for key in _CAPTIONS if fields.get(key)), None)
        if name is None or caption is None:
            raise UserError(
                f"{file}: {shown(fields)} has no {' or '.join(_NAMES if name is None else _CAPTIONS)}; {FORMATS}"
            )
        checked = _checked(file, name, caption)
        if table.setdefault(str(name), checked) != checked:
            raise UserError(f"{file}: {shown(name)} has two captions; keep one")
    return table


def _checked(file: Path, name: Any, caption: Any) -> str:
    if not isinstance(caption, str) or not caption.strip() or len(caption) > MAX_CAPTION:
        raise UserError(
            f"{file}: the caption of {shown(name)} must be a text of at most {MAX_CAPTION:,} characters; correct it"
        )
    if marks_missing(caption.strip()) or "\0" in caption:
        raise UserError(f"{file}: the caption of {shown(name)} is {shown(caption)}, which is no caption; correct it")
    return one_line(caption)


def _matched(videos: Sequence[Video], table: Mapping[str, str]) -> list[str | None]:
    """Return the captions of a table; a name matches the whole path, or the last part of one video's path alone."""
    by_name = {normalise_name(name): caption for name, caption in table.items()}
    last: dict[str, int] = {}
    for video in videos:
        for key in {PurePosixPath(video.name).name, PurePosixPath(video.name).stem}:
            last[key] = last.get(key, 0) + 1
    found: list[str | None] = []
    for video in videos:
        path = PurePosixPath(video.name)
        keys = [video.name, path.with_suffix("").as_posix() if path.suffix else video.name]
        keys += [key for key in (path.name, path.stem) if last[key] == 1]
        found.append(next((by_name[key] for key in keys if key in by_name), None))
    return found
