"""UCF-101: the prompts of its classes, and the videos of IS and FVD for a copy of the dataset."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from show1_jax.errors import UserError
from show1_jax.evaluation.protocols.ucf101 import Ucf101, class_prompts
from tests.helpers.tiny_datasets import write_ucf101

COUNTS = {name: 2 + number % 3 for number, name in enumerate(class_prompts())}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes with two to four empty videos."""
    return write_ucf101(tmp_path_factory.mktemp("ucf101"), COUNTS)


def test_every_class_has_a_sentence() -> None:
    prompts = class_prompts()
    assert len(prompts) == len(set(prompts.values())) == 101
    assert list(prompts)[:2] == ["ApplyEyeMakeup", "ApplyLipstick"]
    assert list(prompts)[-1] == "YoYo"
    assert {"HandstandPushups", "HandstandWalking", "YoYo", "CleanAndJerk", "Skijet", "TaiChi"} <= prompts.keys()
    for text in prompts.values():
        assert re.fullmatch(r"[A-Z][A-Za-z, -]+\.", text), text
        assert 6 <= len(text.split()) <= 25, text  # the encoders read 77 tokens


def test_classes_are_in_the_dataset_s_order() -> None:
    """It ignores the case of letters."""
    names = list(class_prompts())
    out_of_order = [(a, b) for a, b in itertools.pairwise(names) if a.lower() > b.lower()]
    assert out_of_order == []


def test_videos_of_is_and_fvd(data: Path) -> None:
    protocol = Ucf101(videos_per_prompt=3, num_videos=150)
    plan = protocol.plan(data, ["is", "fvd"])
    by_text = {text: name for name, text in class_prompts().items()}

    assert len(plan.sets["is"].videos) == 303
    assert set(Counter(by_text[video.text] for video in plan.sets["is"].videos).values()) == {3}
    assert len({by_text[video.text] for video in plan.sets["is"].videos[:101]}) == 101  # a part has all classes

    fvd = plan.sets["fvd"]
    assert len(fvd.videos) == len(set(fvd.references)) == 150
    classes = Counter(Path(name).parent.name for name in fvd.references)
    assert classes == Counter(by_text[video.text] for video in fvd.videos)
    assert all((data / name).is_file() for name in fvd.references)

    assert len({video.seed for video in plan.videos}) == len(plan.videos)  # no two videos begin with the same noise
    assert set(plan.videos) == {*plan.sets["is"].videos, *fvd.videos}
    extra = sum(max(0, count - 3) for count in classes.values())
    assert len(plan.videos) == 303 + extra
    assert plan.notes == ("trainlist01.txt lists 302 videos, not 9,537",)


def test_a_video_s_seed_does_not_depend_on_the_other_videos(data: Path) -> None:
    many = Ucf101(videos_per_prompt=5, num_videos=300).plan(data, ["is", "fvd"])
    few = Ucf101(videos_per_prompt=2, classes=("YoYo", "Archery"), num_videos=4).plan(data, ["is"])
    assert set(few.videos) <= set(many.videos)
    other = Ucf101(seed=1, videos_per_prompt=5).plan(data, ["is"])
    assert not {video.seed for video in other.videos} & {video.seed for video in many.videos}


def test_the_folder_of_videos_may_be_given(data: Path) -> None:
    outer, inner = Ucf101(num_videos=9).plan(data, ["fvd"]), Ucf101(num_videos=9).plan(data / "UCF-101", ["fvd"])
    assert outer.sets["fvd"].videos == inner.sets["fvd"].videos
    assert outer.sets["fvd"].references == tuple(f"UCF-101/{name}" for name in inner.sets["fvd"].references)


def test_either_split_can_be_compared_with(data: Path) -> None:
    assert "testlist01.txt lists" in Ucf101(split="test", num_videos=5).plan(data, ["fvd"]).notes[0]
    with pytest.raises(UserError, match="--split=validation: choose one of train, test"):
        Ucf101(split="validation")
    with pytest.raises(UserError, match="UCF-101 has no class Yoyo"):
        Ucf101(classes=("Yoyo",))
    with pytest.raises(UserError, match="--videos_per_prompt=9901 must be at most 9,900"):
        Ucf101(videos_per_prompt=9901)


def test_copies_that_lack_something(tmp_path: Path) -> None:
    counts = dict.fromkeys(list(class_prompts())[:97], 1)
    data = write_ucf101(tmp_path / "short", counts)
    missing = "WalkingWithDog, WallPushups, WritingOnBoard and 1 other classes"
    with pytest.raises(UserError, match=f"has no folders for {missing}"):
        Ucf101().plan(data, ["is"])
    with pytest.raises(UserError, match=f"trainlist01.txt lists no video of {missing}"):
        Ucf101().plan(data, ["fvd"])
    with pytest.raises(UserError, match=r"has 1 videos, and 2 are compared; complete the dataset, or .*--num_videos"):
        Ucf101(classes=("Archery",), num_videos=2).plan(data, ["fvd"])
    (data / "UCF-101" / "Archery" / "v_Archery_g00_c01.avi").unlink()
    with pytest.raises(UserError, match=r"1 of the 1 drawn videos of UCF-101 are missing, first .*v_Archery_g00_c01"):
        Ucf101(classes=("Archery",), num_videos=1).plan(data, ["fvd"])
    with pytest.raises(UserError, match=r"has no ucfTrainTestlist/trainlist01\.txt"):
        Ucf101().plan(write_ucf101(tmp_path / "lists", counts, lists="elsewhere"), ["fvd"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"../../secret.avi 1", r"video 1 is '../../secret.avi'"),
        (b"Dancing/v_Dancing_g01_c01.avi 1", "not CLASS/FILE.avi"),
        (b"Archery/v_Archery_g00_c01.mp4 3", "not CLASS/FILE.avi"),
        (b"Archery/a.avi 3\nArchery/a.avi 3", "lists a video twice"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_lists_of_another_kind(tmp_path: Path, line: bytes, said: str) -> None:
    data = write_ucf101(tmp_path, {"Archery": 1})
    (data / "ucfTrainTestlist" / "trainlist01.txt").write_bytes(line)
    with pytest.raises(UserError, match=said):
        Ucf101(classes=("Archery",), num_videos=1).plan(data, ["fvd"])
