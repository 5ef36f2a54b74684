"""Building an ArrayRecord dataset from a folder of captioned videos, with a TFDS builder that needs no TensorFlow.

TFDS's usual `GeneratorBasedBuilder` needs it: above 1 GB, TensorFlow writes the files in which examples are shuffled.
A `ShardBasedBuilder` writes its shards in order instead, and readers shuffle.
"""

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from show1_jax.buckets.path import BucketPath
from show1_jax.data.building.captions import CaptionedVideo, list_videos
from show1_jax.data.building.left_out import LeftOut
from show1_jax.data.dataset import DATASET, LEFT_OUT, SPLIT, VERSION, features, is_dataset, is_of_dataset
from show1_jax.data.decode import VideoFacts, check_file
from show1_jax.data.failures import VideoError
from show1_jax.data.names import MAX_VIDEO_BYTES, short_line
from show1_jax.data.pools import map_in_order, pool
from show1_jax.data.transfer.upload import check_data_target, new_data_folder
from show1_jax.errors import UserError
from show1_jax.files import check_space, read_bounded
from show1_jax.progress import Bar, say

MIN_SECONDS = 3.5
"""Seconds that the keyframe stage's 8 frames at 2 fps span."""
SHARD_BYTES = 256 << 20
"""Approximate size of a shard, which TFDS holds in memory while it writes it."""
_AHEAD = 64
"""Maximum number of videos that are decoded ahead."""
_MAX_CRASHES = 10
"""Maximum number of consecutive videos that may end the decoding process."""


@dataclass(frozen=True)
class BuildReport:
    """Result of a build: the number of videos in the dataset, and the reasons of the skipped ones, by name."""

    num_videos: int
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _CheckedVideo:
    video: CaptionedVideo
    facts: VideoFacts


_VideoCheck = Callable[[Path], VideoFacts | str]


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

    Every video is decoded once, from its first to its last frame. Files and table rows that cannot be used are left
    out. They are counted on stderr, with the first names for each reason, and all are listed in the dataset's
    `left_out.tsv`. The video files are stored unchanged.

    Args:
        videos: folder of videos, see `show1_jax.data.building.listing`.
        out: the dataset's folder; it appears when everything is written. It may be in a bucket.
        captions: a table, see `show1_jax.data.building.captions`; None: `name.txt` beside `name.mp4`.
        min_seconds: minimum duration; shorter videos are left out.
        num_workers: processes that decode; 0: threads of this process.
        overwrite: replace an existing dataset.

    Raises:
        UserError: the folder, the table, `out` or the disk cannot be used, or no video can. `out` is then unchanged.
    """
    _check_target(out, videos, captions, overwrite)
    with new_data_folder(out) as folder, open(folder / LEFT_OUT, "w", encoding="utf-8") as file:
        _check_owner(folder)
        left_out = LeftOut(file)
        made = [folder] if isinstance(out, BucketPath) else [out, folder]
        listed = list_videos(videos, captions, left_out, skip=made)
        for line in left_out.summary():
            print(line, file=sys.stderr)
        checked, skipped = _check_videos(listed, min_seconds, num_workers)
        if not checked:
            raise UserError(f"no video of {videos} can be used; the lines above say why")
        for name, reason in skipped.items():
            left_out.skip(name, reason)
        check_space(out, sum(entry.facts.num_bytes for entry in checked))
        _write_dataset(checked, folder)
    others = f"; all {left_out.count} that are left out are named in {out / LEFT_OUT}" if left_out.count else ""
    print(f"{out}: {len(checked)} videos, {len(skipped)} skipped{others}", file=sys.stderr)
    return BuildReport(len(checked), skipped)


def _check_videos(
    videos: Sequence[CaptionedVideo], min_seconds: float, num_workers: int
) -> tuple[list[_CheckedVideo], dict[str, str]]:
    """Return the videos that can be used, and the reasons of the others by name, which are printed at once."""
    checked, skipped = [], {}
    check = partial(_check_video, min_seconds)
    with Bar("decoding", len(videos), unit=" videos") as bar:
        for video, facts in zip(
            videos, _check_ahead(check, [video.path for video in videos], num_workers), strict=True
        ):
            if isinstance(facts, VideoFacts):
                checked.append(_CheckedVideo(video, facts))
            else:
                skipped[video.name] = facts
                say(f"skipped {video.name}: {facts}")
            bar.update()
    return checked, skipped


def _check_ahead(check: _VideoCheck, paths: Sequence[Path], num_workers: int) -> Iterator[VideoFacts | str]:
    """Yield the result of each video, in order.

    After the death of a process that decodes, the videos in progress are decoded one at a time, to find the one that
    caused it.
    """
    done = 0
    while done < len(paths):
        try:
            with pool(num_workers, threads=os.cpu_count() or 1) as executor:
                for result in map_in_order(executor, check, paths[done:], _AHEAD):
                    yield result
                    done += 1
        except BrokenProcessPool:
            for result in _check_sequentially(check, paths[done : done + _AHEAD + 1]):
                yield result
                done += 1


def _check_sequentially(check: _VideoCheck, paths: Sequence[Path]) -> Iterator[VideoFacts | str]:
    done = crashes = 0
    while done < len(paths):
        try:
            with pool(1, threads=0) as executor:
                for path in paths[done:]:
                    yield executor.submit(check, path).result()
                    done, crashes = done + 1, 0
        except BrokenProcessPool:
            done, crashes = done + 1, crashes + 1
            if crashes == _MAX_CRASHES:
                raise UserError(
                    f"{crashes} videos in a row end the process that decodes them, the last "
                    f"{paths[done - 1]}; give it more memory, or decode in threads with --num_workers 0"
                ) from None
            yield "decoding it ends the process: the decoder crashes, or the memory is too small"


def _check_video(min_seconds: float, path: Path) -> VideoFacts | str:
    """Return a video's properties, or the reason why it cannot be used."""
    try:
        facts = check_file(path)
    except VideoError as error:
        return short_line(str(error))
    except Exception as error:  # PyAV raises errors of many types for an unexpected codec or file
        return f"it cannot be decoded: {type(error).__name__}: {short_line(str(error))}"
    if facts.duration < min_seconds:
        return f"it lasts {facts.duration:.3g} s, less than {min_seconds:g} s"
    return facts


class _OwnInfo(tfds.core.DatasetInfo):
    """The description of a dataset that is not among those that TFDS has in its bucket."""

    def initialize_from_bucket(self) -> None:
        """Ask for nothing; TFDS would look for the dataset in its bucket, and leave an empty temporary folder."""


class CaptionedVideos(tfds.core.ShardBasedBuilder):
    """A TFDS builder of encoded videos with their captions, in shards of about `SHARD_BYTES`."""

    VERSION = tfds.core.Version(VERSION)
    name = DATASET
    # TFDS 4.9.10 finds the path with importlib_resources, which it does not install.
    code_path = Path(__file__)

    def __init__(self, checked: Sequence[_CheckedVideo], bar: Bar, **options: Any):
        self._checked = checked
        self._bar = bar
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        metadata = {
            "sha256": _dataset_sha256(self._checked),
            "shortest_seconds": min(entry.facts.duration for entry in self._checked),
        }
        return _OwnInfo(
            builder=self,
            description="Captioned videos, built by show1_jax.",
            features=features(),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> Mapping[str, Sequence[Any]]:
        return {SPLIT: [partial(_read_examples, shard, self._bar) for shard in _split_into_shards(self._checked)]}


def _split_into_shards(checked: Sequence[_CheckedVideo]) -> list[list[_CheckedVideo]]:
    """Return groups of consecutive videos, each of about `SHARD_BYTES`."""
    shards: list[list[_CheckedVideo]] = []
    filled = SHARD_BYTES
    for entry in checked:
        if filled >= SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.facts.num_bytes
    return shards


def _read_examples(shard: Sequence[_CheckedVideo], bar: Bar) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in shard:
        video, facts = entry.video, entry.facts
        try:
            data = read_bounded(video.path, MAX_VIDEO_BYTES)
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


def _dataset_sha256(checked: Sequence[_CheckedVideo]) -> str:
    """Return a hash of the names, captions and files, in order."""
    digest = hashlib.sha256()
    for entry in checked:
        digest.update(repr((entry.video.name, entry.video.caption, entry.facts.sha256)).encode())
    return digest.hexdigest()


def _write_dataset(checked: Sequence[_CheckedVideo], folder: Path) -> None:
    """Run the builder without its output on stdout, which names a folder that is renamed later."""
    work = folder / "building"
    with Bar("writing", len(checked), unit=" videos") as bar, contextlib.redirect_stdout(io.StringIO()):
        builder = CaptionedVideos(checked, bar, data_dir=work)
        builder.download_and_prepare()
    for path in list(Path(builder.data_dir).iterdir()):
        os.rename(path, folder / path.name)
    shutil.rmtree(work)


def _check_owner(folder: Path) -> None:
    """Refuse a new folder whose owner or group has no name; TFDS would ask for both after all videos are decoded."""
    try:
        folder.owner()
        folder.group()
    except KeyError as error:
        raise UserError(
            f"the owner of new files has no name, and TFDS needs one ({error.args[0]}); add it to /etc/passwd and "
            "/etc/group, or build as another user"
        ) from None


def _check_target(out: Path, videos: Path, captions: Path | None, overwrite: bool) -> None:
    check_data_target(out, "dataset of show1_jax", is_dataset, overwrite=overwrite)
    if isinstance(out, BucketPath) or not out.exists():
        return
    other = next((path.name for path in out.iterdir() if not is_of_dataset(path.name)), None)
    for path in filter(None, (videos, captions)):
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
            raise UserError(f"{path} is in {out}, which would be replaced; choose another place with --out")
    if other:
        raise UserError(
            f"{out} holds {short_line(other)}, which `build` did not write, so it is not overwritten; move it"
        )
