"""UCF-101 (Table 1 of the paper): IS of 20 videos a prompt, FVD of 2,048 videos, one prompt for each class.

The dataset as unpacked: a folder that holds `UCF-101/CLASS/*.avi` and `ucfTrainTestlist/trainlist01.txt`. The prompts
are in `ucf101_prompts.json`; they are ours, since the paper's, like those of PYoCo that it follows, are not published
with it.
"""

import functools
import importlib.resources
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from show1_jax.cascade.prompts import Prompt
from show1_jax.errors import FileError, UserError
from show1_jax.evaluation.protocols.protocol import SEEDS, PaperScore, Plan, Protocol, VideoSet, check_files, setting
from show1_jax.files import parse_json, read_bounded

SPLITS: Final = ("train", "test")
NUM_LISTED: Final = {"train": 9537, "test": 3783}
"""Videos in the first of UCF-101's three splits."""
_VIDEOS, _LISTS = "UCF-101", "ucfTrainTestlist"
_MAX_LIST_BYTES: Final = 4 << 20
_LISTED: Final = re.compile(r"(\w+)/[\w.-]+\.avi")
_SEEDS_OF_CLASS: Final = SEEDS // 101 // 100 * 100
"""Seeds of the videos of a class; classes have different ones, so that no two videos start from the same noise."""


@dataclass(frozen=True)
class Ucf101(Protocol):
    """The settings of the evaluation on UCF-101.

    For FVD, `num_videos` videos are drawn from the split, and each one's class is the prompt of one sampled video: both
    sides have the same number of videos of every class. For IS, every class has `videos_per_prompt` videos. The metrics
    share videos.

    Attributes:
        videos_per_prompt: number of videos of each prompt for IS.
        split: the split of the real videos: `train`, as in TATS' code, or `test`.
        classes: use only these classes, for trials; empty for all 101.
    """

    name: ClassVar[str] = "ucf101"
    dataset: ClassVar[str] = "UCF-101"
    table: ClassVar[str] = "Table 1"
    paper: ClassVar[Mapping[str, PaperScore]] = {"is": PaperScore("IS", 35.42), "fvd": PaperScore("FVD", 394.46)}
    choices: ClassVar[tuple[str, ...]] = (
        "prompts: ours, one sentence a class (the paper writes its own and does not publish them)",
        "FVD: real videos drawn from split 1 of the training set (TATS' code), one clip each; the sampled videos have "
        "their classes (as VideoPoet's have those of drawn test videos)",
        "square crop of the centre on both sides (TATS' code, LaVie); the size is our choice",
        "central 16 frames of each video, at their own frame rates on both sides (VideoPoet); --fps resamples both",
    )

    videos_per_prompt: int = setting(20, "videos of each prompt for IS; default 20")
    split: str = setting("train", "split of the real videos, train (default) or test")
    classes: tuple[str, ...] = setting((), "only these classes, for trials; default: all 101")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.videos_per_prompt > _SEEDS_OF_CLASS:
            raise UserError(f"--videos_per_prompt={self.videos_per_prompt} must be at most {_SEEDS_OF_CLASS:,}")
        if self.split not in SPLITS:
            raise UserError(f"--split={self.split}: choose one of {', '.join(SPLITS)}")
        if unknown := [name for name in self.classes if name not in class_prompts()]:
            raise UserError(f"--classes: UCF-101 has no class {', '.join(unknown)}; write its folder's name")

    def plan(self, data: Path, metrics: Sequence[str]) -> Plan:
        """Return the videos of some metrics; see `Protocol.plan`."""
        prompts = {name: text for name, text in class_prompts().items() if not self.classes or name in self.classes}
        numbers = {name: number * _SEEDS_OF_CLASS for number, name in enumerate(class_prompts())}

        def video(name: str, index: int) -> Prompt:
            return Prompt(prompts[name], seed=self.video_seed(numbers[name] + index))

        sets, notes = {}, []
        if "is" in metrics:
            self._check_classes(data, prompts)
            per_prompt = range(self.videos_per_prompt)
            sets["is"] = VideoSet(tuple(video(name, index) for index in per_prompt for name in prompts))
        if "fvd" in metrics:
            file = _list_file(data, self.split)
            listed = _read_list(file)
            if len(listed) != NUM_LISTED[self.split]:
                notes.append(f"{file.name} lists {len(listed):,} videos, not {NUM_LISTED[self.split]:,}")
            names = [name for name in listed if _class_of(name) in prompts]
            if missing := prompts.keys() - {_class_of(name) for name in names}:
                raise UserError(f"{file} lists no video of {_some(missing)}; unpack UCF-101's train and test lists")
            self.check_enough(len(names), str(file))
            drawn = self.drawn(names, self.num_videos)
            check_files(_videos_folder(data), drawn, self.dataset)
            counts = Counter(map(_class_of, drawn))
            sets["fvd"] = VideoSet(
                tuple(video(name, index) for name in prompts for index in range(counts[name])),
                tuple(_in_dataset(data, name) for name in drawn),
            )
        if self.classes:
            notes.append(f"only {len(prompts)} of 101 classes")
        return Plan(sets, tuple(notes))

    def _check_classes(self, data: Path, prompts: Mapping[str, str]) -> None:
        folder = _videos_folder(data)
        if missing := [name for name in prompts if not (folder / name).is_dir()]:
            raise UserError(f"{folder} has no folders for {_some(missing)}; unpack UCF-101 again, or check --data")


@functools.cache
def class_prompts() -> dict[str, str]:
    """Return the prompt of each class of UCF-101 by the class's name, in the dataset's order."""
    resource = importlib.resources.files("show1_jax.evaluation.protocols") / "ucf101_prompts.json"
    prompts: dict[str, str] = parse_json(resource.read_bytes())
    return prompts


def _videos_folder(data: Path) -> Path:
    inner = data / _VIDEOS
    return inner if inner.is_dir() else data


def _in_dataset(data: Path, name: str) -> str:
    return (_videos_folder(data) / name).relative_to(data).as_posix()


def _list_file(data: Path, split: str) -> Path:
    name = f"{split}list01.txt"
    for folder in (data / _LISTS, data, data.absolute().parent / _LISTS):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{data} has no {_LISTS}/{name}; unpack UCF-101's train and test lists there")


def _read_list(path: Path) -> list[str]:
    """Return the videos of a list, as CLASS/FILE; the training list has the class's number behind each."""
    try:
        lines = read_bounded(path, _MAX_LIST_BYTES).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error})", "unpack UCF-101's train and test lists again") from None
    names = [line.split()[0] for line in lines if line.strip()]
    for number, name in enumerate(names, start=1):
        if not (match := _LISTED.fullmatch(name)) or match[1] not in class_prompts():
            raise FileError(f"{path}: video {number} is {name[:60]!r}, not CLASS/FILE.avi", "give UCF-101's own list")
    if len(set(names)) < len(names):
        raise FileError(f"{path} lists a video twice", "give UCF-101's own list")
    return names


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _some(names: Sequence[str] | set[str]) -> str:
    """Return the first names of several, and the number of the others."""
    first, others = sorted(names)[:3], len(names) - 3
    return ", ".join(first) + (f" and {others} other classes" if others > 0 else "")
