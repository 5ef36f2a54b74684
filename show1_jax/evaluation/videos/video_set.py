"""A set of videos to score: a selection of those that were found, their hashes, and their frame rates."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax

from show1_jax.checkpoints.manifest import sha256
from show1_jax.config.sampling import Stage
from show1_jax.data.order import shuffled
from show1_jax.data.pools import map_in_order
from show1_jax.errors import UserError
from show1_jax.evaluation.videos.captions import captions_of
from show1_jax.evaluation.videos.listing import Listing, Video, list_videos, reason
from show1_jax.media.images import natural_order
from show1_jax.parallel import from_all_processes, is_first_process
from show1_jax.progress import Bar

_SAME_RATE: Final = 0.01
"""Largest relative difference of frame rates that count as equal: 24 and 23.976 are."""


class _Facts(NamedTuple):
    """Facts about a video's files: their hash, their `stamps`, the frame rate, and why they cannot be read, or ""."""

    sha256: str
    stamps: list[tuple[int, int]]
    rate: Fraction | None
    problem: str


@dataclass(frozen=True)
class VideoSet:
    """Videos whose files can be opened; decoding may still fail.

    Attributes:
        path: the folder, dataset or file, as the user gave it.
        videos: the videos, in natural order.
        captions: their captions; empty if the metric needs none.
        digests: a hash of every video's files.
        stamps: sizes and times of every video's files before they were hashed.
        rates: number of videos by stated frame rate, as text; "unknown" if a video states none.
        unreadable: the reason for every video that cannot be opened, by name.
        num_found: number of all videos before `--max_videos`, with those that cannot be opened.
        ignored: number of other files by suffix.
        stage: stage of run directories, if there are any.
    """

    path: Path
    videos: tuple[Video, ...]
    captions: tuple[str, ...]
    digests: tuple[str, ...]
    stamps: tuple[list[tuple[int, int]], ...]
    rates: Mapping[str, int]
    unreadable: Mapping[str, str]
    num_found: int
    ignored: Mapping[str, int]
    stage: Stage | None = None

    @property
    def digest(self) -> str:
        """Hash of the names and hashes of all videos."""
        names = [video.name for video in self.videos]
        return hashlib.sha256(json.dumps([names, self.digests]).encode()).hexdigest()

    @property
    def captions_digest(self) -> str:
        """Hash of all captions."""
        return hashlib.sha256(json.dumps(self.captions).encode()).hexdigest()

    @property
    def main_rate(self) -> float | None:
        """Most frequent stated frame rate, or None if most videos state none."""
        most = max(self.rates, key=lambda rate: self.rates[rate], default="unknown")
        return None if most == "unknown" else float(most)

    def describe(self) -> dict[str, Any]:
        """Return the facts of the set for a report, JSON."""
        return {
            "path": str(self.path),
            "videos found": self.num_found,
            "videos chosen": len(self.videos) + len(self.unreadable),
            "stage of run directories": self.stage or "none",
            "other files ignored": dict(self.ignored),
            "frame rates": dict(self.rates),
            "sha256 of names and files": self.digest,
        }


def open_videos(
    path: Path,
    *,
    stage: Stage | None = None,
    max_videos: int | None = None,
    seed: int = 0,
    needs_captions: bool = False,
    captions: Path | None = None,
) -> VideoSet:
    """List the videos at a path, hash their files, and read their frame rates. All processes must call it together.

    Args:
        path: see `show1_jax.evaluation.videos.listing.list_videos`.
        stage: see `list_videos`.
        max_videos: number of videos to choose at random; None: all.
        seed: seed of the choice.
        needs_captions: every video must have a caption.
        captions: file of captions, see `show1_jax.evaluation.videos.captions.captions_of`.

    Raises:
        UserError: there are no videos, the captions do not fit, or the processes see different files.
    """
    listing = list_videos(path, stage)
    texts = captions_of(listing.videos, captions) if needs_captions else []
    found = [
        *((video.name, index) for index, video in enumerate(listing.videos)),
        *((name, None) for name in listing.unreadable),
    ]
    found.sort(key=lambda entry: natural_order(entry[0]))
    drawn = [found[place] for place in _choose(len(found), max_videos, seed)]
    chosen = [index for _, index in drawn if index is not None]
    other = {name: listing.unreadable[name] for name, index in drawn if index is None}
    videos = [listing.videos[index] for index in chosen]
    facts = _facts_of(videos, listing, f"reading {path.name}")
    good = [index for index, of_video in enumerate(facts) if not of_video.problem]
    bad = {video.label(): of_video.problem for video, of_video in zip(videos, facts, strict=True) if of_video.problem}
    rates = Counter(_rate_text(facts[index].rate) for index in good)
    return VideoSet(
        path=path,
        videos=tuple(videos[index] for index in good),
        captions=tuple(texts[chosen[index]] for index in good) if needs_captions else (),
        digests=tuple(facts[index].sha256 for index in good),
        stamps=tuple(facts[index].stamps for index in good),
        rates=dict(rates.most_common()),
        unreadable={**other, **bad},
        num_found=len(found),
        ignored=dict(listing.ignored),
        stage=listing.stage,
    )


def check_frame_rates(videos: VideoSet, reference: VideoSet) -> None:
    """Refuse two sets of different frame rates: a clip of as many frames would show faster or slower motion.

    Raises:
        UserError: both sets state frame rates, and these differ.
    """
    first, second = videos.main_rate, reference.main_rate
    if first and second and abs(first - second) > _SAME_RATE * max(first, second):
        raise UserError(
            f"--videos have {first:g} frames a second, --reference {second:g}, so motion would differ; resample both, "
            f"e.g. --fps {min(first, second):g}, or compare frame by frame with --any_frame_rate"
        )


def rate_warnings(name: str, videos: VideoSet) -> list[str]:
    """Return a warning if the videos of one set have different frame rates."""
    rates = sorted(float(rate) for rate in videos.rates if rate != "unknown")
    if len(rates) > 1 and rates[-1] - rates[0] > _SAME_RATE * rates[-1]:
        return [f"{name} has videos of {rates[0]:g} to {rates[-1]:g} frames a second; --fps resamples them"]
    return []


def _choose(count: int, most: int | None, seed: int) -> list[int]:
    """Return the numbers of the chosen videos, in order."""
    if most is None or most >= count:
        return list(range(count))
    return sorted(shuffled(position, count, "videos", seed) for position in range(most))


def _facts_of(videos: Sequence[Video], listing: Listing, name: str) -> list[_Facts]:
    """Return the facts of all videos; each process reads the files of its share."""

    def read(index: int) -> tuple[int, _Facts]:
        return index, _read_facts(videos[index], listing.dataset)

    own = range(jax.process_index(), len(videos), jax.process_count())
    found: dict[int, _Facts] = {}
    bar = Bar(name, len(own), unit=" videos", leave=False, delay=2, shown=is_first_process())
    with ThreadPoolExecutor() as executor, bar:
        for index, facts in map_in_order(executor, read, own, ahead=64):
            found[index] = facts
            bar.update()
    names = [video.name for video in videos]
    of_all = from_all_processes((names, found))
    if any(other != names for other, _ in of_all):
        raise UserError("the processes see different files; the videos must be on a file system that all hosts share")
    every = {index: facts for _, of_one in of_all for index, facts in of_one.items()}
    return [every[index] for index in range(len(videos))]


def _read_facts(video: Video, dataset: str | None) -> _Facts:
    try:
        stamps = video.stamps()
        digest = dataset or _digest(video.files)
        return _Facts(digest, stamps, video.frames.rate(), "")
    except Exception as error:  # decoders raise errors of many types for damaged files
        return _Facts("", [], None, reason(error))


def _digest(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256(json.dumps([[path.name, sha256(path)] for path in files]).encode()).hexdigest()


def _rate_text(rate: Fraction | None) -> str:
    return "unknown" if rate is None else f"{float(rate):.5g}"
