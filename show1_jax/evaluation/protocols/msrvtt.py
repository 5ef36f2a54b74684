"""MSR-VTT (Table 2 of the paper): FID-vid and FVD of 2,048 videos, CLIPSIM over the captions of the 2,990 test videos.

The dataset as unpacked: a folder with `test_videodatainfo.json` (the 2017 challenge's test set) or `MSRVTT_data.json`
(all splits), and the videos as `VIDEO_ID.mp4` in it, or in its `TestVideo/`, `videos/` or `videos/all/`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from show1_jax.cascade.prompts import MAX_PROMPT_LENGTH, Prompt
from show1_jax.errors import FileError, UserError
from show1_jax.evaluation.protocols.protocol import SEEDS, PaperScore, Plan, Protocol, VideoSet, check_files, setting
from show1_jax.files import read_json

NUM_TEST_VIDEOS, NUM_CAPTIONS = 2990, 59_794
CAPTIONS: Final = ("all", "one")
_FILES: Final = ("test_videodatainfo.json", "MSRVTT_data.json")
_FOLDERS: Final = ("", "TestVideo", "videos", "videos/all")
_ANNOTATIONS: Final = ("", "annotation", "annotations")
_TEST: Final = "test"
_ID: Final = re.compile(r"[\w-]{1,64}")
_REMEDY: Final = "give the dataset's own file"
_MAX_JSON_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Msrvtt(Protocol):
    """The settings of the evaluation on MSR-VTT.

    For FID-vid and FVD, `num_videos` test videos are drawn, and one caption of each. The video of a caption is the same
    for all metrics: its seed is the caption's number in the dataset.

    Attributes:
        captions: captions for CLIPSIM: `all`, as in the paper, or `one` drawn for each video, as in Video LDM.
    """

    name: ClassVar[str] = "msrvtt"
    dataset: ClassVar[str] = "MSR-VTT"
    table: ClassVar[str] = "Table 2"
    paper: ClassVar[Mapping[str, PaperScore]] = {
        "fid-vid": PaperScore("FID-vid", 13.08),
        "fvd": PaperScore("FVD", 538.0),
        "clipsim": PaperScore("CLIPSIM", 0.3072, "the paper's text says 0.3076"),
    }
    choices: ClassVar[tuple[str, ...]] = (
        "FID-vid and FVD: one caption, drawn, for each of the drawn test videos (our choice)",
        "256 x 256 (the paper) by a crop of the centre to a square and a bicubic, anti-aliased resize (our choice)",
        "central 16 frames of each video, at their own frame rates on both sides (VideoPoet); --fps resamples both",
    )

    captions: str = setting("all", "captions for CLIPSIM: all (the paper, default) or one a video (Video LDM)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions not in CAPTIONS:
            raise UserError(f"--captions={self.captions}: choose one of {', '.join(CAPTIONS)}")

    def plan(self, data: Path, metrics: Sequence[str]) -> Plan:
        """Return the videos of some metrics; see `Protocol.plan`."""
        captions, notes = _read_test_captions(data)
        chosen = {name: self.drawn(map(str, texts), 1)[0] for name, texts in captions.items()}

        def video(name: str, number: int) -> Prompt:
            return Prompt(captions[name][number], seed=self.video_seed(number))

        sets: dict[str, VideoSet] = {}
        if compared := [metric for metric in ("fid-vid", "fvd") if metric in metrics]:
            self.check_enough(len(captions), f"the test split in {data}")
            drawn = self.drawn(captions, self.num_videos)
            folder = _videos_folder(data, drawn[0])
            files = [f"{name}.mp4" for name in drawn]
            check_files(folder, files, self.dataset)
            references = tuple((folder / file).relative_to(data).as_posix() for file in files)
            sets |= dict.fromkeys(
                compared, VideoSet(tuple(video(name, int(chosen[name])) for name in drawn), references)
            )
        if "clipsim" in metrics:
            numbers = {
                name: sorted(texts) if self.captions == "all" else [int(chosen[name])]
                for name, texts in captions.items()
            }
            sets["clipsim"] = VideoSet(tuple(video(name, number) for name in captions for number in numbers[name]))
        return Plan(sets, tuple(notes))


def _read_test_captions(data: Path) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Read the captions of the test videos from either of the dataset's files.

    Returns:
        The captions of each test video by their numbers, in the order of the videos' names; and notes.
    """
    path = _annotation_file(data)
    values = read_json(path, _REMEDY, max_bytes=_MAX_JSON_BYTES)
    videos, sentences = _objects(path, values, "videos"), _objects(path, values, "sentences")
    splits = {_field(path, video, "video_id", str): _field(path, video, "split", str) for video in videos}
    if _TEST not in splits.values():
        raise FileError(
            f"{path} has no test videos, only the splits {', '.join(sorted(set(splits.values()))[:5]) or 'none'}",
            f"give {_FILES[0]}, or {_FILES[1]} of all splits",
        )
    captions: dict[str, dict[int, str]] = {
        name: {} for name in sorted(splits, key=_natural_order) if splits[name] == _TEST
    }
    num_empty = num_captions = 0
    seen: set[int] = set()
    for sentence in sentences:
        name, number = _field(path, sentence, "video_id", str), _field(path, sentence, "sen_id", int)
        text = " ".join(_field(path, sentence, "caption", str).split())
        if name not in captions:
            continue
        if number in seen or not 0 <= number < SEEDS:
            raise FileError(f"{path}: the caption number {number} is there twice or out of range", _REMEDY)
        seen.add(number)
        if not text or len(text) > MAX_PROMPT_LENGTH:
            num_empty += 1
            continue
        captions[name][number] = text
        num_captions += 1
    if bare := [name for name, texts in captions.items() if not texts]:
        raise FileError(f"{path} has no caption of {len(bare)} test videos, first {bare[0]}", _REMEDY)
    notes = [f"{num_empty} empty captions are left out"] if num_empty else []
    if (len(captions), num_captions) != (NUM_TEST_VIDEOS, NUM_CAPTIONS):
        notes.append(
            f"{path.name} has {len(captions):,} test videos with {num_captions:,} captions; the paper states "
            f"{NUM_TEST_VIDEOS:,} with {NUM_CAPTIONS:,}"
        )
    return captions, notes


def _annotation_file(data: Path) -> Path:
    for name in _FILES:
        for folder in _ANNOTATIONS:
            if (data / folder / name).is_file():
                return data / folder / name
    raise UserError(f"{data} has no {' and no '.join(_FILES)}; put MSR-VTT's captions there, or check --data")


def _videos_folder(data: Path, name: str) -> Path:
    for folder in _FOLDERS:
        if (data / folder / f"{name}.mp4").is_file():
            return data / folder
    folders = ", ".join(folder for folder in _FOLDERS if folder)
    raise UserError(f"{data} has no {name}.mp4, nor have its {folders}; unpack MSR-VTT's test videos there")


def _objects(path: Path, values: Any, name: str) -> list[dict[str, Any]]:
    items = values.get(name) if isinstance(values, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise FileError(f"{path} has no list {name!r} of objects", _REMEDY)
    return items


def _field(path: Path, item: Mapping[str, Any], name: str, kind: type) -> Any:
    value = item.get(name)
    if type(value) is not kind or (name == "video_id" and not _ID.fullmatch(str(value))):
        raise FileError(f"{path}: {name} is {str(value)[:40]!r}, not a {'number' if kind is int else 'text'}", _REMEDY)
    return value


def _natural_order(name: str) -> tuple[str, int, str]:
    """Return a key that sorts video9 before video10."""
    match = re.fullmatch(r"(.*?)([0-9]{0,9})", name)
    assert match is not None
    return match[1], int(match[2] or 0), name
