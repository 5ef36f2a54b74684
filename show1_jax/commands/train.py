"""Train a network of the cascade.

  python train.py --config demo --stage keyframes --workdir runs/keyframes
  python train.py --config full --stage superres_pixel --workdir DIR --config.train.superres_pixel.init=DIR
  python train.py --config full --stage keyframes --dry_run --devices 8,64,256

The stages: keyframes, interpolation, first_frame, superres_pixel, superres_latent, autoencoder.
The run writes checkpoints/, metrics.jsonl, tensorboard/, samples/ and config.json to its working directory. The same
command resumes from the newest intact step. SIGTERM and Ctrl-C save before the command ends.
`sample.py --checkpoint A,DIR` samples with the trained network instead of A's. With --config.train.STAGE.trainable
some weights are trained, and `sample.py --adapter DIR` adds their changes to the network that they started from.
"""

import sys
from collections.abc import Sequence

from absl import flags

from show1_jax import cli
from show1_jax.config.training import check_stage
from show1_jax.errors import UserError
from show1_jax.files import storage_path


def define_flags() -> flags.FlagValues:
    """Return the flags of this command; help texts start with the value's name."""
    values = cli.new_flags()
    text, toggle = flags.DEFINE_string, flags.DEFINE_bool
    text("stage", None, "STAGE: the network to train, by default the config's", flag_values=values)
    text(
        "workdir",
        None,
        "DIR: working directory of the run, here or in a bucket; an existing run is resumed",
        flag_values=values,
    )
    text("checkpoint", None, "A,B: text encoders and autoencoder, made by `python -m convert`", flag_values=values)
    toggle("dry_run", False, "print the memory that each device needs; do not train", flag_values=values)
    text("devices", None, "N,M: numbers of devices for --dry_run; default: all devices here", flag_values=values)
    text("profile", None, "STEP:N: profile N steps from STEP on, for TensorBoard", flag_values=values)
    text("wandb", None, "PROJECT: W&B project that also gets the metrics; needs the extra `wandb`", flag_values=values)
    cli.define_process_flags(values)
    return values


def train(argv: Sequence[str]) -> None:
    """Run a command line; JAX is imported after the command line is checked.

    Raises:
        UserError: bad input, see `show1_jax.cli.run_command`.
    """
    values = define_flags()
    config = cli.read_config(values, argv, __doc__, ["checkpoint"])
    if config is None:
        return
    if config.adapter:
        raise UserError(
            f"adapter={config.adapter} is for sampling, and training would ignore it; give --config.adapter= and, to "
            "train from it, add it to the weights with `python -m convert merge --adapter`"
        )
    stage = check_stage(values.stage or config.train.default_stage)
    if not values.dry_run and not values.workdir:
        raise UserError("no --workdir; give the directory of this run")
    workdir = storage_path(values.workdir or ".")
    if values.devices is not None and not values.dry_run:
        raise UserError("--devices is for --dry_run; a run uses all devices that are here")
    profile = _steps(values.profile)
    devices = _numbers(values.devices)

    with cli.importing_jax("train"):
        from show1_jax.parallel import initialize_distributed
        from show1_jax.training.run.job import print_training_memory, train

    if processes := cli.distributed_arguments(values):
        initialize_distributed(*processes)
    if values.dry_run:
        print_training_memory(config, stage, devices)
        return
    train(config, stage, workdir, profile=profile, wandb_project=values.wandb or "")


def _steps(profile: str | None) -> tuple[int, int] | None:
    if profile is None:
        return None
    first, _, num = profile.partition(":")
    if not (first.isdecimal() and num.isdecimal() and int(num) > 0):
        raise UserError(f"--profile={profile} must be STEP:N, e.g. 100:5")
    return int(first), int(num)


def _numbers(devices: str | None) -> tuple[int, ...]:
    parts = [] if devices is None else devices.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--devices={devices} must be numbers, e.g. 8,64,256")
    return tuple(int(part) for part in parts)


def main() -> int:
    """Run the command line of this process and return its exit code: 2 after one line on stderr if the input is bad."""
    return cli.run_command("train", lambda: train(sys.argv))
