"""Captions of videos from files of several formats, by name or by place."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.evaluation.videos.captions import captions_of
from show1_jax.evaluation.videos.listing import Video
from show1_jax.evaluation.videos.sources import ImageFrames

NAMES = ["a/video1.mp4", "a/video2.mp4", "b/video2.mp4", "run-7"]
CAPTIONS = ["a fox", "two bears", "a red kite", "rain"]


def videos(names: list[str] = NAMES, captions: list[str | None] | None = None) -> list[Video]:
    own = captions or [None] * len(names)
    return [Video(name, ImageFrames(Path(name)), (), caption) for name, caption in zip(names, own, strict=True)]


KEYS = ["video1", "a/video2.mp4", "b/video2", "run-7"]
"""A name without its folder, with the suffix, without it, and a folder's."""
ROWS = [{"video": key, "caption": caption} for key, caption in zip(KEYS, CAPTIONS, strict=True)]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("c.txt", "a fox\n\n two  bears \na red kite\r\nrain"),
        ("c.csv", "video,caption\n" + "".join(f'{row["video"]},"{row["caption"]}"\n' for row in ROWS)),
        (
            "c.tsv",
            "\ufeffVideo_ID\tScore\tPrompt\n" + "".join(f"{row['video']}\t1\t{row['caption']}\n" for row in ROWS),
        ),
        ("c.json", json.dumps({row["video"]: row["caption"] for row in ROWS})),
        ("c.json", json.dumps(ROWS)),
        (
            "c.jsonl",  # JSON permits U+2028 in a text, where it is no end of a line
            "\r\n".join(
                json.dumps(row | {"caption": row["caption"].replace(" ", "\u2028")}, ensure_ascii=False) for row in ROWS
            ),
        ),
        ("c.txt", "a\u2028fox\r\ntwo\x85bears\ra\x0cred kite\nrain"),
        ("c.jsonl", "\n".join(json.dumps({"file": row["video"], "text": row["caption"]}) for row in ROWS[::-1])),
    ],
)
def test_every_format_names_the_videos(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert captions_of(videos(), tmp_path / file) == CAPTIONS
    assert captions_of(videos(captions=["other"] * 4), tmp_path / file) == CAPTIONS


def test_the_videos_own_captions_are_used_without_a_file() -> None:
    assert captions_of(videos(captions=list(CAPTIONS)), None) == CAPTIONS


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("c.txt", "a fox\nrain\n", "has 2 captions for 4 videos"),
        ("c.json", '{"video1": "a fox"}', "3 of 4 videos have no caption, the first is a/video2.mp4; add them to"),
        ("c.json", '{"video2": "which?", "video1": "a", "run-7": "b"}', "2 of 4 videos have no caption"),
        ("c.json", '{"video1": 3}', "the caption of 'video1' must be a text"),
        ("c.json", '{"video1": "  "}', "the caption of 'video1' must be a text"),
        ("c.json", '["a fox"]', "is neither an object of captions nor a list of objects"),
        ("c.json", "{", "not valid JSON"),
        ("c.csv", "videos,captions\na,b\n", "has no video or video_id"),
        ("c.csv", "video,caption\nvideo1,a\nvideo1,b\n", "'video1' has two captions"),
        ("c.csv", "video,caption\nvideo1,a fox, running\n", "line 2: more fields than columns; quote captions"),
        ("c.tsv", "video\tcaption\nvideo1\ta\tfox\n", "line 2: more fields than columns; quote captions"),
        ("c.csv", 'video,caption\nvideo1,"a fox\nrun-7,rain\n', "is not valid CSV"),
        ("c.csv", "video,Caption,caption\nvideo1,a fox,a bear\n", "has the column caption twice"),
        ("c.csv", "video,caption\nvideo1,NaN\n", "the caption of 'video1' is 'NaN', which is no caption"),
        ("c.json", '{"video1": "a\\u0000"}', "which is no caption"),
        ("c.xml", "<a/>", ".xml is an unknown format"),
        (None, "", "4 of 4 videos have no caption, the first is a/video1.mp4; give them with --captions FILE"),
    ],
)
def test_captions_that_do_not_fit_are_refused(file: str | None, text: str, message: str, tmp_path: Path) -> None:
    path = None if file is None else tmp_path / file
    if path is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        captions_of(videos(), path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    for path, message in ((tmp_path / "missing.csv", "cannot be read"), (tmp_path / "c.txt", "is not UTF-8")):
        with pytest.raises(UserError, match=message):
            captions_of(videos(), path)


VALUES: Any = st.recursive(
    st.none() | st.integers() | st.text(max_size=9), lambda v: st.lists(v) | st.dictionaries(st.text(max_size=9), v)
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, suffix=st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".txt"]))
def test_any_file_gives_all_captions_or_is_refused(value: Any, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"captions{suffix}"
    path.write_text(json.dumps(value))
    with contextlib.suppress(UserError):  # whose text is checked above
        assert len(captions_of(videos(), path)) == 4
