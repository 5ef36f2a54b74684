"""Which videos a folder holds, and what their captions are.

A caption table has the layout of WebVid (arXiv 2104.00650): CSV with the columns videoid, contentUrl, duration,
page_dir and name, the last being the caption. Without a table, `name.mp4` has its caption in `name.txt`.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from show1_jax.errors import UserError

ID, PAGE, CAPTION = "videoid", "page_dir", "name"


@dataclass(frozen=True, slots=True)
class CaptionedVideo:
    """A video file, what it is called in the dataset, and what it shows."""

    name: str
    path: Path
    caption: str


@dataclass
class Listing:
    """The videos that have captions, and the names of what is left out, by the reason.

    Attributes:
        videos: by name, each once, in the order of the table or, without one, of the names.
        left_out: what was found but cannot be used.
    """

    videos: list[CaptionedVideo] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that something cannot be used."""
        self.left_out.setdefault(reason, []).append(name)


def list_videos(folder: Path, table: Path | None = None) -> Listing:
    """The captioned videos of a folder.

    Args:
        folder: searched for `.mp4` files, with its folders.
        table: of captions; the video of a row is `<videoid>.mp4` or `<page_dir>/<videoid>.mp4`. Without a table the
            caption is beside the video, as a `.txt` of the same name.

    Raises:
        UserError: there is no such folder or table, the folder has no videos, or the table is not UTF-8, not CSV, or
            without its columns.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the videos as --videos DIR")
    found = {str(path.relative_to(folder).with_suffix("").as_posix()): path for path in _mp4_files(folder)}
    if not found:
        raise UserError(f"{folder} has no .mp4 files; give the folder that holds the videos")
    return _from_text_files(found) if table is None else _from_table(found, table)


def _mp4_files(folder: Path) -> list[Path]:
    """In the order of their names. Hidden files are none: some systems keep notes on a video in `._name.mp4`."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() == ".mp4")
    return sorted(path for path in files if not path.name.startswith(".") and path.is_file())


def _from_text_files(found: dict[str, Path]) -> Listing:
    listing = Listing()
    for name, path in found.items():
        try:
            caption = _one_line(path.with_suffix(".txt").read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            caption = ""
        except UnicodeDecodeError:
            listing.leave_out(name, "its caption is not UTF-8")
            continue
        if caption:
            listing.videos.append(CaptionedVideo(name, path, caption))
        else:
            listing.leave_out(name, "it has no caption")
    return listing


def _from_table(found: dict[str, Path], table: Path) -> Listing:
    listing = Listing()
    listed: set[str] = set()
    used: set[str] = set()
    for line, row in _rows(table):
        name, caption = _one_line(row[ID]), _one_line(row[CAPTION])
        place = next((key for key in (name, f"{_one_line(row[PAGE])}/{name}") if key in found), None)
        used.add(place or "")
        if not name:
            listing.leave_out(f"line {line}", "the table gives no videoid")
        elif name in listed:
            listing.leave_out(name, "the table has it twice; its first row counts")
        elif not place:
            listing.leave_out(name, "the table has it, but there is no such video")
        elif not caption:
            listing.leave_out(name, "it has no caption")
        else:
            listing.videos.append(CaptionedVideo(name, found[place], caption))
        listed.add(name)
    for name in found.keys() - used:
        listing.leave_out(name, "it is not in the table")
    for names in listing.left_out.values():
        names.sort()
    return listing


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with the numbers of their last lines; what a row lacks is empty."""
    wanted = (ID, PAGE, CAPTION)
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in (ID, CAPTION) if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{table} has no column {' and no '.join(missing)}; its first line names the columns")
            for row in reader:
                yield reader.line_num, {column: row.get(column) or "" for column in wanted}
    except OSError as error:
        raise UserError(f"cannot read {table} ({error.strerror}); give the captions as --captions FILE.csv") from None
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8; save it as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{table} is not valid CSV ({error}, near line {reader.line_num}); correct it") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())
