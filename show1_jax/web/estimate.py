"""The share of a request's work that is done, and the time that is left, over all of its stages and videos."""

import math
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

from show1_jax.cascade.memory import component_bytes
from show1_jax.cascade.programs import clip_shape
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE
from show1_jax.config.sampling import Stage

_ALMOST: Final = 0.99
_ENOUGH: Final = 0.1
"""Share of a stage after which its own speed is used for its estimate."""
_LATEST: Final = 0.5
"""Weight of the latest measurement of a stage in the running mean of its time."""


class StageWork(NamedTuple):
    """The work of a stage for one video.

    Attributes:
        steps: number of its steps; of a latent stage those that its strength leaves.
        operations: operations of a step, in units that are equal for all stages; a rough estimate.
    """

    steps: int
    operations: float

    @property
    def total(self) -> float:
        """Operations of all steps."""
        return self.steps * self.operations


def stage_work(spec: CascadeSpec, stages: Sequence[Stage]) -> dict[Stage, StageWork]:
    """Return the estimated work of some stages: weights x positions in all frames x branches of guidance.

    Positions are pixels, or latents; the autoencoder of a latent stage has those of the pixels once.
    """
    works = {}
    for stage in stages:
        row, config = STAGE_TABLE[stage], spec.config
        frames, height, width, _ = clip_shape(spec, stage)
        clips = row.num_clips(config) * row.num_windows(config)
        branches = 1 if config.negative_text(stage) is None else 2
        steps = max(1, len(spec.sampler(stage).timesteps))
        operations: float = component_bytes(spec, stage) * frames * height * width * clips * branches
        if row.is_latent:
            pixels = math.prod(row.size(config, config.keyframes.size)) * row.num_frames(config)
            operations += component_bytes(spec, AUTOENCODER) * pixels / steps
        works[stage] = StageWork(steps, operations)
    return works


class Pace:
    """Seconds of stages as measured so far, for estimates of the next ones."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}
        self._rates: dict[Hashable, float] = {}

    def add(self, stage: Stage, work: StageWork, seconds: float) -> None:
        """Take the seconds that a stage with some work took, without compiling."""
        key = (stage, work)
        before = self._seconds.get(key, seconds)
        self._seconds[key] = before + _LATEST * (seconds - before)
        self._rates[stage] = self._seconds[key] / max(work.total, 1)

    def seconds(self, stage: Stage, work: StageWork) -> float | None:
        """Return the expected seconds of a stage; None before anything was measured."""
        if (known := self._seconds.get((stage, work))) is not None:
            return known
        rate = self._rates.get(stage)
        if rate is None and self._rates:
            rate = statistics.median(self._rates.values())
        return None if rate is None else rate * work.total


class Meter:
    """The progress of one request: its share that is done, and the seconds that are left.

    Attributes:
        costs: each stage's part of the bar: its expected seconds, or its estimated work if one was never measured.

    Args:
        works: work of each stage for one video.
        num_videos: number of videos.
        pace: measurements, to which this request's are added.
        clock: function that returns the seconds.
    """

    def __init__(
        self,
        works: Mapping[Stage, StageWork],
        num_videos: int,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._works, self._num_videos, self._pace, self._clock = works, num_videos, pace, clock
        seconds = {stage: pace.seconds(stage, work) for stage, work in works.items()}
        # chosen once, so that the bar never goes back
        self.costs = {
            stage: works[stage].total if value is None or None in seconds.values() else value
            for stage, value in seconds.items()
        }
        self._done: dict[Stage, dict[str, float]] = {stage: {} for stage in works}
        self._running: _Running | None = None

    def step(self, videos: Collection[str], stage: Stage, done: int, total: int) -> None:
        """Count the finished steps of a stage of some videos, which are sampled together.

        The end of a stage comes only with `finish`, when its files are written.
        """
        now, share = self._clock(), done / max(total, 1)
        if self._running is None:
            self._running = _Running(stage, now, share, len(videos))
        self._running = self._running._replace(share=share)
        self._done[stage].update(dict.fromkeys(videos, min(share, _ALMOST)))

    def finish(self, videos: Collection[str], stage: Stage) -> None:
        """Count a stage of some videos as finished; measure it from its first step, since the compiler runs before."""
        if self._running is not None and self._running.first < 1:
            self._pace.add(stage, self._works[stage], self._running.seconds(self._clock(), 1.0))
        self._running = None
        if stage in self._done:  # otherwise its networks did not run
            self._done[stage].update(dict.fromkeys(videos, 1.0))

    def share(self) -> float:
        """Return the share of the work that is done, from 0 to 1."""
        total = sum(self.costs.values()) * self._num_videos
        done = sum(sum(shares.values()) * self.costs[stage] for stage, shares in self._done.items())
        return min(done / total, 1.0) if total else 0.0

    def seconds_left(self) -> float | None:
        """Return the expected seconds until the end; None while nothing is known about the speed."""
        left = 0.0
        for stage, work in self._works.items():
            seconds = self._pace.seconds(stage, work)
            running = self._running
            if running is not None and running.stage == stage and running.share - running.first > _ENOUGH:
                seconds = running.seconds(self._clock(), running.share)
            if seconds is None:
                return None
            left += seconds * (self._num_videos - sum(self._done[stage].values()))
        return max(left, 0.0)


class _Running(NamedTuple):
    """The stage that runs: time and share of its first finished step, its share now, and the number of its videos."""

    stage: Stage
    start: float
    first: float
    num_videos: int
    share: float = 0.0

    def seconds(self, now: float, share: float) -> float:
        """Return the seconds of the whole stage for one video, if this share of it is finished now."""
        return (now - self.start) / (share - self.first) / self.num_videos
