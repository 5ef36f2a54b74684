"""Saved features of a set of videos: shards that are written whole or not at all, and read one at a time.

The folder of a set has a name that depends on everything that decides the features. So features of other videos,
settings or weights are never mixed, and a command that was killed continues with the shards that are missing.

    KEY/settings.json           everything that decides the features, as text
    KEY/features_00000.safetensors   features of the first `VIDEOS_PER_SHARD` videos, and so on
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from show1_jax.errors import FileError
from show1_jax.evaluation.metrics.metric import ClipFeatures
from show1_jax.files import local_files, open_regular, parse_json, write_bytes

VIDEOS_PER_SHARD: Final = 16
_FORMAT: Final = "show1_jax.features.v1"
"""Part of the hash: a change of the code that changes features needs a new number."""
_SETTINGS: Final = "settings.json"


@dataclass
class Shard:
    """The features of some videos.

    Attributes:
        clips: the features of all clips, in order.
        unreadable: the reason for every video that could not be read, by name.
    """

    clips: list[ClipFeatures] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureFiles:
    """The saved features of a set of videos.

    Attributes:
        folder: their folder.
        settings: everything that decides the features, JSON.
        num_videos: number of videos of the set.
    """

    folder: Path
    settings: Mapping[str, Any]
    num_videos: int

    @classmethod
    def of(cls, parent: Path, settings: Mapping[str, Any], num_videos: int) -> "FeatureFiles":
        """Return the files for some settings in a folder of features."""
        text = json.dumps({"format": _FORMAT, "videos per shard": VIDEOS_PER_SHARD, **settings}, sort_keys=True)
        return cls(parent / hashlib.sha256(text.encode()).hexdigest()[:20], json.loads(text), num_videos)

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-self.num_videos // VIDEOS_PER_SHARD))

    def videos_of(self, shard: int) -> range:
        """Return the numbers of the videos of a shard."""
        first = shard * VIDEOS_PER_SHARD
        return range(first, min(first + VIDEOS_PER_SHARD, self.num_videos))

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there, or are damaged."""
        return [shard for shard in self.shards if self._read(shard) is None]

    def write_settings(self) -> None:
        """Write the settings beside the shards, for readers."""
        write_bytes(self.folder / _SETTINGS, (json.dumps(self.settings, indent=1, sort_keys=True) + "\n").encode())

    def write(self, number: int, shard: Shard) -> None:
        """Write a shard.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        rows = np.concatenate(shard.clips) if shard.clips else np.zeros((0, 0), np.float32)
        rows = np.ascontiguousarray(rows, np.float32)
        counts = np.array([len(clip) for clip in shard.clips], np.int64)
        metadata = {"format": _FORMAT, "unreadable": json.dumps(shard.unreadable), "sha256": _digest(rows, counts)}
        write_bytes(self._path(number), save({"rows": rows, "counts": counts}, metadata))

    def read(self) -> Iterator[Shard]:
        """Yield all shards in order; one is in memory at a time.

        Raises:
            FileError: a shard is missing or damaged.
        """
        for number in self.shards:
            shard = self._read(number)
            if shard is None:
                raise self._unusable(number)
            yield shard

    def num_clips(self) -> int:
        """Return the number of all clips; only the heads of the shards are read.

        Raises:
            FileError: a shard is missing or damaged.
        """
        total = 0
        for number in self.shards:
            try:
                with self._opened(number) as file:
                    total += file.get_slice("counts").get_shape()[0]
            except (OSError, SafetensorError):
                raise self._unusable(number) from None
        return total

    def _unusable(self, number: int) -> FileError:
        return FileError(
            f"{self._path(number)}: missing or damaged",
            "run the command again; --features must be a folder that all processes see",
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"features_{number:05}.safetensors"

    @contextmanager
    def _opened(self, number: int) -> Iterator[Any]:
        open_regular(self._path(number)).close()
        with local_files(self._path(number)) as local, safe_open(local, "numpy") as file:
            yield file

    def _read(self, number: int) -> Shard | None:
        try:
            with self._opened(number) as file:
                metadata = file.metadata() or {}
                rows, counts = file.get_tensor("rows"), file.get_tensor("counts")
            if metadata["sha256"] != _digest(rows, counts):
                return None
            clips = np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []
            return Shard([*clips], parse_json(metadata["unreadable"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            return None


def _digest(rows: np.ndarray, counts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data.tobytes() + counts.tobytes()).hexdigest()
