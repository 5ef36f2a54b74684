"""A dataset of `python -m show1_jax.data build` as clips by their number."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.dataset import MAX_SECONDS, REBUILD, features, read_dataset
from show1_jax.data.failures import VideoError
from show1_jax.data.names import MAX_CAPTION, MAX_VIDEO_BYTES, shown
from show1_jax.data.order import shuffled
from show1_jax.data.records import Records
from show1_jax.data.spec import ClipDraw, ClipSpec
from show1_jax.errors import UserError

_MAX_RECORD_BYTES: Final = MAX_VIDEO_BYTES + (1 << 20)
_TEXTS, _TIMES = ("name", "caption"), ("start", "duration")


@dataclass(frozen=True)
class VideoSource:
    """Some of a dataset's videos, in a fixed shuffled order that does not depend on any seed.

    Attributes:
        records: of the whole dataset, by index, as they were written.
        positions: the part of the shuffled dataset that this is.
        sha256: of the whole dataset.
        shortest_seconds: duration of its shortest video.
    """

    records: Records
    positions: range
    sha256: str
    shortest_seconds: float

    @classmethod
    def open(cls, folder: Path) -> "VideoSource":
        """All of a dataset.

        Raises:
            UserError: there is none, it is empty or damaged.
        """
        files = read_dataset(folder)
        records = Records(files.shards, _MAX_RECORD_BYTES)
        if not len(records):
            raise UserError(f"the dataset {folder} is empty; {REBUILD}")
        return cls(records, range(len(records)), files.sha256, files.shortest_seconds)

    def part(self, positions: slice) -> "VideoSource":
        """Some of these videos."""
        return replace(self, positions=self.positions[positions])

    def __len__(self) -> int:
        return len(self.positions)

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
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
        times = [start + index / spec.fps for index in range(spec.num_frames)]
        try:
            frames = decode.each_frame_at(record["video"], times)
            video = np.stack([decode.crop_and_resize(frame, spec.height, spec.width, draw.crop) for frame in frames])
        except VideoError:
            raise
        except Exception as error:  # whatever PyAV raises for a file that somebody made to that end
            raise VideoError(f"it cannot be decoded: {type(error).__name__}: {shown(str(error))}") from error
        return video, record["caption"]

    def captions(self) -> Iterator[str]:
        """The captions of all videos whose records can be read."""
        for position in range(len(self)):
            with suppress(VideoError):
                yield self._record(position)["caption"]

    def name(self, position: int) -> str:
        """What a video is called; one whose record is damaged, by its place in the dataset."""
        try:
            name = shown(self._record(position)["name"])
        except VideoError:
            name = f"record {self._index(position)}"
        return name

    def _index(self, position: int) -> int:
        return shuffled(self.positions[position], len(self.records), "dataset")

    def _record(self, position: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = features().deserialize_example_np(self.records[self._index(position)])
        except Exception as error:  # ArrayRecord and Protocol Buffers raise many types for a damaged file
            raise VideoError(f"its record is damaged: {shown(str(error))}") from error
        return _checked(record)


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its texts decoded.

    Raises:
        VideoError: `build` writes no such record.
    """
    for name in (*_TEXTS, "video"):
        if not isinstance(record.get(name), bytes):
            raise VideoError(f"its record is damaged: no {name}")
    for name in _TIMES:
        time = record.get(name)
        if not isinstance(time, float) or not abs(time) <= MAX_SECONDS:
            raise VideoError(f"its record is damaged: the {name} is {time!r:.40}")
    try:
        texts = {name: record[name].decode() for name in _TEXTS}
    except UnicodeDecodeError:
        raise VideoError("its record is damaged: a text is not UTF-8") from None
    if len(texts["caption"]) > MAX_CAPTION:
        raise VideoError(f"its caption has more than {MAX_CAPTION:,} characters")
    return record | texts
