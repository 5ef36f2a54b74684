"""The work of `train.py`: train a stage, or print the memory that it requires."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from show1_jax.buckets.path import BucketPath
from show1_jax.checkpoints.random import SOURCE as RANDOM
from show1_jax.config.config_file import Config
from show1_jax.config.training import TrainedStage
from show1_jax.data.transfer.download import local_copies
from show1_jax.errors import UserError
from show1_jax.files import check_utf8_path, locked_folder, storage_path, write_bytes
from show1_jax.parallel import all_devices, from_first_process
from show1_jax.runtime import enable_compilation_cache, exact_float32, memory_errors
from show1_jax.sampling.job import make_random_checkpoint
from show1_jax.training.dry_run import activation_bytes, describe_training_memory
from show1_jax.training.plan import Plan, make_plan
from show1_jax.training.run.loop import Loop
from show1_jax.training.run.metrics import MetricsWriter
from show1_jax.training.run.stop import StopSignal
from show1_jax.training.run.training_run import TrainingRun


def train(
    config: Config,
    stage: TrainedStage,
    workdir: Path,
    *,
    profile: tuple[int, int] | None = None,
    wandb_project: str = "",
) -> None:
    """Train a stage to its last step, from the first step or from the newest intact step in `workdir`.

    Args:
        config: all settings.
        stage: the stage to train.
        workdir: working directory of the run.
        profile: the first step and the number of steps to profile; None: none.
        wandb_project: W&B project that also gets the metrics; empty: none.

    Raises:
        UserError: settings, data or checkpoints are bad, or the disk is full. Errors that can be found beforehand are
            raised before anything is written.
        SystemExit: a signal stopped the run; the state is saved.
    """
    if profile is not None and isinstance(workdir, BucketPath):
        raise UserError("--profile is written to a file system; profile a short run with a local --workdir")
    check_utf8_path(workdir)
    enable_compilation_cache(config.compilation_cache)
    stop = StopSignal()
    stop.start_early()
    from_first_process(lambda: make_random_checkpoint(config))
    plan = make_plan(config, stage, all_devices()[0].platform)
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors("raise num_microbatches, or use more devices with train.mesh.fsdp"))
        stack.enter_context(exact_float32(plan.dtype))
        from_first_process(lambda: _lock_workdir(workdir, stack))
        _download_data(plan)
        training = TrainingRun.open(plan, workdir)
        from_first_process(lambda: _print_plan_warnings(plan))
        from_first_process(lambda: _write_config(workdir, config))
        first = int(training.state.step)
        writer = MetricsWriter(workdir, resumed_step=first, config=config.to_dict(), wandb_project=wandb_project)
        stack.enter_context(contextlib.closing(writer))
        Loop(training, writer, stop, profile).train()


def print_training_memory(config: Config, stage: TrainedStage, devices: Sequence[int]) -> None:
    """Print the memory that training a stage requires of each device, for each number of devices.

    Args:
        config: all settings.
        stage: the stage to train.
        devices: numbers of devices; empty: the devices of this machine.

    Raises:
        UserError: the mesh does not fit a number of devices.
    """
    plan = make_plan(config, stage, "accelerator" if devices else all_devices()[0].platform)
    per_clip = activation_bytes(plan)
    for number in devices or (jax.device_count(),):
        print(describe_training_memory(plan, number, per_clip), flush=True)


def _lock_workdir(workdir: Path, stack: contextlib.ExitStack) -> None:
    """Lock the working directory, because two runs there would remove each other's unfinished checkpoints."""
    try:
        stack.enter_context(locked_folder(workdir))
    except OSError as error:
        raise UserError(f"cannot write in {workdir} ({error.strerror}); use another --workdir") from error


def _download_data(plan: Plan) -> None:
    """Make this host's copies of data in buckets, before anything waits for the other hosts with a limit."""
    data, text = plan.config.train.data, plan.config.train.text
    wanted = [(data.path, data.local_copies)] if data.name == "videos" else []
    if plan.text is not None and text.source == "cache":
        wanted.append((text.cache, text.local_copies))
    local_copies([storage_path(name) for name, _ in wanted], [copies for _, copies in wanted])


def _write_config(workdir: Path, config: Config) -> None:
    write_bytes(workdir / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())


def _print_plan_warnings(plan: Plan) -> None:
    """Warn of settings that the initial checkpoint overrides, and of frozen networks with random weights."""
    if overridden := plan.overridden_settings():
        settings, start = ", ".join(overridden), plan.training.init
        print(f"warning: the network of {start} keeps its own {settings}; the config differs", file=sys.stderr)
    for name in plan.frozen:
        if plan.frozen_record(name).provenance.get("source") == RANDOM:
            print(f"warning: the weights of {name} in {plan.config.checkpoint} are random", file=sys.stderr)
