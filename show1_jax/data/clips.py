"""Batches of clips of built videos, of the user's files or of the synthetic world, in an order of the seed alone.

Element e of training is the clip in row e % batch_size of global batch e // batch_size. The video, start and crop of
that clip are functions of (seed, e). So global batch n is the same on any number of processes and workers, and the
iterator's state is the number of its next batch.

Grain reads the clips of both sources. The synthetic world requires neither PyAV nor TFDS.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from show1_jax.config.training import DataConfig
from show1_jax.data.failures import Failures, VideoError
from show1_jax.data.order import Order, uniform
from show1_jax.data.pools import end_with_parent, map_in_order, pool
from show1_jax.data.spec import ClipDraw, ClipSource, ClipSpec
from show1_jax.data.synthetic import world as synthetic
from show1_jax.data.transfer.download import local_copy
from show1_jax.errors import UserError
from show1_jax.files import storage_path

BATCHES_AHEAD = 2
"""Batches of a process's rows that are read ahead."""
MAX_ATTEMPTS = 20
"""Maximum number of clips that are tried for one element."""


class ClipBatch(NamedTuple):
    """A process's rows of a global batch."""

    video: UInt8[np.ndarray, "rows time height width 3"]
    captions: list[str]


class ValidationBatch(NamedTuple):
    """A process's rows of a global validation batch; means are over the valid rows of all processes."""

    video: UInt8[np.ndarray, "rows time height width 3"]
    captions: list[str]
    valid: Bool[np.ndarray, " rows"]


@dataclass(frozen=True)
class SyntheticSource:
    """Scenes of the synthetic world; clips start at multiples of 1 / fps."""

    world: synthetic.SyntheticWorld

    def __len__(self) -> int:
        return len(self.world)

    def clip(self, position: int, spec: ClipSpec, draw: ClipDraw) -> tuple[UInt8[np.ndarray, "t h w 3"], str]:
        """Return a clip of a scene, uint8 RGB, and its caption."""
        num_starts = int((synthetic.DURATION - spec.seconds) * spec.fps + 1e-6) + 1
        start = int(draw.start * num_starts) / spec.fps
        video = self.world.clip(position, spec.num_frames, spec.fps, spec.height, spec.width, start)
        return video, self.world.caption(position)

    def name(self, position: int) -> str:
        """Return `scene` and its number."""
        return f"scene {position}"


class _Example(NamedTuple):
    """One element, with the (name, reason) of every clip that could not be read for it; no video if none could be."""

    video: UInt8[np.ndarray, "t h w 3"] | None
    caption: str
    failed: list[tuple[str, str]]


_ExampleStream = Generator[_Example, None, None]


@dataclass(frozen=True)
class _TrainingExamples:
    """Random access to a process's elements from batch `first_batch` on; a data source of Grain."""

    source: ClipSource
    spec: ClipSpec
    seed: int
    batch_size: int
    rows: tuple[int, ...]
    first_batch: int = 0

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> _Example:
        batch, place = divmod(int(index), len(self.rows))
        element = (self.first_batch + batch) * self.batch_size + self.rows[place]
        order = Order(len(self.source), self.seed)
        draw = ClipDraw(uniform("start", self.seed, element), uniform("crop", self.seed, element))
        failed: list[tuple[str, str]] = []
        for attempt in range(MAX_ATTEMPTS):
            position = order.replacement(element, attempt) if attempt else order.clip(element)
            try:
                return _Example(*self.source.clip(position, self.spec, draw), failed)
            except VideoError as error:
                failed.append((self.source.name(position), str(error)))
        return _Example(None, "", failed)


class ClipIterator:
    """An endless iterator over training batches.

    Attributes:
        failures: counts and names of the videos that could not be read.
        fingerprint: a hash of all that determines the order and the clips; equal hashes give equal batches.
    """

    def __init__(self, examples: _TrainingExamples, config: DataConfig, identity: dict[str, Any]):
        self._examples = examples
        self._config = config
        self._next_batch = 0
        self._stream: _ExampleStream | None = None
        self.failures = Failures(config.max_failed_share)
        self.fingerprint = _fingerprint(identity | {"seed": config.seed, "spec": dataclasses.asdict(examples.spec)})

    def __iter__(self) -> "ClipIterator":
        return self

    def __next__(self) -> ClipBatch:
        """Return the rows of the next batch.

        A row for which no clip can be read is black, and the next `check` raises.
        """
        if self._stream is None:
            from_here = dataclasses.replace(self._examples, first_batch=self._next_batch)
            self._stream = _read_ahead(from_here, self._config.num_workers)
        read = [next(self._stream) for _ in self._examples.rows]
        self._next_batch += 1
        num_good = sum(example.video is not None for example in read)
        self.failures.count((failure for example in read for failure in example.failed), num_good)
        if num_good < len(read):
            self.failures.fatal_problem = f"{MAX_ATTEMPTS} videos in a row cannot be read; build the dataset again"
        return ClipBatch(_stack(read, self._examples.spec), [example.caption for example in read])

    def check(self) -> None:
        """Stop all processes if one of them cannot read its clips, or if too many clips failed in all of them together.

        Every process calls it at the same point, before it saves a state that depends on these batches.

        Raises:
            UserError: a share of clips above `max_failed_share` cannot be read, or `MAX_ATTEMPTS` clips for one row.
        """
        self.failures.check()

    def get_state(self) -> dict[str, Any]:
        """Return the exact position for JSON, without batches read ahead; after `check` equal in every process."""
        return {"next_batch": self._next_batch, "failures": self.failures.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a `get_state` of a job with any number of processes and workers."""
        self.close()
        self._next_batch = state["next_batch"]
        self.failures.set_state(state["failures"])

    def close(self) -> None:
        """Stop reading ahead and end the workers."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@dataclass(frozen=True)
class ValidationClips:
    """Batches of validation clips, taken from the middle of their videos; every iteration gives the same batches.

    The last batch is filled up with clips that are not valid. A clip that cannot be read is black and not valid.
    """

    source: ClipSource
    spec: ClipSpec
    batch_size: int
    rows: tuple[int, ...]
    failures: Failures = dataclasses.field(default_factory=lambda: Failures(max_share=1.0))

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[ValidationBatch]:
        elements = [batch * self.batch_size + row for batch in range(len(self)) for row in self.rows]
        with pool(0, threads=_num_threads()) as executor:
            read = map_in_order(executor, self._example, elements, BATCHES_AHEAD * len(self.rows))
            for start in range(0, len(elements), len(self.rows)):
                batch = [next(read) for _ in self.rows]
                self.failures.count((failure for example in batch for failure in example.failed), 0)
                valid = [
                    element < len(self.source) and example.video is not None
                    for element, example in zip(elements[start:], batch, strict=False)
                ]
                yield ValidationBatch(
                    _stack(batch, self.spec),
                    [example.caption for example in batch],
                    np.array(valid),
                )

    def _example(self, element: int) -> _Example:
        position = element % len(self.source)
        try:
            return _Example(*self.source.clip(position, self.spec, ClipDraw(0.5, 0.5)), [])
        except VideoError as error:
            return _Example(None, "", [(self.source.name(position), str(error))])


class Sources(NamedTuple):
    """The clips of a config's data.

    Attributes:
        training: clips to train on.
        validation: the `num_validation` clips that training does not use.
        identity: values that identify the data.
    """

    training: ClipSource
    validation: ClipSource
    identity: dict[str, Any]


def training_clips(
    config: DataConfig,
    spec: ClipSpec,
    *,
    batch_size: int,
    rows: Sequence[int],
    sources: Sources | None = None,
) -> ClipIterator:
    """Return an iterator over training batches that starts at the first one.

    Args:
        config: settings of the data and of the way it is read.
        spec: size of the clips.
        batch_size: size of the global batch.
        rows: rows of the global batch that this process reads.
        sources: the clips of `open_sources`; None: they are opened here, at their own speed.

    Raises:
        UserError: see `open_sources`; or the data are too small for a batch.
    """
    source, _, identity = sources or open_sources(config, spec)
    if len(source) < batch_size and config.name != "files":  # a few files, each several times in a batch
        raise UserError(
            f"{len(source)} clips are left to train on, without {config.num_validation} for validation, and a batch "
            f"is {batch_size}; give more videos, or a smaller batch_size or data.num_validation"
        )
    return ClipIterator(_TrainingExamples(source, spec, config.seed, batch_size, tuple(rows)), config, identity)


def validation_clips(
    config: DataConfig,
    spec: ClipSpec,
    *,
    batch_size: int,
    rows: Sequence[int],
    sources: Sources | None = None,
) -> ValidationClips:
    """Return the `config.num_validation` clips that training does not use; of built videos, the same for every seed.

    Arguments and errors are those of `training_clips`. A batch may be larger than the split.
    """
    _, source, _ = sources or open_sources(config, spec)
    return ValidationClips(source, spec, batch_size, tuple(rows))


def open_sources(config: DataConfig, spec: ClipSpec, video_seconds: float | None = None) -> Sources:
    """Open the clips of a config, for training and for validation; files of the user are read, each once.

    Args:
        config: settings of the data.
        spec: size of the clips.
        video_seconds: seconds from the first frame to the last of the videos that the cascade makes, which the user's
            files are stretched to; None: those of a clip.

    Raises:
        UserError: the dataset does not exist, was not written by `build`, is empty, or has videos that are too short
            for the clip; or a file of the user cannot be used.
    """
    if config.name == "files":
        return _open_files(config, spec, spec.seconds if video_seconds is None else video_seconds)
    if config.name == "synthetic":
        _check_seconds(spec, synthetic.DURATION, "the synthetic world's")
        make_world = functools.partial(
            synthetic.SyntheticWorld, pairs=config.pairs, same_color=config.same_color, spread=config.spread
        )
        world = make_world(config.num_synthetic, config.seed)
        first = config.num_synthetic
        held_back = make_world(config.num_validation, config.seed, first=first)
        identity: dict[str, Any] = {"name": "synthetic", "num_scenes": first, "num_validation": config.num_validation}
        for name in ("pairs", "same_color", "spread"):
            if getattr(config, name) != getattr(DataConfig(), name):  # so that older runs can resume
                identity[name] = getattr(config, name)
        return Sources(SyntheticSource(world), SyntheticSource(held_back), identity)
    from show1_jax.data.videos import VideoSource

    videos = VideoSource.open(local_copy(storage_path(config.path), config.local_copies))
    _check_seconds(spec, videos.shortest_seconds, f"the shortest video of {config.path}")
    if len(videos) < config.num_validation:
        raise UserError(
            f"{config.path} has {len(videos)} videos, fewer than data.num_validation={config.num_validation}; "
            "give more videos or make that smaller"
        )
    identity = {"name": "videos", "sha256": videos.sha256, "num_validation": config.num_validation}
    split = config.num_validation
    return Sources(videos.part(slice(split, None)), videos.part(slice(split)), identity)


def _open_files(config: DataConfig, spec: ClipSpec, seconds: float) -> Sources:
    from show1_jax.data.clip_files import ClipFiles, PictureMoves

    moves = PictureMoves(config.pan, config.zoom, config.jitter)
    files = ClipFiles.open(storage_path(config.path), config.caption, spec, seconds, moves)
    if len(files) <= config.num_validation:
        raise UserError(
            f"{config.path} has {len(files)} files, too few for data.num_validation={config.num_validation} and "
            "training; make that smaller, or 0"
        )
    identity = {"name": "files", "sha256": files.sha256, "num_validation": config.num_validation, "pan": config.pan}
    identity |= {name: share for name, share in moves._asdict().items() if share}  # so that older runs can resume
    split = config.num_validation
    return Sources(files.part(slice(split, None)), files.part(slice(split)), identity)


def _check_seconds(spec: ClipSpec, seconds: float, whose: str) -> None:
    if spec.seconds > seconds + 1e-6:
        raise UserError(
            f"{spec.num_frames} frames at {spec.fps:g} fps span {spec.seconds:.3g} s, and {whose} lasts "
            f"{seconds:.3g} s; build the dataset with --min_seconds {spec.seconds:.3g}, or train on fewer frames"
        )


def _stack(examples: Sequence[_Example], spec: ClipSpec) -> UInt8[np.ndarray, "rows time height width 3"]:
    black = np.zeros((spec.num_frames, spec.height, spec.width, 3), np.uint8)
    return np.stack([black if example.video is None else example.video for example in examples])


def _fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _num_threads() -> int:
    return min(16, os.cpu_count() or 1)


def _read_ahead(examples: _TrainingExamples, num_workers: int) -> _ExampleStream:
    """Yield the examples in order, read ahead by Grain's threads or worker processes."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags of Grain, which have defaults
    ahead = BATCHES_AHEAD * len(examples.rows)
    num_threads, buffer = (1, 1) if num_workers else (_num_threads(), max(_num_threads(), ahead))
    dataset = grain.MapDataset.source(examples).to_iter_dataset(grain.ReadOptions(num_threads, buffer))
    if num_workers:
        workers = grain.MultiprocessingOptions(num_workers, -(-ahead // num_workers))
        dataset = dataset.mp_prefetch(workers, worker_init_fn=end_with_parent)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
