"""MSR-VTT: both forms of its file, and the videos of FID-vid, FVD and CLIPSIM for a copy of the dataset."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.msrvtt import Msrvtt
from tests.helpers.tiny_datasets import msrvtt_values, write_msrvtt

CAPTIONS = {f"video{7010 + number}": [f"a man sings {number}", "a man is singing", "music"] for number in range(12)}
METRICS = ["fid-vid", "fvd", "clipsim"]


def test_videos_of_all_metrics(tmp_path: Path) -> None:
    data = write_msrvtt(tmp_path, CAPTIONS)
    plan = Msrvtt(num_videos=5).plan(data, METRICS)
    clipsim, fvd = plan.sets["clipsim"], plan.sets["fvd"]
    assert [video.text for video in clipsim.videos] == [text for texts in CAPTIONS.values() for text in texts]
    assert [video.seed for video in clipsim.videos] == [140_200 + number for number in range(36)]
    assert clipsim.references == ()
    assert plan.sets["fid-vid"] == fvd
    assert len(fvd.videos) == len(set(fvd.references)) == 5
    for video, name in zip(fvd.videos, fvd.references, strict=True):
        assert video in clipsim.videos  # a caption's video is sampled once
        assert video.text in CAPTIONS[Path(name).stem]
        assert (data / name).is_file()
    assert plan.videos[:5] == fvd.videos
    assert len(plan.videos) == 36
    assert plan.notes == (
        "test_videodatainfo.json has 12 test videos with 36 captions; the paper states 2,990 with 59,794",
    )


def test_one_caption_a_video_includes_those_of_fvd(tmp_path: Path) -> None:
    plan = Msrvtt(num_videos=5, captions="one").plan(write_msrvtt(tmp_path, CAPTIONS), METRICS)
    assert len(plan.sets["clipsim"].videos) == 12
    assert set(plan.sets["fvd"].videos) <= set(plan.sets["clipsim"].videos)
    with pytest.raises(UserError, match="--captions=some: choose one of all, one"):
        Msrvtt(captions="some")


@pytest.mark.parametrize("inner", ["", "TestVideo", "videos", "videos/all"])
def test_both_files_give_the_same_plan(tmp_path: Path, inner: str) -> None:
    """The larger file has all splits, in any order."""
    plan = Msrvtt(num_videos=4).plan(write_msrvtt(tmp_path / "test", CAPTIONS), METRICS)
    data = write_msrvtt(tmp_path / "all", CAPTIONS, file="MSRVTT_data.json", inner=inner)
    values = msrvtt_values(CAPTIONS)
    values["videos"] = [*values["videos"][::-1], {"video_id": "video3", "split": "train"}]
    values["sentences"] = [{"sen_id": 9, "video_id": "video3", "caption": "a cat"}, *values["sentences"][::-1]]
    (data / "MSRVTT_data.json").write_text(json.dumps(values))
    other = Msrvtt(num_videos=4).plan(data, METRICS)
    assert {name: part.videos for name, part in other.sets.items()} == {
        name: part.videos for name, part in plan.sets.items()
    }
    names = [Path(name).name for name in plan.sets["fvd"].references]
    assert other.sets["fvd"].references == tuple(f"{inner}/{name}".lstrip("/") for name in names)


def test_clipsim_alone_needs_no_videos(tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(msrvtt_values(CAPTIONS)))
    assert len(Msrvtt().plan(tmp_path, ["clipsim"]).videos) == 36
    with pytest.raises(UserError, match=r"the test split in .* has 12 videos, and 2,048 are compared"):
        Msrvtt().plan(tmp_path, ["fvd"])
    with pytest.raises(UserError, match=r"has no video\d+.mp4, nor have its TestVideo, videos, videos/all"):
        Msrvtt(num_videos=2).plan(tmp_path, ["fvd"])


def test_missing_videos_are_counted(tmp_path: Path) -> None:
    data = write_msrvtt(tmp_path, CAPTIONS)
    names = Msrvtt(num_videos=6).plan(data, ["fvd"]).sets["fvd"].references
    for name in names[2:4]:
        (data / name).unlink()
    with pytest.raises(UserError, match=f"2 of the 6 drawn videos of MSR-VTT are missing, first .*{names[2]}"):
        Msrvtt(num_videos=6).plan(data, ["fvd"])


def test_captions_are_cleaned(tmp_path: Path) -> None:
    data = write_msrvtt(tmp_path, {"video1": ["  a  man\n sings ", " "]})
    plan = Msrvtt(num_videos=1).plan(data, ["clipsim"])
    assert [video.text for video in plan.videos] == ["a man sings"]
    assert plan.notes[0] == "1 empty captions are left out"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"videos": []}, "has no list 'videos' of objects"),
        (
            {"videos": [{"video_id": "video1", "split": "train"}]},
            "has no test videos, only the splits train; give test",
        ),
        ({"videos": [{"video_id": "../x", "split": "test"}]}, r"video_id is '\.\./x', not a text"),
        ({"videos": [{"video_id": "video1"}]}, "split is 'None', not a text"),
        ({"sentences": {}}, "has no list 'sentences' of objects"),
        ({"sentences": [{"video_id": "video1", "sen_id": "1", "caption": "a"}]}, "sen_id is '1', not a number"),
        (
            {"sentences": [{"video_id": "video2", "sen_id": 1, "caption": "a"}]},
            "no caption of 1 test videos, first video1",
        ),
        ({"sentences": [{"video_id": "video1", "sen_id": 1, "caption": "a"}] * 2}, "number 1 is there twice"),
        ({"sentences": [{"video_id": "video1", "sen_id": 10**6, "caption": "a"}]}, "twice or out of range"),
    ],
)
def test_files_of_another_form(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = msrvtt_values({"video1": ["a man sings"]}) | change
    (tmp_path / "test_videodatainfo.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=said):
        Msrvtt(num_videos=1).plan(tmp_path, ["clipsim"])


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no test_videodatainfo\.json and no MSRVTT_data\.json"):
        Msrvtt().plan(tmp_path, METRICS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["video_id", "split", "sen_id", "caption", "x"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["videos", "sentences"]), _JSON) | _JSON)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "test_videodatainfo.json").write_text(json.dumps(values))
    with contextlib.suppress(UserError):
        Msrvtt(num_videos=1).plan(folder, ["clipsim"])
