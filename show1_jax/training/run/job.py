"""What `train.py` does."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from show1_jax.checkpoints.random import SOURCE as RANDOM
from show1_jax.config.config_file import Config
from show1_jax.config.training import TrainedStage
from show1_jax.errors import UserError
from show1_jax.files import locked_folder, write_bytes
from show1_jax.parallel import all_devices, from_first_process
from show1_jax.runtime import exact_float32, keep_compiled, memory_errors
from show1_jax.sampling.job import make_random_checkpoint
from show1_jax.training.dry_run import describe_training_memory, kept_bytes
from show1_jax.training.plan import Plan, make_plan
from show1_jax.training.run.loop import Loop
from show1_jax.training.run.metrics import MetricsWriter
from show1_jax.training.run.training_run import TrainingRun


def train(
    config: Config,
    stage: TrainedStage,
    workdir: Path,
    *,
    profile: tuple[int, int] | None = None,
    wandb_project: str = "",
) -> None:
    """Train a stage to its last step, from the beginning or from the last good checkpoint in `workdir`.

    Args:
        config: all settings.
        stage: what is trained.
        workdir: of the run.
        profile: the first step and the number of steps that are profiled.
        wandb_project: where metrics go as well; empty: nowhere.

    Raises:
        UserError: bad settings, data or checkpoints, or a disk that is full. Whatever can be known beforehand is
            refused before anything is written.
        SystemExit: a signal asked to stop, and the state is saved.
    """
    keep_compiled(config.compilation_cache)
    from_first_process(lambda: make_random_checkpoint(config))
    plan = make_plan(config, stage, all_devices()[0].platform)
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors("take more num_microbatches, or more devices with train.mesh.fsdp"))
        stack.enter_context(exact_float32(plan.dtype))
        from_first_process(lambda: _lock(workdir, stack))
        training = TrainingRun.open(plan, workdir)
        from_first_process(lambda: _warn(plan))
        from_first_process(lambda: _write_config(workdir, config))
        first = int(training.state.step)
        writer = MetricsWriter(workdir, resumed_step=first, config=config.to_dict(), wandb_project=wandb_project)
        stack.enter_context(contextlib.closing(writer))
        Loop(training, writer, profile).train()


def print_training_memory(config: Config, stage: TrainedStage, devices: Sequence[int]) -> None:
    """Print what a stage would need of each device, for each number of devices; those that are here if none is given.

    Raises:
        UserError: a mesh that does not fit so many devices.
    """
    plan = make_plan(config, stage, "accelerator" if devices else all_devices()[0].platform)
    kept = kept_bytes(plan)
    for number in devices or (jax.device_count(),):
        print(describe_training_memory(plan, number, kept), flush=True)


def _lock(workdir: Path, stack: contextlib.ExitStack) -> None:
    """Two runs in one directory would remove each other's unfinished checkpoints."""
    try:
        stack.enter_context(locked_folder(workdir))
    except OSError as error:
        raise UserError(f"cannot write in {workdir} ({error.strerror}); take another --workdir") from error


def _write_config(workdir: Path, config: Config) -> None:
    write_bytes(workdir / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())


def _warn(plan: Plan) -> None:
    """Say what may not be meant: settings that do not count, and random weights of a network that is not trained."""
    if overridden := plan.overridden_settings():
        settings, start = ", ".join(overridden), plan.training.init
        print(f"warning: the network of {start} keeps its own {settings}; the config states another", file=sys.stderr)
    for name in plan.frozen:
        if plan.frozen_record(name).provenance.get("source") == RANDOM:
            print(f"warning: the weights of {name} in {plan.config.checkpoint} are random", file=sys.stderr)
