"""Jobs: the requests of the page's users, with their progress."""

import dataclasses
import secrets
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from show1_jax.cascade.prompts import slug
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.config.sampling import Stage
from show1_jax.sampling.progress import Observer
from show1_jax.web.estimate import Meter, Pace, stage_work
from show1_jax.web.requests import Task

State = Literal["waiting", "running", "done", "stopped", "failed"]
_ENDED: Final = ("done", "stopped", "failed")


class StopSampling(Exception):  # noqa: N818 - no error
    """Raised in a callback of sampling, to end it."""


@dataclasses.dataclass(frozen=True)
class VideoView:
    """A video of a request: the name of its run directory, its prompt and seed, and its finished stages."""

    name: str
    prompt: str
    seed: int
    stages: tuple[Stage, ...] = ()


@dataclasses.dataclass(frozen=True)
class JobView:
    """The state of a request at one moment.

    Attributes:
        state: waiting, running, or how it ended.
        stages: the stages that run, with their shares of the work.
        videos: the videos, with the stages that are finished.
        groups: numbers of videos that are sampled together stage by stage, in their order; empty: not known yet.
        place: 1 for the next one of those that wait; 0: it does not wait.
        stopping: it was told to stop, and ends after the step that runs.
        stage: the stage that runs; None before the first.
        step: number of finished steps of the stage; 0 while networks are loaded and compiled.
        steps: number of all steps of the stage; 0 if it is not known yet.
        share: share of the whole work that is done, 0 to 1.
        seconds_left: expected seconds until the end; None: unknown.
        made_before: the videos were there already, and nothing was sampled.
        problem: line that says why it failed.
    """

    state: State
    stages: tuple[tuple[Stage, float], ...]
    videos: tuple[VideoView, ...]
    groups: tuple[int, ...] = ()
    place: int = 0
    stopping: bool = False
    stage: Stage | None = None
    step: int = 0
    steps: int = 0
    share: float = 0.0
    seconds_left: float | None = None
    made_before: bool = False
    problem: str | None = None

    @property
    def has_ended(self) -> bool:
        """True if nothing will change any more."""
        return self.state in _ENDED


class Job(Observer):
    """A request and its progress; a thread samples it, others look at it and stop it.

    Attributes:
        id: name that cannot be guessed.
        task: the work.
    """

    shows_bars = False

    def __init__(self, task: Task, pace: Pace):
        self.id, self.task = secrets.token_urlsafe(16), task
        self._pace = pace
        self._lock = threading.RLock()
        self._is_stopped = False
        self._meter: Meter | None = None
        request = task.request
        videos = []
        for prompt in request.prompts:
            assert prompt.seed is not None
            videos.append(VideoView(slug(prompt.text, prompt.seed), prompt.text, prompt.seed, request.kept))
        even = 1 / len(request.stages)
        self._rounds: list[list[str]] = []
        self._view = JobView("waiting", tuple((stage, even) for stage in request.stages), tuple(videos))

    def view(self) -> JobView:
        """Return the state."""
        with self._lock:
            if self._view.state != "running" or self._meter is None:
                return self._view
            return dataclasses.replace(self._view, seconds_left=self._meter.seconds_left())

    def stop(self) -> None:
        """Let the sampling end after the step that runs."""
        with self._lock:
            self._is_stopped = True
            if not self._view.has_ended:
                self._change(stopping=True)

    def start(self, spec: CascadeSpec) -> None:
        """Begin to count the work.

        Args:
            spec: spec that the task is sampled with.

        Raises:
            StopSampling: the job was stopped.
        """
        request = self.task.request
        works = stage_work(spec, request.sampled(self.task.config))
        with self._lock:
            self._meter = Meter(works, len(request.prompts), self._pace)
            costs = self._meter.costs
            total = sum(costs.values()) or 1.0
            shares = tuple((stage, costs.get(stage, 0.0) / total) for stage in request.stages)
            self._change(state="running", stages=shares, stage=request.stages[0])
        self._check()

    def end(self, state: State, problem: str | None = None) -> None:
        """Set how the request ended."""
        self._change(state=state, stopping=False, problem=problem, step=0, steps=0)

    def on_videos(self, directories: Sequence[Path], rounds: Sequence[Sequence[Path]]) -> None:
        """Count the videos that are done already."""
        self._rounds = [[path.name for path in videos] for videos in rounds]
        done = {path.name for path in directories}.difference(*self._rounds)
        for stage in self.task.request.stages if done else ():
            self._finish(done, stage)
        groups = (*([len(done)] if done else []), *map(len, self._rounds))
        self._change(made_before=not rounds, groups=groups, stage=self._next_stage())
        self._check()

    def on_step(self, directories: Sequence[Path], stage: Stage, done: int, total: int) -> None:
        """Count a step."""
        with self._lock:
            assert self._meter is not None
            self._meter.step([path.name for path in directories], stage, done, total)
            self._change(stage=stage, step=done, steps=total)
        self._check()

    def on_stage(self, directories: Sequence[Path], stage: Stage) -> None:
        """Count a stage whose files are written."""
        self._finish({path.name for path in directories}, stage)
        self._change(stage=self._next_stage(), step=0, steps=0)
        self._check()

    def _next_stage(self) -> Stage:
        """Return the stage that is sampled next, or the last one if none is."""
        finished = {video.name: video.stages for video in self._view.videos}
        stages = self.task.request.stages
        coming = (stage for names in self._rounds for stage in stages if any(stage not in finished[n] for n in names))
        return next(coming, stages[-1])

    def _finish(self, names: Collection[str], stage: Stage) -> None:
        with self._lock:
            assert self._meter is not None
            self._meter.finish(names, stage)
            self._change(
                videos=tuple(
                    dataclasses.replace(video, stages=(*video.stages, stage)) if video.name in names else video
                    for video in self._view.videos
                )
            )

    def _check(self) -> None:
        if self._is_stopped:
            raise StopSampling

    def _change(self, **values: Any) -> None:
        with self._lock:
            share = self._view.share if self._meter is None else self._meter.share()
            self._view = dataclasses.replace(self._view, share=share, **values)
