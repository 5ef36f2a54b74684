"""A dataset of `python -m show1_jax.data build` as clips by their number."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.failures import VideoError
from show1_jax.data.order import shuffled
from show1_jax.errors import UserError

if TYPE_CHECKING:
    from show1_jax.data.clips import ClipSpec, Draw

DATASET, SPLIT = "captioned_videos", "train"
_REBUILD = "build it with `python -m show1_jax.data build`"


def is_dataset(folder: Path) -> bool:
    """Whether `build` made a folder."""
    try:
        return bool(json.loads((folder / "dataset_info.json").read_text())["name"] == DATASET)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class VideoSource:
    """Some of a dataset's videos, in a fixed shuffled order that does not depend on any seed.

    Attributes:
        records: of the whole dataset, by index.
        positions: the part of the shuffled dataset that this is.
        sha256: of the whole dataset.
        shortest_seconds: duration of its shortest video.
    """

    records: Any
    positions: range
    sha256: str
    shortest_seconds: float

    @classmethod
    def open(cls, folder: Path) -> Self:
        """All of a dataset.

        Raises:
            UserError: there is none, it is empty or damaged.
        """
        if not folder.is_dir():
            raise UserError(f"there is no dataset {folder}; {_REBUILD}, and give its folder as data.path")
        if not is_dataset(folder):
            raise UserError(f"{folder} is no dataset of show1_jax; {_REBUILD}")
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(folder)
            split = builder.info.splits[SPLIT]
            if sum((folder / name).stat().st_size for name in split.filenames) != split.num_bytes:
                raise ValueError("its files do not have the sizes that they were written with")
            records = builder.as_data_source(split=SPLIT)
            metadata = builder.info.metadata
            source = cls(records, range(len(records)), metadata["sha256"], float(metadata["shortest_seconds"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise UserError(f"the dataset {folder} is damaged ({' '.join(str(error).split())}); {_REBUILD}") from error
        if not len(source):
            raise UserError(f"the dataset {folder} is empty; {_REBUILD}")
        return source

    def part(self, positions: slice) -> Self:
        """Some of these videos."""
        return replace(self, positions=self.positions[positions])

    def __len__(self) -> int:
        return len(self.positions)

    def clip(self, position: int, spec: "ClipSpec", draw: "Draw") -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
        """A clip of a video, and the caption.

        It starts anywhere from the video's first moment to the last at which the clip still fits; one that does not
        fit, which `clips` refuses, would end with still frames.

        Raises:
            VideoError: it cannot be read.
        """
        from show1_jax.data import decode

        record = self._record(position)
        latest = max(0.0, record["duration"] - spec.seconds)
        start = record["start"] + draw.start * latest
        frames = decode.frames_at(record["video"], [start + index / spec.fps for index in range(spec.num_frames)])
        video = np.stack([decode.crop_and_resize(frame, spec.height, spec.width, draw.crop) for frame in frames])
        return video, record["caption"].decode()

    def captions(self) -> Iterator[str]:
        """The captions of all videos whose records can be read."""
        for position in range(len(self)):
            with suppress(VideoError):
                yield self._record(position)["caption"].decode()

    def name(self, position: int) -> str:
        """What a video is called; one whose record is damaged, by its place in the dataset."""
        try:
            name: str = self._record(position)["name"].decode()
        except VideoError:
            name = f"record {self._index(position)}"
        return name

    def _index(self, position: int) -> int:
        return shuffled(self.positions[position], len(self.records), "dataset")

    def _record(self, position: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self.records[self._index(position)]
        except Exception as error:  # ArrayRecord and protocol buffers raise many types for a damaged file
            raise VideoError(f"its record is damaged: {' '.join(str(error).split())}") from error
        return record
