"""The training loop: evaluate, save, then draw the next batch; in this order, so that a saved step resumes exactly."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from show1_jax.config.training import DenoisingTrainingConfig, StageTrainingConfig
from show1_jax.errors import UserError
from show1_jax.parallel import is_first_process
from show1_jax.training.flops import model_flops, peak_flops
from show1_jax.training.losses import latent_std
from show1_jax.training.optimizer import learning_rate
from show1_jax.training.run.metrics import MetricsWriter
from show1_jax.training.run.progress import TrainingBar
from show1_jax.training.run.samples import write_samples
from show1_jax.training.run.stop import StopSignal
from show1_jax.training.run.training_run import TrainingRun
from show1_jax.training.step import Metrics

STOPPED = 128
"""Plus the signal's number: the exit code of a run that was asked to stop, as a shell makes it."""


@dataclass
class Window:
    """What has happened since metrics were last written.

    Attributes:
        metrics: of every step, still on the devices.
        waited: seconds for data.
        started: when the window began, or its first steps were over that say nothing of the speed.
        untimed: the number of these steps.
    """

    metrics: list[Metrics] = field(default_factory=list)
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)
    untimed: int = 0

    def start_again(self) -> None:
        """Leave the steps so far out of all speeds: the first of a run waits for the compiler."""
        jax.block_until_ready(self.metrics)
        self.waited, self.started, self.untimed = 0.0, time.monotonic(), len(self.metrics)

    def speeds(self) -> dict[str, float]:
        """Steps a second and the share of time waiting for data; nothing if no step was timed."""
        steps, seconds = len(self.metrics) - self.untimed, time.monotonic() - self.started
        return {"steps_per_second": steps / seconds, "data_wait_share": self.waited / seconds} if steps else {}

    def values(self, config: StageTrainingConfig) -> dict[str, float]:
        """Mean loss, its parts and bands, and mean norm of the gradient; waits until the steps are computed."""
        steps: list[Metrics] = jax.device_get(self.metrics)
        values = {
            "loss": float(np.mean([step.loss for step in steps])),
            "grad_norm": float(np.mean([step.grad_norm for step in steps])),
        }
        parts = {name: float(np.mean([step.parts[name] for step in steps])) for name in steps[0].parts}
        if "latent_mean_square" in parts:
            values["latent_std"] = latent_std(parts.pop("latent_mean"), parts.pop("latent_mean_square"))
        values |= {f"loss/{name}": value for name, value in parts.items()}
        if not isinstance(config, DenoisingTrainingConfig):
            return values
        sums, counts = (np.sum([step.bands[part] for step in steps if step.bands], axis=0) for part in (0, 1))
        edges = [-(-config.num_timesteps * band // config.num_bands) for band in range(config.num_bands + 1)]
        return values | {
            f"loss/timesteps_{edges[band]}-{edges[band + 1] - 1}": float(sums[band] / counts[band])
            for band in np.flatnonzero(counts).tolist()
        }


def diverged(values: Mapping[str, float]) -> bool:
    """Return whether the loss or its gradient is not finite."""
    return not all(math.isfinite(values[name]) for name in ("loss", "grad_norm"))


def divergence_error(step: int, saved_step: int | None) -> UserError:
    """Return the error of a run that diverged before a step; `saved_step` is that of its last checkpoint, if any."""
    again = "start again" if saved_step is None else f"go on from the checkpoint of step {saved_step}"
    return UserError(
        f"the loss or its gradient is not finite before step {step}; {again} with a lower learning_rate or a "
        "smaller clip_norm"
    )


class Loop:
    """Runs a `TrainingRun` to its last step.

    Args:
        run: what is trained, new or resumed.
        writer: of metrics.
        profile: the first step and the number of steps that are profiled, if any are.
    """

    def __init__(self, run: TrainingRun, writer: MetricsWriter, profile: tuple[int, int] | None = None):
        self.run, self.writer, self.profile = run, writer, profile
        plan = run.plan
        self.num_steps = plan.training.num_steps
        self.rate = learning_rate(plan.training.optimizer, self.num_steps)
        self.flops = model_flops(plan, run.model)
        self.peak = peak_flops(jax.devices()[0])
        self.frames_per_step = plan.training.batch_size * plan.spec.num_frames

    def train(self) -> None:
        """Train, and leave with everything saved.

        Raises:
            UserError: the loss is not finite, too many clips cannot be read, or the disk is full.
            SystemExit: a signal asked to stop; the state is saved.
        """
        run, start = self.run, int(self.run.state.step)
        bar = TrainingBar(self.num_steps, start, frames_per_step=self.frames_per_step, shown=is_first_process())
        with StopSignal() as stop, contextlib.closing(bar), self._closing(), self._profiler() as profile:
            window, last = Window(), None
            for step in itertools.count(start):
                signal = stop.requested(step)
                if step > start:
                    window = self._between(step, window, bar, stops=signal is not None)
                if signal is not None or step >= self.num_steps:
                    run.checkpoints.wait()
                if signal is not None:
                    said = f"saved {step} steps" if run.saved_step == step else "nothing was done yet"
                    bar.say(f"{signal.name}: {said}; the same command goes on from there")
                    raise SystemExit(STOPPED + signal)
                if step >= self.num_steps:
                    bar.say(f"{step} steps done: {run.workdir}")
                    return
                profile(step)
                last = self._step(window, last)
                if step == start:
                    window.start_again()
                bar.step_started()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the run. After an error the other processes may be elsewhere: they are not waited for."""
        try:
            yield
        except BaseException:
            self.run.close(failed=True)
            raise
        self.run.close()

    def _step(self, window: Window, last: Metrics | None) -> Metrics:
        """Draw a batch and start its step; the one before is waited for, so that batches do not pile up."""
        waiting = time.monotonic()
        batch = self.run.next_batch()
        window.waited += time.monotonic() - waiting
        metrics = self.run.train_step(batch)
        if last is not None:
            jax.block_until_ready(last)
        window.metrics.append(metrics)
        return metrics

    def _between(self, step: int, window: Window, bar: TrainingBar, *, stops: bool) -> Window:
        """What is due after so many steps: metrics, evaluation, a checkpoint, samples. A stop has no time for more."""
        config = self.run.plan.config.train

        def due(every: int) -> bool:
            return every > 0 and not stops and (step % every == 0 or step == self.num_steps)

        evaluates, samples = due(config.evaluate_every), due(config.sample_every)
        saves = due(config.save_every) or stops
        logs = due(config.log_every) or evaluates or samples or saves
        if logs:
            self._log(step, window, bar)
        if evaluates:
            self.writer.write(step, {"validation/loss": self.run.evaluate()})
        if saves:
            self.run.save(step)
        if samples:
            self.writer.images(step, {"samples": write_samples(self.run, step)})
        self.run.checkpoints.poll()
        return Window() if logs else window

    def _log(self, step: int, window: Window, bar: TrainingBar) -> None:
        """Write the metrics of a window.

        Raises:
            UserError: the loss or its gradient is not finite; nothing is saved then.
        """
        values, speeds = window.values(self.run.plan.training), window.speeds()
        self.run.clips.check()
        if diverged(values):
            self.run.checkpoints.wait()  # only a step that is there is named
            raise divergence_error(step, self.run.saved_step)
        self.run.latent_std = values.get("latent_std")
        values["learning_rate"] = float(self.rate(step - 1))
        values["failed_clips"] = self.run.clips.failures.num_failed
        values |= speeds | self._throughput(speeds.get("steps_per_second"))
        self.writer.write(step, values)
        bar.update(loss=values["loss"], data_wait_share=values.get("data_wait_share", 0.0))

    def _throughput(self, steps_per_second: float | None) -> dict[str, float]:
        """Frames and model operations a second; of all devices, and as a share of what they can do."""
        if steps_per_second is None:
            return {}
        flops = self.flops * steps_per_second
        values = {"frames_per_second": steps_per_second * self.frames_per_step, "model_flops_per_second": flops}
        return values | ({"model_flop_utilization": flops / self.peak / self.run.mesh.size} if self.peak else {})

    @contextlib.contextmanager
    def _profiler(self) -> Iterator[Any]:
        """Starts and stops JAX's profiler around the steps asked for."""
        running = False
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # its hooks in every thread can crash one that saves a checkpoint meanwhile

        def at(step: int) -> None:
            nonlocal running
            first, num = self.profile or (-1, 0)
            if num and step == first:
                jax.profiler.start_trace(self.run.workdir / "profile", profiler_options=options)
                running = True
            elif running and step == first + num:
                jax.profiler.stop_trace()
                running = False

        try:
            yield at
        finally:
            if running:
                jax.profiler.stop_trace()
