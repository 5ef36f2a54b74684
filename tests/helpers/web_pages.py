"""Doubles for the page: a cascade that draws, and pages that are served in this process."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from show1_jax.cascade.batches import VideoBatch
from show1_jax.cascade.cascade import Cascade
from show1_jax.cascade.prompts import Prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import STAGE_TABLE, runs_networks
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.manifest import Manifest
from show1_jax.cli import load_config
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.data.synthetic.nearest import nearest_sentence
from show1_jax.data.synthetic.world import parse_sentence, place, render
from show1_jax.media.frames import from_uint8
from show1_jax.sampling.job import OpenedWeights, sample_videos
from show1_jax.sampling.progress import Observer
from show1_jax.web.guard import Credentials
from show1_jax.web.requests import Limits, Task
from show1_jax.web.server import address_of, bind, serving

ROOT = Path(__file__).parents[2]
PROMPT = "a red circle moves right"
SHORT = (
    "--config.keyframes.num_frames=3",
    "--config.interpolation.num_between=1",
    *(f"--config.{stage}.num_steps=2" for stage in STAGES),
    "--config.superres_latent.strength=1.0",
)
"""Overrides of the demo's config: 5 frames, and two steps a stage."""


def settings(out: Path, *overrides: str) -> Config:
    """Return the demo's settings with few and small frames, two steps a stage, and an output directory."""
    config = load_config(ROOT / "configs" / "demo.py", [*SHORT, "--config.compilation_cache=", *overrides])
    return dataclasses.replace(config, out=str(out))


def manifest_of(config: Config) -> Manifest:
    """Return the manifest of a config's checkpoint."""
    return CheckpointSet.open(config.checkpoint).manifest


class DrawnCascade(Cascade):
    """A cascade without networks, which draws the prompts, each differently for every seed."""

    wait: Callable[[Stage, int], None]

    def sample_batches(self, batches: Sequence[VideoBatch], **options: Any) -> None:
        """Draw batches as `Cascade.sample_batches` samples them; `wait` is called before every step."""
        stages = [stage for stage in STAGES if stage in options["stages"]]
        for stage in stages:
            for number, batch in enumerate(batches):
                steps = len(self.spec.sampler(stage).timesteps)
                runs = runs_networks(stage, self.spec.config, options["edit"], has_image=batch.image is not None)
                for step in range(1, steps + 1) if runs else ():
                    self.wait(stage, step)
                    options["on_step"](number, stage, step, steps)
                videos = [drawn(self.spec.config, stage, prompt) for prompt in batch.prompts]  # type: ignore[arg-type]
                options["on_stage"](number, stage, np.stack(videos))

    def with_config(self, config: Any) -> "DrawnCascade":
        """Return a double with other settings."""
        cascade = super().with_config(config)
        assert isinstance(cascade, DrawnCascade)
        cascade.wait = self.wait
        return cascade


def drawn(config: Any, stage: Stage, prompt: Prompt) -> np.ndarray:
    """Return the result of a stage for a prompt, as `DrawnCascade` draws it."""
    row = STAGE_TABLE[stage]
    assert prompt.seed is not None
    scene = place(parse_sentence(nearest_sentence(prompt.text)), prompt.seed)
    times = np.linspace(0, 3.5, row.num_frames(config))
    return from_uint8(render(scene, times, *row.size(config, config.keyframes.size)))


class DrawnSampler:
    """A double of the cascade as the worker uses it: everything but the networks is real.

    Attributes:
        samples: tasks that were begun, with the threads that did it.
        gate: the steps wait while it is cleared.
        hold: stage whose steps wait; None: those of all stages.
        begun: stage and number of the step that was begun last; None before the first.
        steps: steps that were finished.
    """

    def __init__(self, config: Config):
        self.checkpoints = CheckpointSet.open(config.checkpoint)
        spec = CascadeSpec.of(config, self.checkpoints.manifest, jax.devices()[:1])
        self.cascade = DrawnCascade(spec, self.checkpoints.load, self.checkpoints.tokenizer)
        self.cascade.wait = self._wait
        self.gate = threading.Event()
        self.gate.set()
        self.begun: tuple[Stage, int] | None = None
        self.hold: Stage | None = None
        self.samples: list[tuple[Task, str]] = []
        self.steps: list[tuple[Stage, int]] = []
        self.is_closed = False

    def prepare(self, on_part: Callable[[str], None]) -> None:
        """Load nothing."""
        on_part("text_t5")

    def spec(self, task: Task) -> CascadeSpec:
        """Return the spec of a task."""
        return self.cascade.with_config(task.request.settings(task.config)).spec

    def sample(self, task: Task, observer: Observer) -> None:
        """Draw the videos of a task."""
        self.samples.append((task, threading.current_thread().name))
        sample_videos(task.config, task.request, OpenedWeights(self.checkpoints, (), self.cascade), observer)

    def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True

    def _wait(self, stage: Stage, step: int) -> None:
        self.begun = stage, step
        assert self.hold not in (None, stage) or self.gate.wait(120)
        self.steps.append((stage, step))


@contextlib.contextmanager
def served(
    config: Config, sampler: DrawnSampler, credentials: Credentials | None = None, limits: Limits | None = None
) -> Iterator[str]:
    """Serve a page in threads of this process while the block lasts; yields its address."""
    listener = bind("127.0.0.1", None)
    address = address_of(listener)
    options: dict[str, Any] = {"credentials": credentials, "limits": limits or Limits()}
    with serving(config, manifest_of(config), sampler, listener, **options):
        try:
            yield address
        finally:
            sampler.gate.set()  # a test that failed may have left it cleared
