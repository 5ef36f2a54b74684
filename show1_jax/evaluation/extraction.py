"""Features of all clips of a set of videos: decoded in threads, computed in batches on all devices, saved in shards.

Each process decodes and computes the videos of its share of the shards, with a batch that is sharded over its own
devices: processes do not wait for each other, so one with long videos does not stop the rest. A process holds a few
batches in memory, however many videos there are.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.data.pools import map_in_order, pool
from show1_jax.errors import UserError
from show1_jax.evaluation.feature_files import FeatureFiles, Shard
from show1_jax.evaluation.features.network import FeatureNetwork, Prepare
from show1_jax.evaluation.metrics.metric import ClipFeatures
from show1_jax.evaluation.report import versions
from show1_jax.evaluation.videos.clips import ClipRule, read_clips
from show1_jax.evaluation.videos.listing import Video, reason
from show1_jax.evaluation.videos.video_set import VideoSet
from show1_jax.parallel import (
    MeshConfig,
    from_all_processes,
    from_first_process,
    gather,
    is_first_process,
    make_mesh,
    put_batch,
)
from show1_jax.progress import Bar, say
from show1_jax.runtime import exact_float32, memory_errors, network_program

DTYPE: Final = jnp.float32
CLIPS_PER_DEVICE: Final = 4
_AHEAD: Final = 2
"""Batches of videos that are decoded ahead."""
_DECISIVE_PACKAGES: Final = ("show1-jax", "av", "pillow")
"""Packages whose versions decide the pixels and the rules; those of JAX change features by rounding alone."""
_SMALLER: Final = "use a smaller --batch_size"

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ExtractionOptions:
    """Options that change the speed, not the features.

    Attributes:
        batch_size: clips that a process computes at once, rounded up to a multiple of its devices; None: 4 a device.
        num_workers: threads that decode; None: one for each CPU.
        max_unreadable: largest share of videos that may be unreadable.
    """

    batch_size: int | None = None
    num_workers: int | None = None
    max_unreadable: float = 0.01


class _ClipInputs(NamedTuple):
    """A clip: the number of its video, and the network's inputs, without a batch axis."""

    video: int
    inputs: Inputs


class _Prepared(NamedTuple):
    """A video: its number, the inputs of its clips, and the reason why it cannot be read, or ""."""

    video: int
    clips: list[Inputs]
    problem: str


class Extractor:
    """A network on the devices of this process, ready to compute features.

    Attributes:
        network: its row.
        options: the chosen options of the network.
        digest: hash of the network's weights and architecture, or "" if it has none.
    """

    def __init__(self, network: FeatureNetwork, checkpoints: CheckpointSet, options: Mapping[str, str]):
        """Read the record of the network; its weights are loaded when they are first needed.

        Raises:
            UserError: the checkpoints do not contain the network.
        """
        self.network = network
        self.options = dict(options)
        self.digest = ""
        self._checkpoints = checkpoints
        self._mesh = make_mesh(MeshConfig(), jax.local_devices())
        self._loaded: LoadedNetwork | None = None
        self._prepare: Prepare | None = None
        if network.has_weights:
            checkpoints.check_sizes([network.kind])
            self.digest = checkpoints.manifest.digest(network.kind)

    def settings(self) -> dict[str, Any]:
        """Return everything about the network that decides the features, JSON."""
        return {
            "kind": self.network.kind,
            "weights": self.digest,
            "dtype": jnp.dtype(DTYPE).name,
            **(self.network.describe(self._checkpoints) if self.network.describe else {}),
            **self.network.settings,
            **self.options,
        }

    def provenance(self) -> dict[str, Any]:
        """Return the origin of the weights, with the hash of the published file, as the checkpoint records it."""
        return dict(self._checkpoints.component(self.network.kind).provenance) if self.digest else {}

    def load(self) -> None:
        """Load the weights and the preparation of clips, once. All processes must call it at the same point.

        Raises:
            UserError: the weights are damaged, or the devices' memory is too small.
        """
        if self._prepare is not None:
            return
        if self.network.has_weights:
            with memory_errors("use devices with more memory"):
                self._loaded = self._checkpoints.load(self.network.kind, self._mesh, DTYPE)
        self._prepare = self.network.prepare(self._checkpoints, self.options)

    def prepare(self, clip: np.ndarray, caption: str) -> Inputs:
        """Return the inputs of a clip; see `FeatureNetwork`. It may run in threads."""
        assert self._prepare is not None
        return self._prepare(clip, caption)

    def batch_size(self, asked: int | None) -> int:
        """Return the clips of a batch: a multiple of the number of this process's devices."""
        devices = self._mesh.size
        return devices * (CLIPS_PER_DEVICE if asked is None else -(-asked // devices))

    def compute(self, clips: Sequence[Inputs], batch_size: int) -> Array:
        """Return the features of a batch, which is filled up with its last clip; the devices may still compute.

        Raises:
            UserError: the devices' memory is too small.
        """
        padded = [*clips, *[clips[-1]] * (batch_size - len(clips))]
        stacked = {name: np.stack([of_clip[name] for of_clip in padded]) for name in clips[0]}
        graph, weights = (None, {}) if self._loaded is None else (self._loaded.graph, self._loaded.weights)
        with memory_errors(_SMALLER), exact_float32(DTYPE):
            batch = {name: put_batch(values, self._mesh) for name, values in stacked.items()}
            return network_program(_features, self._mesh, self.network.features, graph)(weights, batch)

    def values(self, features: Array) -> Float[np.ndarray, "b rows width"]:
        """Wait for the features of a batch and return them, or refuse values that are not finite.

        Raises:
            UserError: a feature is NaN or infinite, or the devices' memory is too small.
        """
        with memory_errors(_SMALLER):
            values = gather(features, self._mesh)
        if not np.isfinite(values).all():
            raise UserError(
                f"{self.network.kind} gave values that are NaN or infinite; check the weights with `python -m convert "
                "verify CHECKPOINT`"
            )
        return values


def _features(compute: Any, graph: Any, weights: Any, batch: Mapping[str, Array]) -> Float[Array, "b rows width"]:
    module = None if graph is None else nnx.merge(graph, weights)
    return compute(module, batch).astype(jnp.float32)


def extract(
    videos: VideoSet, rule: ClipRule, extractor: Extractor, folder: Path, name: str, options: ExtractionOptions
) -> FeatureFiles:
    """Compute the features of a set of videos that are not saved yet. All processes must call it at the same point.

    Args:
        videos: the videos.
        rule: choice of the clips.
        extractor: the network.
        folder: parent folder of saved features.
        name: name of the set for the progress bar.
        options: batch and threads.

    Returns:
        The saved features.

    Raises:
        UserError: too many videos are unreadable, or a process has failed; all processes raise it.
    """
    used = versions()
    settings = {
        "features": extractor.settings(),
        "clips": rule.settings(),
        "videos": videos.digest,
        "versions": {package: used[package] for package in _DECISIVE_PACKAGES},
    }
    if videos.captions:
        settings["captions"] = videos.captions_digest
    files = FeatureFiles.of(folder, settings, len(videos.videos))

    def begin() -> list[int]:
        missing = files.missing()
        files.write_settings()
        return missing

    missing = from_first_process(begin)
    if missing:
        _say_how_many_are_saved(files, missing, name)
        extractor.load()
    own, problem = missing[jax.process_index() :: jax.process_count()], ""
    try:
        if own:
            _Run(videos, rule, extractor, files, options).run(own, name)
    except UserError as error:
        problem = str(error)
    if failed := next(filter(None, from_all_processes(problem)), ""):
        raise UserError(failed)
    return files


def _say_how_many_are_saved(files: FeatureFiles, missing: Sequence[int], name: str) -> None:
    saved = files.num_videos - sum(len(files.videos_of(shard)) for shard in missing)
    if saved and is_first_process():
        say(f"{name}: the features of {saved} of {files.num_videos} videos are saved already")


class _Run:
    """The work of one process."""

    def __init__(
        self, videos: VideoSet, rule: ClipRule, extractor: Extractor, files: FeatureFiles, options: ExtractionOptions
    ):
        self._videos = videos
        self._rule = rule
        self._extractor = extractor
        self._files = files
        self._max_unreadable = options.max_unreadable
        self._workers = options.num_workers or os.cpu_count() or 1
        self._batch_size = extractor.batch_size(options.batch_size)
        self._num_unreadable = len(videos.unreadable)

    def run(self, shards: Sequence[int], name: str) -> None:
        """Compute and write some shards, in order."""
        numbers = [number for shard in shards for number in self._files.videos_of(shard)]
        features: dict[int, list[ClipFeatures]] = {}
        problems: dict[int, str] = {}
        waiting = deque(shards)
        bar = Bar(
            f"features of {name}",
            len(numbers),
            unit=" videos",
            waiting="compiling and computing the first batch",
            rates={" videos/s": 1},
            shown=is_first_process(),
        )
        with bar:
            for number, computed, problem in self._features_of(numbers):
                features[number] = computed
                if problem:
                    problems[number] = problem
                    self._check_unreadable(number, problem)
                if number == self._files.videos_of(waiting[0])[-1]:
                    self._write(waiting.popleft(), features, problems)
                bar.update()

    def _write(self, shard: int, features: dict[int, list[ClipFeatures]], problems: Mapping[int, str]) -> None:
        numbers = self._files.videos_of(shard)
        clips = [clip for number in numbers for clip in features.pop(number)]
        unreadable = {self._videos.videos[index].label(): problems[index] for index in numbers if index in problems}
        self._files.write(shard, Shard(clips, unreadable))

    def _check_unreadable(self, number: int, problem: str) -> None:
        self._num_unreadable += 1
        check_unreadable(
            self._num_unreadable,
            len(self._videos.videos) + len(self._videos.unreadable),
            self._max_unreadable,
            f"{self._videos.videos[number].label()} ({problem})",
            so_far=" so far",
        )

    def _features_of(self, numbers: Sequence[int]) -> Iterator[tuple[int, list[ClipFeatures], str]]:
        """Yield the features of each video's clips and its problem, in order."""
        done: dict[int, list[ClipFeatures]] = {}
        order: deque[_Prepared] = deque()
        batch: list[_ClipInputs] = []
        running: deque[tuple[list[int], Array]] = deque()

        def finish(most: int) -> None:
            """Wait until at most so many batches are running."""
            while len(running) > most:
                of_videos, features = running.popleft()
                for number, rows in zip(of_videos, self._extractor.values(features), strict=False):  # padded
                    done.setdefault(number, []).append(rows)

        def start() -> None:
            """Start the batch that has been collected, and wait for the one before it."""
            if batch:
                inputs = [clip.inputs for clip in batch]
                running.append(([clip.video for clip in batch], self._extractor.compute(inputs, self._batch_size)))
                batch.clear()
                finish(1)

        def ready() -> Iterator[tuple[int, list[ClipFeatures], str]]:
            while order and len(done.get(order[0].video, [])) == len(order[0].clips):
                video = order.popleft()
                yield video.video, done.pop(video.video, []), video.problem

        with pool(0, threads=self._workers) as executor:
            ahead = max(self._workers, _AHEAD * self._batch_size // self._rule.per_video)
            for video in map_in_order(executor, self._read, numbers, ahead):
                order.append(video)
                for inputs in video.clips:
                    if batch and _shapes(batch[0].inputs) != _shapes(inputs):
                        start()
                    batch.append(_ClipInputs(video.video, inputs))
                    if len(batch) == self._batch_size:
                        start()
                yield from ready()
            start()
            finish(0)
            yield from ready()

    def _read(self, number: int) -> _Prepared:
        """Read a video. What is no property of the hashed files ends the work, so that it is not saved as one.

        Raises:
            UserError: memory or a disk failed, or the video was changed after it was hashed.
        """
        video = self._videos.videos[number]
        try:
            prepared = self._prepared(number)
            is_changed = video.stamps() != self._videos.stamps[number]
        except (MemoryError, OSError) as error:
            raise UserError(
                f"{video.label()} cannot be read now ({reason(error)}); run the command again, which continues"
            ) from error
        if is_changed:
            raise UserError(
                f"{video.label()} was changed while it was scored; run the command again when nothing writes there"
            )
        return prepared

    def _prepared(self, number: int) -> _Prepared:
        video: Video = self._videos.videos[number]
        caption = self._videos.captions[number] if self._videos.captions else ""
        try:
            clips = read_clips(video.frames, self._rule, video.name)
            return _Prepared(number, [self._extractor.prepare(clip, caption) for clip in clips], "")
        except (MemoryError, OSError):
            raise
        except Exception as error:  # decoders raise errors of many types for damaged files
            return _Prepared(number, [], reason(error))


def check_unreadable(num_unreadable: int, num_videos: int, most: float, first: str, so_far: str = "") -> None:
    """Refuse a set of videos of which too large a share is unreadable.

    Args:
        num_unreadable: number of unreadable videos.
        num_videos: number of all videos of the set.
        most: the largest share of them that is accepted.
        first: one of them, with the reason.
        so_far: text for the line if there may be more.

    Raises:
        UserError: more than the share `most` is; the line names the first.
    """
    if num_unreadable > most * num_videos:
        raise UserError(
            f"{num_unreadable} of {num_videos} videos cannot be scored{so_far}, such as {first}: more than the share "
            f"of {most:g} that --max_unreadable allows; repair or remove them, or raise it"
        )


def _shapes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in inputs.items()}
