"""Settings of a config file: the cascade's settings, and those of the commands `sample.py` and `train.py`."""

import dataclasses
from typing import Any

from show1_jax.config.sampling import CascadeConfig
from show1_jax.config.settings import Settings
from show1_jax.config.training import LOCAL_COPIES, TRAINED_STAGES, TrainingConfig
from show1_jax.files import storage_path, user_path


@dataclasses.dataclass(frozen=True)
class OutputConfig(Settings):
    """Frames per second of the mp4 and gif files, and of the clips that networks are trained on.

    For sampled videos they set the playback speed only; the frames are the same.
    """

    keyframes_fps: float = 2.0
    fps: float = 8.0
    """Frames per second of all stages after the keyframes."""


@dataclasses.dataclass(frozen=True)
class Config(CascadeConfig):
    """Settings of a config file: the cascade's settings, and those of `sample.py` and `train.py`.

    Example:
        >>> from show1_jax import Config
        >>> config = Config(checkpoint="checkpoints/demo", seed=7)
        >>> config.keyframes.num_steps, config.output.fps
        (75, 8.0)
        >>> Config.from_dict(config.to_dict()) == config
        True
    """

    checkpoint: str = "checkpoints/show1"
    """Path of a checkpoint, or `hub:OWNER/NAME`; several are separated by commas; see `CheckpointSet.open`."""
    adapter: str = ""
    """Adapters of the checkpoint's networks, as `DIR` or `DIR:STRENGTH`, separated by commas; see `open_adapters`."""
    prompts: tuple[str, ...] = ()
    """Prompts to sample if the command line has none."""
    seed: int = 345
    out: str = "outputs"
    output: OutputConfig = OutputConfig()
    compilation_cache: str = "~/.cache/show1_jax"
    """Folder of the compilation cache, so that the next run starts without compiling; empty: no cache."""
    random_weights: bool = False
    """Create a checkpoint with random weights from `architecture` and `schedulers` if `checkpoint` does not exist."""
    architecture: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Fields of every component's architecture, for networks that are created rather than loaded."""
    schedulers: dict[str, dict[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Scheduler configs of every UNet by role, in diffusers' form, for networks that are created rather than loaded."""
    train: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """Settings that only `train.py` reads."""


def check_paths(config: Config) -> None:
    """Refuse paths of a config that cannot be paths; an optional path may be empty.

    All but the folders of local copies may be in a bucket. The compilation cache is not checked: a run works without
    it. Nor is the default folder of local copies: only data in a bucket need it, and there may be no home directory.

    Raises:
        UserError: see `user_path` and `storage_path`.
    """
    train = config.train
    lists = [config.checkpoint, *(getattr(train, stage).init for stage in TRAINED_STAGES)]
    stored = [config.out, train.data.path, train.text.cache]
    for path in filter(None, [*stored, *(path.strip() for names in lists for path in names.split(","))]):
        storage_path(path)
    for path in (train.data.local_copies, train.text.local_copies):
        if path not in ("", LOCAL_COPIES):
            user_path(path)
