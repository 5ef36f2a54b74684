"""The videos and stages that a command line requests."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from show1_jax.cascade.prompts import Prompt, check_negative, check_prompt
from show1_jax.cascade.stages import (
    STAGE_TABLE,
    check_image_stages,
    check_inputs,
    computed_stages,
    runs_networks,
    stages_before,
    stages_from,
)
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import DEFAULT_INVERSION_STEPS, VideoEdit
from show1_jax.errors import UserError
from show1_jax.sampling.prompt_files import read_prompts

MAX_VIDEOS: Final = 1_000_000


@dataclasses.dataclass(frozen=True)
class Request:
    """The videos to sample, and the stages to run for them.

    Attributes:
        prompts: one prompt for each video, with a seed.
        stages: stages to run, in the cascade's order.
        resume: True if the results of the stages before the first of `stages` exist: saved ones, or `video`.
        video: a video of the user, used instead of the result of the stage before; with `edit`, instead of the results
            of all stages that the first stage needs.
        edit: how the first of `stages` starts from `video`; None: it starts as usual, without one.
        image: a picture of the user that the videos begin with; see `show1_jax.cascade.batches.VideoBatch`.
        batch_size: number of videos that are sampled together; None: the size of the mesh's data axis.
        overwrite: True to replace existing files of another request.
    """

    prompts: tuple[Prompt, ...]
    stages: tuple[Stage, ...] = STAGES
    resume: bool = False
    video: Path | None = None
    edit: VideoEdit | None = None
    image: Path | None = None
    batch_size: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError(f"no stages to run; choose from {', '.join(STAGES)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"--batch_size={self.batch_size} must be at least 1")
        if self.image is not None:
            if self.video is not None:
                raise UserError("give --image or --video, not both")
            check_image_stages(self.stages, has_edit=False)
        if self.edit is not None:
            self._check_edit(self.edit)
        elif self.video is not None and (not self.resume or not self.video_stages):
            possible = [stage for stage in STAGES if STAGE_TABLE[stage].video_input]
            raise UserError(
                f"--video needs --from_stage with one of {', '.join(possible)}; with --strength or --invert, any stage"
            )
        given = self.video_stages if self.video else self.kept
        check_inputs(self.stages, given, has_image=self.image is not None)

    def _check_edit(self, edit: VideoEdit) -> None:
        if self.video is None or not self.resume:
            raise UserError("--strength and --invert start the stage of --from_stage from --video; give both of these")
        if edit.stage != self.stages[0]:
            raise UserError(f"--from_stage={edit.stage} starts from --video, so that --stages must contain it")

    @property
    def video_stages(self) -> tuple[Stage, ...]:
        """The stages whose results are replaced by a video of the user; none if the first stage cannot use one."""
        spec = STAGE_TABLE[self.stages[0]]
        if self.edit is not None:
            return spec.inputs
        return () if spec.video_input is None else (spec.video_input,)

    def settings(self, config: Config) -> Config:
        """Return the settings that the stages are sampled with; see `VideoEdit.settings`."""
        return config if self.edit is None else self.edit.settings(config)

    @property
    def computed(self) -> tuple[Stage, ...]:
        """The stages without that whose result is the picture."""
        return computed_stages(self.stages, has_image=self.image is not None)

    def sampled(self, config: CascadeConfig) -> tuple[Stage, ...]:
        """Return those of the stages whose networks run; see `runs_networks`."""
        has_image = self.image is not None
        return tuple(stage for stage in self.stages if runs_networks(stage, config, self.edit, has_image=has_image))

    @property
    def kept(self) -> tuple[Stage, ...]:
        """The stages whose saved results are kept."""
        return stages_before(self.stages[0]) if self.resume and self.video is None else ()

    @property
    def replaced(self) -> tuple[Stage, ...]:
        """The stages whose files the request writes or invalidates."""
        return STAGES[len(self.kept) :]

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages whose results are required but not sampled."""
        needed = {stage for chosen in self.computed for stage in STAGE_TABLE[chosen].inputs}
        return tuple(stage for stage in STAGES if stage in needed and stage not in self.stages)


def choose_stages(stages: str | None, from_stage: str | None) -> tuple[Stage, ...]:
    """Return the stages that `--stages a,b` and `--from_stage s` select, in the cascade's order.

    Raises:
        UserError: a name is not the name of a stage.
    """
    chosen = STAGES if stages is None else CascadeConfig.parse_stages(stages)
    if from_stage is None:
        return chosen
    start, *more = CascadeConfig.parse_stages(from_stage) or ("",)
    if more or start not in STAGES:
        raise UserError(f"--from_stage takes one stage of {', '.join(STAGES)}, not {from_stage!r}")
    return tuple(stage for stage in stages_from(start) if stage in chosen)


def choose_edit(
    from_stage: str | None,
    strength: float | None,
    invert: bool,
    inversion_steps: int | None = None,
    inversion_iterations: int | None = None,
) -> VideoEdit | None:
    """Return how `--from_stage s` starts from a video: `--strength`, `--invert`; None if both are absent.

    Raises:
        UserError: a number is out of range, the stage is missing, or details of an inversion are given without one.
    """
    if not invert and (inversion_steps is not None or inversion_iterations is not None):
        raise UserError("--inversion_steps and --inversion_iterations need --invert")
    if strength is None and not invert:
        return None
    if from_stage is None:
        raise UserError("--strength and --invert need --from_stage, the stage that starts from --video")
    stage = choose_stages(None, from_stage)[0]
    if inversion_steps is not None and inversion_steps < 1:
        raise UserError(f"--inversion_steps={inversion_steps} must be at least 1")
    steps = (inversion_steps or DEFAULT_INVERSION_STEPS) if invert else 0
    iterations = 1 if inversion_iterations is None else inversion_iterations
    return VideoEdit(stage, 1.0 if strength is None else strength, steps, iterations)


def choose_prompts(
    config: Config, texts: Sequence[str], file: str | None, videos_per_prompt: int
) -> tuple[Prompt, ...]:
    """Return one prompt with a seed for every video.

    The seed of a prompt's first video is the prompt's own or the config's; each further video of it adds 1.

    Args:
        config: the settings, with the seed, and with the prompts if `texts` and `file` give none.
        texts: prompts.
        file: path of a file of prompts, see `read_prompts`.
        videos_per_prompt: number of videos of each prompt.

    Raises:
        UserError: there are no prompts, or too many; one is empty or too long; a seed is too large; or the same video
            is requested twice.
    """
    if videos_per_prompt < 1:
        raise UserError(f"--videos_per_prompt={videos_per_prompt} must be at least 1")
    check_negative(config.negative_prompt)
    prompts = [Prompt(check_prompt(text)) for text in texts] + (read_prompts(file) if file is not None else [])
    prompts = prompts or [Prompt(check_prompt(text)) for text in config.prompts]
    if not prompts:
        raise UserError("no prompts; give --prompt TEXT or --prompts FILE")
    if len(prompts) * videos_per_prompt > MAX_VIDEOS:
        raise UserError(
            f"{len(prompts)} prompts x {videos_per_prompt} videos are more than {MAX_VIDEOS:,}; ask for fewer"
        )
    videos: dict[tuple[str, int], Prompt] = {}
    for prompt in prompts:
        first = config.seed if prompt.seed is None else prompt.seed
        for seed in range(first, first + videos_per_prompt):
            if seed > MAX_SEED:
                raise UserError(f"seed {seed} is above {MAX_SEED}; give a smaller one with --seed")
            if (prompt.text, seed) in videos:
                raise UserError(f"{prompt.text[:60]!r} is asked for twice with seed {seed}; give each a different seed")
            videos[prompt.text, seed] = dataclasses.replace(prompt, seed=seed)
    return tuple(videos.values())


def choose_shard(prompts: Sequence[Prompt], shard: str | None) -> tuple[Prompt, ...]:
    """Return the prompts that `--shard I/N` selects: those at positions I, I + N, I + 2 N, ... (from 1).

    Hosts that share no run need no more to divide a list of prompts: every video is in exactly one shard, and it has
    the same directory in all of them.

    Args:
        prompts: one prompt for each video.
        shard: `I/N`; None selects all prompts.

    Raises:
        UserError: it has another form, I is not from 1 to N, or the shard is empty.
    """
    if shard is None:
        return tuple(prompts)
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"--shard={shard}: give I/N with I from 1 to N, e.g. 3/16 on the third of 16 hosts")
    if number > len(prompts):
        raise UserError(f"--shard={shard}: nothing is left for this host of {len(prompts)} videos; use fewer hosts")
    return tuple(prompts[number - 1 :: count])
