"""Videos and their captions: how they are matched, and the errors of a table."""

import contextlib
import csv
import io
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from show1_jax.data.building import listing
from show1_jax.data.building.captions import list_videos
from show1_jax.data.building.left_out import MAX_LISTED, LeftOut
from show1_jax.data.names import MAX_CAPTION, MISSING, normalise_name, one_line, short_line
from show1_jax.errors import UserError

HEADER = "videoid,contentUrl,duration,page_dir,name\n"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make empty files as videos: listing reads only their names."""
    folder = tmp_path / "videos"
    touch(folder, "1.mp4", "2.MP4", "page/3.mp4", "page/1.mp4")
    return folder


def listed(
    folder: Path, table: str | bytes | None = None, skip: Path | None = None
) -> tuple[dict[str, tuple[str, str]], dict[str, list[str]]]:
    """Return the videos as (path, caption) by name, and the names of those left out by reason."""
    path = folder.parent / "table.csv"
    if table is not None:
        path.write_bytes(table if isinstance(table, bytes) else table.encode())
    file = io.StringIO()
    found = list_videos(folder, None if table is None else path, LeftOut(file), [skip] if skip else [])
    videos = {video.name: (video.path.relative_to(folder).as_posix(), video.caption) for video in found}
    assert len(videos) == len(found)
    left_out: dict[str, list[str]] = {}
    for line in file.getvalue().splitlines()[1:]:
        name, reason = line.split("\t")
        left_out.setdefault(reason, []).append(name)
    return videos, left_out


def test_a_table_in_webvids_layout(folder: Path) -> None:
    table = HEADER + '1,http://x/1,PT10S,page,"A dog, and a cat"\n3,,,page, two\n  words \n2,,,other,"say ""hi"""\n'
    videos, left_out = listed(folder, table.replace(" two\n  words ", '" two\n  words "'))
    assert videos == {
        "1": ("1.mp4", "A dog, and a cat"),
        "3": ("page/3.mp4", "two words"),
        "2": ("2.MP4", 'say "hi"'),
    }
    assert left_out == {"it is not in the table": ["page/1"]}


@pytest.mark.parametrize("header", ["VideoID,Name", "\n ,\r\nvideoid,name", " VIDEOID , NAME "])
def test_the_header_may_have_capitals_and_blank_lines_before_it(folder: Path, header: str) -> None:
    videos, left_out = listed(folder, f"{header}\n1,one\n2,two,three\n")
    assert videos == {"1": ("1.mp4", "one")}
    line = header.count("\n") + 3
    assert left_out["more fields than columns; quote captions with commas"] == [f"2 (line {line})"]


def test_captions_in_utf_16_are_left_out(folder: Path) -> None:
    """Without a byte order mark they are UTF-8 with null characters."""
    (folder / "1.txt").write_bytes("a red ball".encode("utf-16-le"))
    (folder / "2.txt").write_bytes("a red ball".encode("utf-16"))
    videos, left_out = listed(folder)
    assert videos == {}
    assert left_out["its caption has null characters; save it as UTF-8"] == ["1"]
    assert left_out["its caption is not UTF-8"] == ["2"]
    assert listed(folder, "videoid,name\n1,a\0b\n")[1]["its caption has null characters; save it as UTF-8"] == ["1"]


def test_what_a_table_leaves_out_is_named(folder: Path) -> None:
    table = "\ufeffname,videoid\none,1\nagain,1\n,2\nmissing,9\nnameless,\nup,../videos/1\n"
    videos, left_out = listed(folder, table)
    assert videos == {"1": ("1.mp4", "one")}
    assert left_out == {
        "the table has it twice; its first row counts": ["1"],
        "it has no caption": ["2"],
        "the table has it, but there is no such video": ["9", "../videos/1"],
        "the table gives no videoid": ["line 6"],
        "it is not in the table": ["page/1", "page/3"],
    }


def test_a_row_with_another_number_of_fields_is_left_out_by_its_line(folder: Path) -> None:
    """A comma or a line break without quotes would cut the caption."""
    touch(folder, "3.mp4", "4.mp4", "5.mp4")
    table = HEADER + "1,u,,,a ball, a box\n2,u,,,a red\ncube\n3,u,,,no comma\n\n4,u\n5,u,,,'a, b'\n"
    videos, left_out = listed(folder, table)
    assert videos == {}
    assert left_out == {
        "more fields than columns; quote captions with commas": ["1 (line 2)", "5 (line 8)"],
        "the line after it has fewer fields than columns; quote captions with line breaks": [
            "2 (line 3)",
            "3 (line 5)",
        ],
        "fewer fields than columns": ["cube (line 4)", "4 (line 7)"],
        "it is not in the table": ["page/1", "page/3"],
    }


@pytest.mark.parametrize("mark", ["nan", "NaN", "None", "NULL", "null", " n/a ", "N/A", "NA", "<NA>", "#N/A", "nil"])
def test_marks_of_missing_captions_are_no_captions(folder: Path, mark: str) -> None:
    reason = "its caption is a placeholder, such as nan"
    videos, left_out = listed(folder, f"videoid,name\n1,{mark}\n2,nan and none of it\n")
    assert videos == {"2": ("2.MP4", "nan and none of it")}
    assert left_out[reason] == ["1"]
    (folder / "1.txt").write_text(mark)
    assert listed(folder)[1][reason] == ["1"]


def test_captions_without_bound_are_left_out_and_the_rest_is_read(folder: Path) -> None:
    longest = "x" * MAX_CAPTION
    rows = [f"1,{longest}x", f"2,{longest}", "page/1," + "y" * 200_000, 'page/3,"' + "z" * 3_000_000 + '"', "9,a"]
    videos, left_out = listed(folder, "videoid,name\n" + "\r\n".join(rows))
    assert videos == {"2": ("2.MP4", longest)}
    assert left_out == {
        "its caption has more than 10,000 characters": ["1"],
        "not valid CSV (field larger than field limit (131072))": ["line 4", "line 5"],
        "the table has it, but there is no such video": ["9"],
        "it is not in the table": ["page/1", "page/3"],
    }
    for text in (f"{longest}x", "\N{PANDA FACE}" * 30_000_000):
        (folder / "1.txt").write_text(text)
        assert listed(folder)[1]["its caption has more than 10,000 characters"] == ["1"]


def test_one_row_that_is_no_csv_is_left_out(folder: Path) -> None:
    videos, left_out = listed(folder, 'videoid,name\n1,"a "red" ball"\n2,"a ""blue"" box"\n')
    assert videos == {"2": ("2.MP4", 'a "blue" box')}
    assert left_out["not valid CSV (',' expected after '\"')"] == ["line 2"]


def test_a_table_names_videos_with_or_without_their_suffix(folder: Path) -> None:
    videos, left_out = listed(folder, "videoid,page_dir,name\n1.mp4,,one\n2.mp4,,two\n3.mp4,/page/,three\n")
    assert videos == {"1.mp4": ("1.mp4", "one"), "3.mp4": ("page/3.mp4", "three")}
    assert left_out["the table has it, but there is no such video"] == ["2.mp4"]


def test_videos_of_two_folders_with_one_videoid_are_both_used(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a/1.mp4", "b/1.mp4")
    videos, left_out = listed(tmp_path / "v", "videoid,page_dir,name\n1,a,one\n1,b,two\nb/1,,three\n")
    assert videos == {"1": ("a/1.mp4", "one"), "b/1": ("b/1.mp4", "two")}
    assert left_out == {"the table has it twice; its first row counts": ["b/1"]}


def test_a_folder_tells_a_video_from_several_of_its_name(folder: Path) -> None:
    touch(folder, "3.mp4", "3.mov")
    videos, left_out = listed(folder, "videoid,page_dir,name\n3,page,one\n3,,two\n")
    assert videos == {"3": ("page/3.mp4", "one")}
    assert left_out["several videos have this name; give it with its suffix"] == ["3"]


def test_captions_in_text_files(folder: Path) -> None:
    (folder / "1.txt").write_text("\ufeffa red\n circle \n", encoding="utf-8")
    (folder / "2.txt").write_text(" \n")
    (folder / "page/1.txt").write_bytes(b"caf\xe9")
    touch(folder, "notes.txt")
    videos, left_out = listed(folder)
    assert videos == {"1": ("1.mp4", "a red circle")}
    assert left_out == {
        "it has no caption": ["2", "page/3"],
        "its caption is not UTF-8": ["page/1"],
        "a text file without a video of its name": ["notes.txt"],
    }


def test_a_caption_that_is_no_file_is_named(folder: Path) -> None:
    (folder / "1.txt").mkdir()
    os.mkfifo(folder / "2.txt")
    (folder / "page/1.txt").symlink_to("/etc/hostname")
    (folder / "page/caption.txt").write_text("a link inside")
    (folder / "page/3.txt").symlink_to("caption.txt")
    videos, left_out = listed(folder)
    assert videos == {"page/3": ("page/3.mp4", "a link inside")}
    assert left_out == {
        "its caption cannot be read (not a regular file)": ["1", "2"],
        "a link to outside of the folder; copy the file": ["page/1.txt"],
        "it has no caption": ["page/1"],
        "a text file without a video of its name": ["page/caption.txt"],
    }


# Files that are videos


def test_videos_of_all_suffixes_in_any_case_are_found(tmp_path: Path) -> None:
    names = ["a.mp4", "b.MOV", "c.m4v", "d.WebM", "e.mkv", "f.AVI", "x.mp4/g.webm"]
    touch(tmp_path / "v", *names, *(name.rsplit(".", 1)[0] + ".txt" for name in names))
    for text in (tmp_path / "v").rglob("*.txt"):
        text.write_text("a caption")
    videos, left_out = listed(tmp_path / "v")
    assert sorted(path for path, _ in videos.values()) == sorted(names)
    assert sorted(videos) == ["a", "b", "c", "d", "e", "f", "x.mp4/g"]
    assert left_out == {}


def test_every_other_file_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(folder, "film.flv", "list.json", "._1.mp4", ".trash/old.mp4")
    touch(tmp_path, "elsewhere.mp4", "folder/9.mp4", "out/left_out.tsv")
    os.mkfifo(folder / "fifo.mp4")
    (folder / "big.mp4").write_bytes(b"")
    os.truncate(folder / "big.mp4", listing.MAX_VIDEO_BYTES + 1)
    links = {"zero.mp4": "/dev/zero", "loop.mp4": "loop.mp4", "gone.mp4": "nowhere", "out.mp4": "../elsewhere.mp4"}
    for name, target in (links | {"more": "../folder", "self": ".", "linked.mp4": "1.mp4"}).items():
        (folder / name).symlink_to(target)
    locked = folder / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    table = "videoid,name\nlinked,a\n1,b\n2,c\npage/1,d\npage/3,e\n"
    videos, left_out = listed(folder, table)
    assert sorted(videos) == ["1", "2", "linked", "page/1", "page/3"]
    assert {reason: sorted(names) for reason, names in left_out.items()} == {
        "its suffix is not one of .mp4 .mov .m4v .webm .mkv .avi": ["film.flv", "list.json"],
        "it is hidden": ["._1.mp4", ".trash"],
        "not a regular file": ["fifo.mp4"],
        "it has more than 512 MiB; cut it into clips": ["big.mp4"],
        "a link that leads nowhere": ["gone.mp4", "loop.mp4"],
        "a link to outside of the folder; copy the file": ["out.mp4", "zero.mp4"],
        "a link to a folder, which is not followed": ["more", "self"],
        "the folder cannot be read (Permission denied)": ["locked"],
    }


def test_the_table_and_the_dataset_may_lie_in_the_folder(folder: Path) -> None:
    touch(folder, "out/dataset.mp4")
    (folder / "table.csv").write_text("videoid,name\n1,one\n")
    file = io.StringIO()
    (video,) = list_videos(folder, folder / "table.csv", LeftOut(file), [folder / "out"])
    assert video.name == "1"
    assert "table.csv" not in file.getvalue()
    assert "dataset" not in file.getvalue()


def test_videos_that_differ_in_the_suffix_alone_keep_it(folder: Path) -> None:
    touch(folder, "a.mp4", "a.MP4", "a.mov", "a.mp4.mp4")
    (folder / "a.txt").write_text("a caption of three")
    (folder / "a.mp4.txt").write_text("another")
    videos, left_out = listed(folder)
    assert videos == {name: (name, "a caption of three") for name in ("a.mp4", "a.MP4", "a.mov")}
    assert left_out["another video has the same name in the dataset; rename it"] == ["a.mp4.mp4"]
    videos, left_out = listed(folder, "videoid,name\na,which\na.MP4,this\n")
    assert videos == {"a.MP4": ("a.MP4", "this")}
    assert left_out["several videos have this name; give it with its suffix"] == ["a"]
    assert left_out["it is not in the table"] == ["1", "2", "page/1", "page/3"]


def test_names_in_composed_and_in_decomposed_letters_meet(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9 \uac00") for form in ("NFC", "NFD"))
    touch(tmp_path / "v", f"{decomposed}.mp4")
    for name in (composed, decomposed):
        assert listed(tmp_path / "v", f"videoid,name\n{name},one\n")[0] == {composed: (f"{decomposed}.mp4", "one")}
    (tmp_path / "v" / f"{composed}.txt").write_text("two")
    assert listed(tmp_path / "v")[0] == {composed: (f"{decomposed}.mp4", "two")}
    touch(tmp_path / "v", f"{composed}.mp4")
    videos, left_out = listed(tmp_path / "v")
    assert len(videos) == 1
    (names,) = left_out.values()
    assert len(names) == 1
    assert names[0].isascii()


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31mred", "\u2028".encode()])
def test_a_name_that_is_no_text_is_written_with_escapes(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "v").mkdir()
    for suffix in (b".mp4", b".txt"):
        (tmp_path / "v" / os.fsdecode(name + suffix)).write_text("a caption")
    (video,) = list_videos(tmp_path / "v", None, LeftOut(io.StringIO()))
    assert video.caption == "a caption"
    assert video.path.exists()
    assert video.name.isprintable()
    assert "\\" in video.name
    assert video.name.encode()


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda name: name.decode(errors="surrogateescape")))
def test_any_name_can_be_written_on_a_line(name: str) -> None:
    normalise_name(name).encode()
    assert normalise_name(normalise_name(name)) == normalise_name(name)
    assert len(short_line(name).splitlines()) <= 1
    assert len(short_line("x" * 10_000)) < 250


def test_all_names_are_written_and_the_first_are_shown() -> None:
    file = io.StringIO()
    left_out = LeftOut(file)
    for number in range(MAX_LISTED + 5):
        left_out.add(f"v{number}\t", "it is hidden")
    left_out.skip("w", "the file is empty")
    left_out.note("u", "its caption is that of another video, too")
    assert left_out.count == MAX_LISTED + 6
    assert file.getvalue().count("it is hidden\n") == MAX_LISTED + 5
    names = ", ".join(f"v{number}" for number in range(MAX_LISTED))
    assert left_out.summary() == [
        f"left out {MAX_LISTED + 5}: it is hidden: {names}, ...",
        "used 1: its caption is that of another video, too: u",
    ]


# Refused input


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"", "has no column videoid and no name"),
        (b"videoid,caption\n1,one\n", "has no column name;"),
        (b"videoid;page_dir;name\n1;;one\n", "has semicolons between its columns; save it with commas"),
        (b"videoid\tname\n1\tone, two\n", "has tabs between its columns; save it with commas"),
        (b"videoid,name,name\n1,one,two\n", "has the column name twice"),
        (b"videoid,name\n1,caf\xe9\n", "is not UTF-8"),
        ("videoid,name\n1,one\n".encode("utf-16"), "is not UTF-8"),
        ("videoid,name\n1,one\n".encode("utf-16-le"), "is not UTF-8"),
        (b"videoid,name,Name\n1,one,two\n", "has the column name twice"),
        (b'videoid,name\n1,"never closed\n', "is not valid CSV"),
        (b'videoid,name\n1,"never closed\n' + b"2,a line\n" * 50_000, "is not valid CSV .field larger"),
    ],
)
def test_a_bad_table_is_one_line(folder: Path, table: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        listed(folder, table)
    assert "\n" not in str(refusal.value)


def test_missing_folders_and_tables_are_one_line(folder: Path, tmp_path: Path) -> None:
    left_out = LeftOut(io.StringIO())
    with pytest.raises(UserError, match="there is no folder"):
        list_videos(tmp_path / "missing", None, left_out)
    with pytest.raises(UserError, match="there is no folder"):
        list_videos(tmp_path / ("x" * 300), None, left_out)
    for table in (tmp_path / "missing.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=f"cannot read {table}"):
            list_videos(folder, table, left_out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no videos \(\.mp4, \.mov"):
        list_videos(tmp_path / "empty", None, left_out)


@given(table=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: (HEADER + text).encode("utf-8", "replace")))
@settings(max_examples=150)
def test_any_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, table: bytes) -> None:
    folder = tmp_path_factory.mktemp("any") / "videos"
    folder.mkdir()
    (folder / "0.mp4").touch()
    with contextlib.suppress(UserError):
        listed(folder, table)


@given(
    caption=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).filter(
        lambda text: one_line(text).casefold() not in {"", *MISSING}
    )
)
@settings(max_examples=60)
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
