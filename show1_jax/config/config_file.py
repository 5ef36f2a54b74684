"""A config file: the cascade's settings, and those of the commands `sample.py` and `train.py`."""

import dataclasses
from typing import Any

from show1_jax.config.sampling import CascadeConfig
from show1_jax.config.settings import Settings
from show1_jax.config.training import TRAINED_STAGES, TrainingConfig
from show1_jax.files import user_path


@dataclasses.dataclass(frozen=True)
class OutputConfig(Settings):
    """Frames a second of the mp4 and gif files, and of the clips that networks are trained on.

    In sampling they are how fast a video is shown; its frames are the same.
    """

    keyframes_fps: float = 2.0
    fps: float = 8.0
    """Of all stages after the keyframes."""


@dataclasses.dataclass(frozen=True)
class Config(CascadeConfig):
    """A config file: the cascade's settings, and what `sample.py` and `train.py` do with them."""

    checkpoint: str = "checkpoints/show1"
    """A checkpoint, or several, separated by commas, see `CheckpointSet.open`."""
    prompts: tuple[str, ...] = ()
    """Sampled where the command line names none."""
    seed: int = 345
    out: str = "outputs"
    output: OutputConfig = OutputConfig()
    compilation_cache: str = "~/.cache/show1_jax"
    """Where compiled programs are kept, so that the next run starts at once; empty: nowhere."""
    random_weights: bool = False
    """Make a checkpoint with random weights from `architecture` and `schedulers` where there is none."""
    architecture: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Of networks that are made here: for every component the fields of its architecture."""
    schedulers: dict[str, dict[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Of networks that are made here: for every UNet its scheduler configs, by role, in diffusers' form."""
    train: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """Read by `train.py` alone."""


def check_paths(config: Config) -> None:
    """Refuse paths of a config that are none, such as buckets; those that may be unset are then empty.

    The cache of compiled programs is no part of it: a run does without.

    Raises:
        UserError: see `user_path`.
    """
    train = config.train
    lists = [config.checkpoint, *(getattr(train, stage).init for stage in TRAINED_STAGES)]
    user_path(config.out)
    for path in (train.data.path, train.text.cache, *(path.strip() for names in lists for path in names.split(","))):
        if path:
            user_path(path)
