"""What is asked for: a config file's settings, and the videos and stages that a command line names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from show1_jax.bounds import MAX_SEED
from show1_jax.config import Settings
from show1_jax.errors import UserError
from show1_jax.files import user_path
from show1_jax.prompt_files import read_prompts
from show1_jax.prompts import Prompt, check_negative, check_prompt
from show1_jax.sampling_config import INPUTS, STAGES, CascadeConfig, Stage, check_inputs
from show1_jax.training_config import TRAINED_STAGES, TrainingConfig

MAX_VIDEOS: Final = 1_000_000
VIDEO_STAGES: Final[dict[Stage, Stage]] = {
    "interpolation": "keyframes",
    "first_frame": "interpolation",
    "superres_latent": "superres_pixel",
}
"""The stages that can start from a person's own video, and whose result it stands for."""


@dataclasses.dataclass(frozen=True)
class OutputConfig(Settings):
    """Frames a second of the mp4 and gif files, and of the clips that networks are trained on.

    In sampling they are how fast a video is shown; its frames are the same.
    """

    keyframes_fps: float = 2.0
    fps: float = 8.0
    """Of all stages after the keyframes."""


@dataclasses.dataclass(frozen=True)
class SampleConfig(CascadeConfig):
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

    def fps(self, stage: Stage) -> float:
        """Frames a second of a stage's files."""
        return self.output.keyframes_fps if stage == "keyframes" else self.output.fps


def check_paths(config: SampleConfig) -> None:
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


@dataclasses.dataclass(frozen=True)
class Request:
    """Which videos to sample, and which of their stages.

    Attributes:
        prompts: one a video; each has a seed.
        stages: to run, in the cascade's order.
        resume: the stages before the first of `stages` are there already: saved ones, or `video`.
        video: a person's own video, in place of the stage before.
        batch_size: videos that are sampled together; None: as many as the mesh's data axis has places.
        overwrite: replace what another run left.
    """

    prompts: tuple[Prompt, ...]
    stages: tuple[Stage, ...] = STAGES
    resume: bool = False
    video: Path | None = None
    batch_size: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError(f"no stages to run; choose from {', '.join(STAGES)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size} must be at least 1")
        if self.video is not None and (not self.resume or self.stages[0] not in VIDEO_STAGES):
            raise UserError(f"--video needs --from_stage with one of {', '.join(VIDEO_STAGES)}")
        given = {VIDEO_STAGES[self.stages[0]]} if self.video else set(self.kept)
        check_inputs(self.stages, given)

    @property
    def kept(self) -> tuple[Stage, ...]:
        """The stages whose saved results stay."""
        return STAGES[: STAGES.index(self.stages[0])] if self.resume and self.video is None else ()

    @property
    def replaced(self) -> tuple[Stage, ...]:
        """The stages whose files a run makes, or makes invalid."""
        return STAGES[len(self.kept) :]

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages whose results are needed and not made."""
        needed = {stage for chosen in self.stages for stage in INPUTS[chosen]}
        return tuple(stage for stage in STAGES if stage in needed and stage not in self.stages)


def choose_stages(stages: str | None, from_stage: str | None) -> tuple[Stage, ...]:
    """The stages that `--stages a,b` and `--from_stage s` leave, in the cascade's order.

    Raises:
        UserError: a name is no stage's.
    """
    chosen = STAGES if stages is None else CascadeConfig.parse_stages(stages)
    if from_stage is None:
        return chosen
    start, *more = CascadeConfig.parse_stages(from_stage) or ("",)
    if more or start not in STAGES:
        raise UserError(f"--from_stage takes one stage of {', '.join(STAGES)}, not {from_stage!r}")
    return tuple(stage for stage in chosen if STAGES.index(stage) >= STAGES.index(start))


def choose_prompts(
    config: SampleConfig, texts: Sequence[str], file: str | None, videos_per_prompt: int
) -> tuple[Prompt, ...]:
    """One prompt for every video, with its seed: the prompt's own or the config's, and one more for each next video.

    Args:
        config: gives the seed, and the prompts where neither `texts` nor `file` does.
        texts: prompts.
        file: of prompts, see `read_prompts`.
        videos_per_prompt: how many videos of each.

    Raises:
        UserError: there are no prompts, or too many, one is empty or too long, a seed is too large, or the same video
            is asked for twice.
    """
    if videos_per_prompt < 1:
        raise UserError(f"--videos_per_prompt={videos_per_prompt} must be at least 1")
    check_negative(config.negative_prompt)
    asked = [Prompt(check_prompt(text)) for text in texts] + (read_prompts(file) if file is not None else [])
    asked = asked or [Prompt(check_prompt(text)) for text in config.prompts]
    if not asked:
        raise UserError("no prompts; give --prompt TEXT or --prompts FILE")
    if len(asked) * videos_per_prompt > MAX_VIDEOS:
        raise UserError(
            f"{len(asked)} prompts x {videos_per_prompt} videos are more than {MAX_VIDEOS:,}; ask for fewer"
        )
    videos: dict[tuple[str, int], Prompt] = {}
    for prompt in asked:
        first = config.seed if prompt.seed is None else prompt.seed
        for seed in range(first, first + videos_per_prompt):
            if seed > MAX_SEED:
                raise UserError(f"seed {seed} is above {MAX_SEED}; give a smaller one with --seed")
            if (prompt.text, seed) in videos:
                raise UserError(f"{prompt.text[:60]!r} is asked for twice with seed {seed}; give it seeds of its own")
            videos[prompt.text, seed] = dataclasses.replace(prompt, seed=seed)
    return tuple(videos.values())
