"""Videos and their captions: which belong together, and what is wrong with a table."""

import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.data.captions import list_videos
from show1_jax.errors import UserError

HEADER = "videoid,contentUrl,duration,page_dir,name\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos by name alone: only their names are looked at."""
    folder = tmp_path / "videos"
    for name in ("1.mp4", "2.MP4", "page/3.mp4", "page/1.mp4", "._1.mp4", "notes.txt", "dir.mp4/4.webm"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path, table: str | bytes | None = None) -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    path = folder.parent / "table.csv"
    if table is not None:
        path.write_bytes(table if isinstance(table, bytes) else table.encode())
    listing = list_videos(folder, None if table is None else path)
    videos = {video.name: (video.path.relative_to(folder).as_posix(), video.caption) for video in listing.videos}
    assert len(videos) == len(listing.videos)
    return videos, listing.left_out


def test_a_table_in_webvids_layout(folder: Path) -> None:
    table = HEADER + '1,http://x/1,PT10S,page,"A dog, and a cat"\n3,,,page, two\n  words \n2,,,other,"say ""hi"""\n'
    videos, left_out = listed(folder, table.replace(" two\n  words ", '" two\n  words "'))
    assert videos == {
        "1": ("1.mp4", "A dog, and a cat"),
        "3": ("page/3.mp4", "two words"),
        "2": ("2.MP4", 'say "hi"'),
    }
    assert left_out == {"it is not in the table": ["page/1"]}


def test_what_a_table_leaves_out_is_named(folder: Path) -> None:
    table = "\ufeffname,videoid\none,1\nagain,1\n,2\nmissing,9\nnameless,\nup,../videos/1\n"
    videos, left_out = listed(folder, table)
    assert videos == {"1": ("1.mp4", "one")}
    assert left_out == {
        "the table has it twice; its first row counts": ["1"],
        "it has no caption": ["2"],
        "the table has it, but there is no such video": ["../videos/1", "9"],
        "the table gives no videoid": ["line 6"],
        "it is not in the table": ["page/1", "page/3"],
    }


def test_captions_in_text_files(folder: Path) -> None:
    (folder / "1.txt").write_text("\ufeffa red\n circle \n", encoding="utf-8")
    (folder / "2.txt").write_text(" \n")
    (folder / "page/1.txt").write_bytes(b"caf\xe9")
    videos, left_out = listed(folder)
    assert videos == {"1": ("1.mp4", "a red circle")}
    assert left_out == {"it has no caption": ["2", "page/3"], "its caption is not UTF-8": ["page/1"]}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"", "has no column videoid and no name"),
        (b"videoid,caption\n1,one\n", "has no column name;"),
        (b"videoid,name\n1,caf\xe9\n", "is not UTF-8"),
        (b'videoid,name\n1,"never closed\n', "is not valid CSV"),
        (b"videoid,name\n1," + b"x" * 200_000 + b"\n", "is not valid CSV"),
    ],
)
def test_a_bad_table_is_one_line(folder: Path, table: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        listed(folder, table)
    assert "\n" not in str(refusal.value)


def test_missing_folders_and_tables_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        list_videos(tmp_path / "missing")
    with pytest.raises(UserError, match=r"cannot read .*missing\.csv"):
        list_videos(folder, tmp_path / "missing.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no \.mp4 files"):
        list_videos(tmp_path / "empty")


@given(table=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: (HEADER + text).encode("utf-8", "replace")))
@settings(deadline=None, max_examples=150)
def test_any_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, table: bytes) -> None:
    folder = tmp_path_factory.mktemp("any") / "videos"
    folder.mkdir()
    (folder / "0.mp4").touch()
    with contextlib.suppress(UserError):
        listed(folder, table)


@given(caption=st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: text.split()))
@settings(deadline=None, max_examples=60)
def test_any_caption_survives_both_layouts(tmp_path_factory: pytest.TempPathFactory, caption: str) -> None:
    folder = tmp_path_factory.mktemp("any") / "videos"
    folder.mkdir()
    (folder / "0.mp4").touch()
    (folder / "0.txt").write_bytes(caption.encode())
    table = io.StringIO()
    csv.writer(table).writerows([["videoid", "name"], ["0", caption]])
    expected = {"0": ("0.mp4", " ".join(caption.removeprefix("\ufeff").split()))}
    assert listed(folder)[0] == expected
    assert listed(folder, table.getvalue())[0] == {"0": ("0.mp4", " ".join(caption.split()))}
