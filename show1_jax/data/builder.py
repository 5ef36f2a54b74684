"""A folder of captioned videos into an ArrayRecord dataset, by a TFDS builder that needs no TensorFlow.

TFDS's usual `GeneratorBasedBuilder` does need it: what it shuffles spills over 1 GB to files that TensorFlow writes.
A `ShardBasedBuilder` writes its shards in order instead, and readers shuffle.
"""

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from show1_jax.data.captions import CaptionedVideo, Listing, list_videos
from show1_jax.data.dataset import DATASET, SPLIT, VERSION, features, is_dataset
from show1_jax.data.decode import VideoFacts, check_file
from show1_jax.data.failures import VideoError
from show1_jax.data.pools import in_order, pool
from show1_jax.errors import UserError
from show1_jax.files import new_folder

MIN_SECONDS = 3.5
"""What the keyframe stage's 8 frames at 2 fps span."""
SHARD_BYTES = 256 << 20
"""TFDS keeps a shard in memory while it writes it."""
MAX_LISTED = 10
"""Names that are printed for each reason to leave a caption or an uncaptioned video out."""


@dataclass(frozen=True)
class BuildReport:
    """What a build made of a folder: how many videos are in, and why the others are not, by name."""

    num_videos: int
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _Checked:
    video: CaptionedVideo
    facts: VideoFacts


def build(
    videos: Path,
    out: Path,
    captions: Path | None = None,
    *,
    min_seconds: float = MIN_SECONDS,
    num_workers: int = 0,
    overwrite: bool = False,
) -> BuildReport:
    """Build a dataset of captioned videos; `show1_jax.data.clips` reads it.

    Every video is decoded once, from its first to its last frame. What cannot be used is named on stderr and left out.
    The files go into the dataset as they are.

    Args:
        videos: folder of mp4 files.
        out: the dataset's folder; it appears when everything is written.
        captions: a table, see `show1_jax.data.captions`; None: `name.txt` beside `name.mp4`.
        min_seconds: shorter videos are left out.
        num_workers: processes that decode; 0: threads of this one.
        overwrite: replace a dataset that is there.

    Raises:
        UserError: the folder, the table, `out` or the disk; or no video can be used. `out` is then as it was.
    """
    _check_target(out, overwrite)
    listing = list_videos(videos, captions)
    _print_left_out(listing)
    checked, skipped = _check(listing.videos, min_seconds, num_workers)
    if not checked:
        raise UserError(f"no video of {videos} can be used; the lines above say why")
    _check_space(out, sum(entry.facts.num_bytes for entry in checked))
    with new_folder(out) as folder:
        _write(checked, folder)
    print(f"{out}: {len(checked)} videos, {len(skipped)} skipped", file=sys.stderr)
    return BuildReport(len(checked), skipped)


def _check(
    videos: Sequence[CaptionedVideo], min_seconds: float, num_workers: int
) -> tuple[list[_Checked], dict[str, str]]:
    """The videos that can be used, and the reasons of the others by name, each printed as it is found."""
    checked, skipped = [], {}
    examine = partial(_examine, min_seconds)
    with (
        pool(num_workers, threads=os.cpu_count() or 1) as executor,
        tqdm(total=len(videos), desc="decoding", unit=" videos") as bar,
    ):
        try:
            for video, facts in zip(videos, in_order(executor, examine, (v.path for v in videos), 64), strict=True):
                if isinstance(facts, VideoFacts):
                    checked.append(_Checked(video, facts))
                else:
                    skipped[video.name] = facts
                    tqdm.write(f"skipped {video.name}: {facts}", file=sys.stderr)
                bar.update()
        except BrokenProcessPool:
            near = videos[len(checked) + len(skipped)].path
            raise UserError(f"a decoding process died at {near} or soon after; give it memory, or remove it") from None
    return checked, skipped


def _examine(min_seconds: float, path: Path) -> VideoFacts | str:
    """A video's facts, or why it cannot be used."""
    try:
        facts = check_file(path)
    except VideoError as error:
        return str(error)
    if facts.duration < min_seconds:
        return f"it lasts {facts.duration:.3g} s, less than {min_seconds:g} s"
    return facts


class CaptionedVideos(tfds.core.ShardBasedBuilder):
    """Encoded videos with their captions, each shard about `SHARD_BYTES`."""

    VERSION = tfds.core.Version(VERSION)
    name = DATASET
    # TFDS 4.9.10 looks for it with importlib_resources, which it does not install.
    code_path = Path(__file__)

    def __init__(self, checked: Sequence[_Checked], bar: "tqdm[Any]", **options: Any):
        self._checked = checked
        self._bar = bar
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = {
            "sha256": _digest(self._checked),
            "shortest_seconds": min(entry.facts.duration for entry in self._checked),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Captioned videos, built by show1_jax.",
            features=features(),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        return {SPLIT: [partial(_examples, shard, self._bar) for shard in _shards(self._checked)]}


def _shards(checked: Sequence[_Checked]) -> list[list[_Checked]]:
    """Consecutive videos, a shard's worth of bytes together."""
    shards: list[list[_Checked]] = []
    filled = SHARD_BYTES
    for entry in checked:
        if filled >= SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.facts.num_bytes
    return shards


def _examples(shard: Sequence[_Checked], bar: "tqdm[Any]") -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in shard:
        video, facts = entry.video, entry.facts
        try:
            data = video.path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {video.path} any more ({error.strerror}); build the dataset again") from error
        if hashlib.sha256(data).hexdigest() != facts.sha256:
            raise UserError(f"{video.path} changed while the dataset was built; build it again")
        yield (
            video.name,
            {
                "name": video.name,
                "caption": video.caption,
                "video": data,
                "start": facts.start,
                "duration": facts.duration,
                "fps": facts.fps,
            },
        )
        bar.update()


def _digest(checked: Sequence[_Checked]) -> str:
    """A hash of the names, captions and files, in order."""
    digest = hashlib.sha256()
    for entry in checked:
        digest.update(repr((entry.video.name, entry.video.caption, entry.facts.sha256)).encode())
    return digest.hexdigest()


def _write(checked: Sequence[_Checked], folder: Path) -> None:
    """Run the builder, whose own words on stdout name a folder that is about to be renamed."""
    work = folder / "building"
    with tqdm(total=len(checked), desc="writing", unit=" videos") as bar, contextlib.redirect_stdout(io.StringIO()):
        builder = CaptionedVideos(checked, bar, data_dir=work)
        builder.download_and_prepare()
    for path in list(Path(builder.data_dir).iterdir()):
        os.rename(path, folder / path.name)
    shutil.rmtree(work)


def _print_left_out(listing: Listing) -> None:
    for reason, names in listing.left_out.items():
        shown = ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
        print(f"left out {len(names)}: {reason}: {shown}", file=sys.stderr)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{out} exists; choose another place, or replace it with --overwrite")
    if not is_dataset(out):
        raise UserError(f"{out} is no dataset of show1_jax, so it is not overwritten; choose another place")


def _check_space(out: Path, needed: int) -> None:
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{out}: the dataset needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free; free space or "
            "choose another place with --out"
        )
