"""Training runs of the tiny cascade, for tests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from show1_jax.config.config_file import Config
from show1_jax.config.training import TrainedStage
from show1_jax.training.plan import make_plan
from show1_jax.training.run.training_run import TrainingRun
from tests.helpers import tiny_config
from tests.helpers.processes import environment

ROOT = Path(__file__).parents[2]


def settings(checkpoint: Path, stage: TrainedStage, **changes: Any) -> Config:
    """Return the tiny config with some training settings changed.

    Args:
        checkpoint: checkpoint of the frozen networks.
        stage: stage to train.
        changes: settings of the stage by name, with `train` and `optimizer` for nested ones.
    """
    config = tiny_config.get_config()
    config.checkpoint = str(checkpoint)
    config.keyframes.num_frames = config.train.superres_latent.num_frames = 2
    config.superres_pixel.update(window=2, stride=1)
    config.superres_latent.update(height=16, width=16)
    config.train.update(changes.pop("train", {}))
    config.train[stage].optimizer.update(changes.pop("optimizer", {}))
    config.train[stage].update(changes)
    return Config.from_dict(config.to_dict())


def run_of(config: Config, stage: TrainedStage, workdir: Path, num_devices: int = 1) -> TrainingRun:
    """Open a training run on the first devices."""
    return TrainingRun.open(make_plan(config, stage, "cpu"), workdir, jax.devices()[:num_devices])


def advance(run: TrainingRun, num_steps: int) -> list[float]:
    """Train a number of steps and return their losses."""
    metrics = [run.train_step(run.next_batch()) for _ in range(num_steps)]
    return [float(step.loss) for step in metrics]


def apart(ours: Any, others: Any) -> float:
    """Return the norm of the difference of two trees, divided by the norm of the second."""
    ours, others = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (ours, others))
    return float(np.linalg.norm(ours - others) / np.linalg.norm(others))


def command(checkpoint: Path, workdir: Path, *arguments: str) -> list[str]:
    """Return the command that trains with the tiny config."""
    return [
        *(sys.executable, "train.py", "--config", "tests/helpers/tiny_config.py", f"--checkpoint={checkpoint}"),
        *(f"--workdir={workdir}", f"--config.compilation_cache={workdir.parent / 'compiled'}", *arguments),
    ]


def start(arguments: list[str], num_devices: int = 1) -> "subprocess.Popen[str]":
    """Start a process with a number of CPU devices; stdout and stderr go to one pipe."""
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment(num_devices), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]", returncode: int = 0) -> str:
    """Wait for a process, check its exit code and return its output."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == returncode, output
    return output
