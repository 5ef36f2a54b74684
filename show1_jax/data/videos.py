"""Clips of a dataset that `python -m show1_jax.data build` wrote, by number."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import UInt8

from show1_jax.data.dataset import MAX_SECONDS, REBUILD, features, read_dataset
from show1_jax.data.failures import VideoError
from show1_jax.data.names import MAX_CAPTION, MAX_VIDEO_BYTES, short_line
from show1_jax.data.order import shuffled
from show1_jax.data.records import Records
from show1_jax.data.spec import ClipDraw, ClipSpec
from show1_jax.errors import UserError

_MAX_RECORD_BYTES: Final = MAX_VIDEO_BYTES + (1 << 20)
_TEXTS, _TIMES = ("name", "caption"), ("start", "duration", "fps")


class EncodedVideo(NamedTuple):
    """A record of a dataset, not decoded: the file's bytes, the caption, and the average frames a second."""

    video: bytes
    caption: str
    fps: float


@dataclass(frozen=True)
class VideoSource:
    """All or part of a dataset's videos, in a fixed shuffled order that does not depend on any seed.

    Attributes:
        records: records of the whole dataset, by index, in the order in which they were written.
        positions: range of the shuffled dataset that this source contains.
        sha256: hash of the whole dataset.
        shortest_seconds: duration of the shortest video of the whole dataset.
    """

    records: Records
    positions: range
    sha256: str
    shortest_seconds: float

    @classmethod
    def open(cls, folder: Path) -> "VideoSource":
        """Open all of a dataset.

        Raises:
            UserError: the dataset does not exist, or is empty or damaged.
        """
        files = read_dataset(folder)
        records = Records(files.shards, _MAX_RECORD_BYTES)
        if not len(records):
            raise UserError(f"the dataset {folder} is empty; {REBUILD}")
        return cls(records, range(len(records)), files.sha256, files.shortest_seconds)

    def part(self, positions: slice) -> "VideoSource":
        """Return the source of some of these videos."""
        return replace(self, positions=self.positions[positions])

    def __len__(self) -> int:
        return len(self.positions)

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
        """Return a clip of a video, uint8 RGB, and its caption.

        The clip starts between the video's first frame and the last time at which the whole clip fits. A clip that is
        longer than the video, which `clips` refuses, would repeat the last frame at its end.

        Raises:
            VideoError: the video cannot be read.
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
        except Exception as error:  # PyAV raises errors of many types for malicious files
            raise VideoError(f"it cannot be decoded: {type(error).__name__}: {short_line(str(error))}") from error
        return video, record["caption"]

    def encoded(self, position: int) -> EncodedVideo:
        """Return the whole video of a record, as it is stored.

        Raises:
            VideoError: the record is damaged.
        """
        record = self._record(position)
        return EncodedVideo(record["video"], record["caption"], record["fps"])

    def captions(self) -> Iterator[str]:
        """Yield the captions of all videos whose records can be read."""
        for position in range(len(self)):
            with suppress(VideoError):
                yield self._record(position)["caption"]

    def name(self, position: int) -> str:
        """Return the name of a video, or its index in the dataset if its record is damaged."""
        try:
            name = short_line(self._record(position)["name"])
        except VideoError:
            name = f"record {self._index(position)}"
        return name

    def _index(self, position: int) -> int:
        return shuffled(self.positions[position], len(self.records), "dataset")

    def _record(self, position: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = features().deserialize_example_np(self.records[self._index(position)])
        except Exception as error:  # ArrayRecord and Protocol Buffers raise many types for a damaged file
            raise VideoError(f"its record is damaged: {short_line(str(error))}") from error
        return _checked(record)


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its texts decoded.

    Raises:
        VideoError: `build` does not write such a record.
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
