"""The training loop: evaluate, save, then draw the next batch. This order lets a saved step resume exactly."""

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

SIGNAL_EXIT_CODE = 128
"""Exit code of a run that a signal stopped, plus the signal's number, as in a shell."""


@dataclass
class MetricsWindow:
    """Metrics and times of the steps since metrics were last written.

    Attributes:
        metrics: metrics of every step, still on the devices.
        waited: seconds spent waiting for data.
        started: time at which the timed steps began, in seconds of `time.monotonic`.
        untimed: number of steps at the start of the window that no speed counts.
    """

    metrics: list[Metrics] = field(default_factory=list)
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)
    untimed: int = 0

    def restart_timing(self) -> None:
        """Exclude the steps so far from all speeds: the first step of a run includes compilation."""
        jax.block_until_ready(self.metrics)
        self.waited, self.started, self.untimed = 0.0, time.monotonic(), len(self.metrics)

    def speeds(self) -> dict[str, float]:
        """Return steps per second and the share of time spent waiting for data; empty if no step was timed."""
        steps, seconds = len(self.metrics) - self.untimed, time.monotonic() - self.started
        return {"steps_per_second": steps / seconds, "data_wait_share": self.waited / seconds} if steps else {}

    def values(self, config: StageTrainingConfig) -> dict[str, float]:
        """Return means of the loss, its parts, its bands and the gradient norm. Waits until all steps are computed."""
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
    """Return whether the mean loss or the gradient norm is not finite."""
    return not all(math.isfinite(values[name]) for name in ("loss", "grad_norm"))


def divergence_error(step: int, saved_step: int | None) -> UserError:
    """Return the error of a run that diverged.

    Args:
        step: the step before which a value was not finite.
        saved_step: number of the last saved step; None if there is none.
    """
    again = "start again" if saved_step is None else f"resume from the checkpoint of step {saved_step}"
    return UserError(
        f"the loss or its gradient is not finite before step {step}; {again} with a lower learning_rate or a "
        "smaller clip_norm"
    )


class Loop:
    """Runs a `TrainingRun` to its last step.

    Args:
        run: a new or resumed run.
        writer: writes metrics and images.
        stop: signals that stop the run.
        profile: the first step and the number of steps to profile; None: none.
    """

    def __init__(
        self, run: TrainingRun, writer: MetricsWriter, stop: StopSignal, profile: tuple[int, int] | None = None
    ):
        self.run, self.writer, self.stop, self.profile = run, writer, stop, profile
        plan = run.plan
        self.num_steps = plan.training.num_steps
        self.rate = learning_rate(plan.training.optimizer, self.num_steps)
        self.flops = model_flops(plan, run.model)
        self.peak = peak_flops(jax.devices()[0])
        self.frames_per_step = plan.training.batch_size * plan.spec.num_frames

    def train(self) -> None:
        """Train to the last step, and save everything.

        Raises:
            UserError: the loss is not finite, too many clips cannot be read, or the disk is full.
            SystemExit: a signal stopped the run; the state is saved.
        """
        run, start = self.run, int(self.run.state.step)
        bar = TrainingBar(self.num_steps, start, frames_per_step=self.frames_per_step, shown=is_first_process())
        with self.stop as stop, contextlib.closing(bar), self._closing(), self._profiler() as profile:
            window, last = MetricsWindow(), None
            for step in itertools.count(start):
                signal = stop.requested(step)
                if step > start:
                    window = self._after_step(step, window, bar, stops=signal is not None)
                if signal is not None or step >= self.num_steps:
                    run.checkpoints.wait()
                if signal is not None:
                    done = f"saved {step} steps" if run.saved_step == step else "no step was done yet"
                    bar.say(f"{signal.name}: {done}; the same command resumes from there")
                    raise SystemExit(SIGNAL_EXIT_CODE + signal)
                if step >= self.num_steps:
                    bar.say(f"{step} steps done: {run.workdir}")
                    return
                profile(step)
                last = self._step(window, last)
                if step == start:
                    window.restart_timing()
                bar.step_started()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the run at the end of the block; after an error, without waiting for the other processes."""
        try:
            yield
        except BaseException:
            self.run.close(failed=True)
            raise
        self.run.close()

    def _step(self, window: MetricsWindow, last: Metrics | None) -> Metrics:
        """Draw a batch and start its step. Wait for the step before, so that batches do not accumulate."""
        waiting = time.monotonic()
        batch = self.run.next_batch()
        window.waited += time.monotonic() - waiting
        metrics = self.run.train_step(batch)
        if last is not None:
            jax.block_until_ready(last)
        window.metrics.append(metrics)
        return metrics

    def _after_step(self, step: int, window: MetricsWindow, bar: TrainingBar, *, stops: bool) -> MetricsWindow:
        """Log, evaluate, save and sample as is due after a step. A run that stops only logs and saves."""
        config = self.run.plan.config.train

        def due(every: int) -> bool:
            return every > 0 and not stops and (step % every == 0 or step == self.num_steps)

        has_clips = len(self.run.validation) > 0
        evaluates, samples = has_clips and due(config.evaluate_every), has_clips and due(config.sample_every)
        saves = due(config.save_every) or stops
        logs = due(config.log_every) or evaluates or samples or saves
        if logs:
            self._log(step, window, bar)
        if evaluates:
            self.writer.write(step, {"validation/loss": self.run.evaluate()})
        if saves:
            self.run.save(step)
        if samples:
            sheet = write_samples(self.run, step)
            self.writer.images(step, {"samples": sheet})
            if saves and is_first_process():
                self.run.checkpoints.add_sheet(step, sheet)
        self.run.checkpoints.poll()
        return MetricsWindow() if logs else window

    def _log(self, step: int, window: MetricsWindow, bar: TrainingBar) -> None:
        """Write the metrics of a window.

        Raises:
            UserError: the loss or its gradient is not finite. The step is not saved then.
        """
        values, speeds = window.values(self.run.plan.training), window.speeds()
        self.run.clips.check()
        if diverged(values):
            self.run.checkpoints.wait()  # the error may name only a step that is completely saved
            raise divergence_error(step, self.run.saved_step)
        self.run.latent_std = values.get("latent_std")
        values["learning_rate"] = float(self.rate(step - 1))
        values["failed_clips"] = self.run.clips.failures.num_failed
        values |= speeds | self._throughput(speeds.get("steps_per_second"))
        self.writer.write(step, values)
        bar.update(loss=values["loss"], data_wait_share=values.get("data_wait_share", 0.0))

    def _throughput(self, steps_per_second: float | None) -> dict[str, float]:
        """Return frames and model FLOPs per second of all devices, and their model FLOP utilisation from 0 to 1."""
        if steps_per_second is None:
            return {}
        flops = self.flops * steps_per_second
        values = {"frames_per_second": steps_per_second * self.frames_per_step, "model_flops_per_second": flops}
        return values | ({"model_flop_utilization": flops / self.peak / self.run.mesh.size} if self.peak else {})

    @contextlib.contextmanager
    def _profiler(self) -> Iterator[Any]:
        """Yield a function to call before each step, which runs JAX's profiler during the steps of `profile`."""
        running = False
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # its hooks can crash a thread that saves a checkpoint

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
