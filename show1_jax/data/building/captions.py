"""The videos of a folder with their captions.

A caption table has the layout of WebVid (arXiv 2104.00650): CSV with the columns videoid, contentUrl, duration,
page_dir and name; the last is the caption. Without a table, the caption of `name.mp4` is in `name.txt`.
"""

import errno
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from show1_jax.data.building.left_out import LeftOut
from show1_jax.data.building.listing import FoundFiles, find_files
from show1_jax.data.building.table import read_rows
from show1_jax.data.names import MAX_CAPTION, marks_missing, normalise_name, one_line
from show1_jax.files import read_bounded

ID, PAGE, CAPTION = "videoid", "page_dir", "name"
_TOO_LONG: Final = f"its caption has more than {MAX_CAPTION:,} characters"
_MAX_TEXT_BYTES: Final = 4 * MAX_CAPTION + 1024


@dataclass(frozen=True, slots=True)
class CaptionedVideo:
    """A video file, its name in the dataset, and its caption."""

    name: str
    path: Path
    caption: str


def list_videos(
    folder: Path, table: Path | None, left_out: LeftOut, skip: Collection[Path] = ()
) -> list[CaptionedVideo]:
    """List the captioned videos of a folder.

    Args:
        folder: folder that is searched for videos, with its subfolders.
        table: table of captions. The video of a row is `<videoid>` or `<page_dir>/<videoid>`, with or without the
            suffix. Without a table the caption is beside the video, in a `.txt` of the same name.
        left_out: receives all files and rows that cannot be used.
        skip: files and folders inside `folder` to skip.

    Returns:
        The videos, each once, in the order of the table or, without a table, of their names.

    Raises:
        UserError: the folder or the table does not exist, the folder has no videos, or the table is not UTF-8, not
            CSV, or lacks a column.
    """
    found = find_files(folder, left_out, [*skip, *([table] if table else [])])
    return list(_from_text_files(found, left_out) if table is None else _from_table(found, table, left_out))


def _from_text_files(found: FoundFiles, left_out: LeftOut) -> Iterator[CaptionedVideo]:
    for stem, names in found.names.items():
        text = found.texts.pop(stem, None)
        caption, problem = ("", "it has no caption") if text is None else read_caption(text)
        for name in names:
            if problem:
                left_out.add(name, problem)
            else:
                yield CaptionedVideo(name, found.videos[name], caption)
                if len(names) > 1:
                    left_out.note(name, "its caption is that of another video, too")
    for name in found.texts:
        left_out.add(f"{name}.txt", "a text file without a video of its name")


def read_caption(path: Path) -> tuple[str, str | None]:
    """Return the caption in a file, and the reason why it cannot be used, or None."""
    try:
        caption = one_line(read_bounded(path, _MAX_TEXT_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "", "its caption is not UTF-8"
    except OSError as error:
        return "", _TOO_LONG if error.errno == errno.EFBIG else f"its caption cannot be read ({error.strerror})"
    return caption, _caption_problem(caption)


def _caption_problem(caption: str) -> str | None:
    if not caption:
        return "it has no caption"
    if len(caption) > MAX_CAPTION:
        return _TOO_LONG
    if "\0" in caption:  # UTF-16 without a byte order mark, whose ASCII letters are UTF-8, too
        return "its caption has null characters; save it as UTF-8"
    return "its caption is a placeholder, such as nan" if marks_missing(caption) else None


def _from_table(found: FoundFiles, table: Path, left_out: LeftOut) -> Iterator[CaptionedVideo]:
    used, names, named = set[str](), set[str](), set[str]()
    for row in read_rows(table, (ID, CAPTION), (PAGE,)):
        name, page = normalise_name(row.values[ID].strip()), normalise_name(row.values.get(PAGE, "").strip("/ "))
        caption = one_line(row.values[CAPTION])
        videos = found.videos_named(name)
        if len(videos) != 1:
            videos = found.videos_named(f"{page}/{name}") or videos
        named.update(videos)
        if problem := row.problem or _row_problem(name, videos, used) or _caption_problem(caption):
            place = f"{name} ({row.lines})" if row.problem else name
            left_out.add(place if name else row.lines, problem)
        else:
            unique = videos[0] if name in names else name  # two folders may have a video of this name
            used.add(videos[0])
            names.add(unique)
            yield CaptionedVideo(unique, found.videos[videos[0]], caption)
    for name in found.videos:
        if name not in named:
            left_out.add(name, "it is not in the table")
    for name in found.texts:
        left_out.add(f"{name}.txt", "the captions are those of the table")


def _row_problem(name: str, videos: Sequence[str], used: Collection[str]) -> str | None:
    if not name:
        return "the table gives no videoid"
    if not videos:
        return "the table has it, but there is no such video"
    if len(videos) > 1:
        return "several videos have this name; give it with its suffix"
    return "the table has it twice; its first row counts" if videos[0] in used else None
