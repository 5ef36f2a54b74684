"""A protocol of the paper: the settings of a table's row, and the plan of its videos for a copy of the dataset."""

import abc
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from show1_jax.cascade.prompts import Prompt
from show1_jax.config.bounds import MAX_SEED
from show1_jax.errors import UserError

SEEDS: Final = 1_000_000
"""Seeds of the videos of one evaluation; the next evaluation's begin after them."""
MAX_RATE: Final = 1000
MAX_EVALUATION_SEED: Final = MAX_SEED // SEEDS - 1


@dataclass(frozen=True)
class VideoSet:
    """The videos that a metric compares.

    Attributes:
        videos: prompts and seeds of the videos to sample.
        references: videos of the dataset, as paths in its folder; empty if the metric needs none.
    """

    videos: tuple[Prompt, ...]
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The videos of an evaluation.

    Attributes:
        sets: the videos of each metric, by its name. Metrics share videos: those of equal prompt and seed.
        notes: facts about this copy of the dataset that differ from the published ones, for the report.
    """

    sets: Mapping[str, VideoSet]
    notes: tuple[str, ...] = ()

    @property
    def videos(self) -> tuple[Prompt, ...]:
        """All videos to sample, each once."""
        return tuple(dict.fromkeys(video for videos in self.sets.values() for video in videos.videos))


@dataclass(frozen=True)
class PaperScore:
    """A score in the paper's table.

    Attributes:
        title: the column's title.
        value: the score of Show-1.
        note: a contradiction in the paper, or empty.
    """

    title: str
    value: float
    note: str = ""


def setting(default: Any, help_text: str) -> Any:
    """Return a field of a protocol: a setting, which is also a flag of the command with this help."""
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclass(frozen=True)
class Protocol(abc.ABC):
    """The settings of an evaluation, with the paper's as defaults.

    Attributes:
        seed: seed of all draws; the videos' own seeds depend on it, too.
        num_videos: number of sampled videos, and of videos of the dataset, that FVD and FID-vid compare.
        num_frames: frames of a clip for FVD and IS.
        size: height and width to which all frames are resized, after a crop of their centre to a square.
        fps: frames a second to which the videos of both sides are resampled; 0 takes their frames one by one.
    """

    name: ClassVar[str]
    dataset: ClassVar[str]
    table: ClassVar[str]
    paper: ClassVar[Mapping[str, PaperScore]]
    """Scores of the paper by the metric's name, in the table's order."""
    choices: ClassVar[tuple[str, ...]]
    """Settings that the paper does not state, each with its source or "our choice", for the report."""

    seed: int = setting(0, "seed of all draws and of the videos; default 0")
    num_videos: int = setting(2048, "videos on each side of FVD and FID-vid; default 2048")
    num_frames: int = setting(16, "frames of a clip for FVD and IS; default 16")
    size: int = setting(256, "frames are cropped to a centred square and resized to N x N; default 256")
    fps: float = setting(0.0, "resample both sides to FPS frames a second; default 0: frame by frame")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value <= MAX_RATE:
                raise UserError(f"--{field.name}={value:g} must be from 0 to {MAX_RATE}")
            if type(value) is int and field.name != "seed" and value < 1:
                raise UserError(f"--{field.name}={value} must be at least 1")
        if not 0 <= self.seed <= MAX_EVALUATION_SEED:
            raise UserError(f"--seed={self.seed} must be from 0 to {MAX_EVALUATION_SEED}")

    @abc.abstractmethod
    def plan(self, data: Path, metrics: Sequence[str]) -> Plan:
        """Return the videos of some metrics for a copy of the dataset.

        Args:
            data: folder of the dataset, as unpacked.
            metrics: names of metrics of this protocol.

        Raises:
            UserError: the folder or a file of the dataset is missing or has another form, or there are fewer videos
                than the settings ask for.
        """

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        values: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }
        return values

    def video_seed(self, number: int) -> int:
        """Return the seed of the video with a number from 0 to `SEEDS` - 1."""
        assert 0 <= number < SEEDS
        return self.seed * SEEDS + number

    def drawn(self, names: Iterable[str], count: int) -> list[str]:
        """Return `count` of some names, drawn at random without replacement, in the order of the draw.

        The order is that of the SHA-256 of `SEED NAME`: it depends on nothing but the seed and the names, so every
        version and machine draws the same, and a longer draw begins with a shorter one.
        """
        return sorted(names, key=lambda name: hashlib.sha256(f"{self.seed} {name}".encode()).digest())[:count]

    def check_enough(self, count: int, where: str) -> None:
        """Refuse a dataset with fewer videos than `num_videos`.

        Raises:
            UserError: `count` is smaller.
        """
        if count < self.num_videos:
            raise UserError(
                f"{where} has {count:,} videos, and {self.num_videos:,} are compared; complete the dataset, or state "
                f"another number with --num_videos"
            )


def check_files(folder: Path, names: Sequence[str], dataset: str) -> None:
    """Refuse a copy of a dataset that lacks some of the videos that are compared.

    Raises:
        UserError: files are missing; the line has their number and the first one.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of the {len(names):,} drawn videos of {dataset} are missing, first "
            f"{folder / missing[0]}; unpack the dataset again"
        )
