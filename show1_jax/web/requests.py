"""Requests of the page: a form becomes the config and the request that `sample.py` would have for it."""

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from show1_jax.cascade.stages import STAGE_TABLE
from show1_jax.config.bounds import MAX_SEED
from show1_jax.config.config_file import Config
from show1_jax.config.sampling import STAGES, Stage
from show1_jax.errors import UserError, shown
from show1_jax.sampling.request import Request, choose_edit, choose_prompts, choose_stages
from show1_jax.web.vocabulary import Vocabulary

VideoUse = Literal["replace", "noise", "invert"]
"""Use of the user's video: instead of the stage before, as a start with noise, or inverted to noise."""

_STAGE_NAMES: Final = {
    "superres_pixel": "pixel super-resolution",
    "superres_latent": "latent super-resolution",
    "text_t5": "text encoder T5",
    "text_clip": "text encoder CLIP",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of what the users of a page can ask for.

    Attributes:
        prompt_length: characters of a prompt, and of a negative prompt.
        videos: videos of one request.
        steps: steps of a stage; a config with more steps allows as many as it has.
        upload_bytes: bytes of a file.
        waiting: requests that wait at the same time.
        uploads: files that are kept at the same time; the oldest ones are removed.
        batch_size: videos of a request that are sampled together; None: the size of the mesh's data axis.
    """

    prompt_length: int = 1000
    videos: int = 4
    steps: int = 250
    upload_bytes: int = 200 << 20
    waiting: int = 32
    uploads: int = 32
    batch_size: int | None = None

    def steps_of(self, config: Config, stage: Stage) -> int:
        """Return the largest number of steps of a stage."""
        return max(self.steps, config.stage(stage).num_steps)


@dataclasses.dataclass(frozen=True)
class Form:
    """The values of a form, as a browser sent them: of any type.

    Attributes:
        prompt: the prompt.
        negative: the negative prompt.
        seed: seed of the first video; None: the config's.
        videos: number of videos, with increasing seeds.
        steps: number of steps by stage; a stage that is absent has the config's.
        guidance: guidance scale by stage; the same.
        start: stage to continue from, or that starts from the video; None: the first.
        replace: replace files of another request in the same place.
        video: the user's video on this machine.
        image: the user's picture on this machine, which the videos begin with; not together with a video.
        use: use of the video.
        strength: share of the stage's steps that run, of a video with noise or inverted.
        inversion_steps: steps of the inversion.
    """

    prompt: Any
    negative: Any = None
    seed: Any = None
    videos: Any = 1
    steps: Mapping[Stage, Any] = dataclasses.field(default_factory=dict)
    guidance: Mapping[Stage, Any] = dataclasses.field(default_factory=dict)
    start: Any = None
    replace: bool = False
    video: Path | None = None
    image: Path | None = None
    use: Any = "replace"
    strength: Any = 0.6
    inversion_steps: Any = 75


class Task(NamedTuple):
    """The work of one request: the arguments of `show1_jax.sampling.job.sample_videos`."""

    config: Config
    request: Request


def make_task(form: Form, config: Config, vocabulary: Vocabulary, limits: Limits) -> Task:
    """Return the config and the request of a form.

    Args:
        form: values of the form.
        config: settings of the page, of which the form changes some.
        vocabulary: prompts that the weights know.
        limits: limits of the page.

    Raises:
        UnknownPromptError: the weights do not know the prompt.
        UserError: a value is of a wrong type, empty, too large, or does not fit the others.
    """
    prompt, negative = (_text(form.prompt, "prompt", limits), _text(form.negative or "", "negative prompt", limits))
    vocabulary.check(prompt)
    seed = config.seed if form.seed is None else _whole(form.seed, "seed", 0, MAX_SEED)
    changed = {stage: _changed(form, config, stage, limits) for stage in STAGES}
    settings = dataclasses.replace(config, seed=seed, negative_prompt=negative, **changed)
    if form.start and form.start not in STAGES:
        raise UserError(f"the stage {shown(form.start)} is none of {', '.join(STAGES)}")
    start = form.start or None
    edit = None
    if form.video is not None and form.use != "replace":
        is_inverted = form.use == "invert"
        steps = _whole(form.inversion_steps, "inversion steps", 1, limits.steps) if is_inverted else None
        edit = choose_edit(start, _number(form.strength, "strength"), is_inverted, steps)
    request = Request(
        prompts=choose_prompts(settings, [prompt], None, _whole(form.videos, "number of videos", 1, limits.videos)),
        stages=choose_stages(None, start),
        resume=start is not None,
        video=form.video,
        edit=edit,
        image=form.image,
        batch_size=limits.batch_size,
        overwrite=form.replace is True,
    )
    return Task(settings, request)


def roll_seed() -> int:
    """Return a random seed that is short enough to be read and typed."""
    return random.SystemRandom().randrange(1_000_000)


def video_stages(use: VideoUse) -> tuple[Stage, ...]:
    """Return the stages that a video of the user can start, for a use of it."""
    return tuple(stage for stage in STAGES if use != "replace" or STAGE_TABLE[stage].video_input)


def stage_name(stage: str) -> str:
    """Return the name of a stage, or of another part of the cascade, for people."""
    return _STAGE_NAMES.get(stage, stage.replace("_", " "))


def _changed(form: Form, config: Config, stage: Stage, limits: Limits) -> Any:
    """Return the settings of a stage with those of the form."""
    settings = config.stage(stage)
    changes: dict[str, Any] = {}
    name = stage_name(stage)
    if (steps := form.steps.get(stage)) is not None:
        changes["num_steps"] = _whole(steps, f"number of steps of {name}", 1, limits.steps_of(config, stage))
    if (guidance := form.guidance.get(stage)) is not None:
        changes["guidance_scale"] = _number(guidance, f"guidance of {name}")
    return dataclasses.replace(settings, **changes)


def _text(value: Any, name: str, limits: Limits) -> str:
    if not isinstance(value, str):
        raise UserError(f"the {name} must be text")
    if len(value) > limits.prompt_length:
        raise UserError(
            f"the {name} has {len(value):,} characters, more than {limits.prompt_length:,}; shorten it: the text "
            "encoders read its first 77 tokens"
        )
    return value


def _number(value: Any, name: str) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        pass
    raise UserError(f"the {name} must be a number")


def _whole(value: Any, name: str, low: int, high: int) -> int:
    number = _number(value, name)
    if number != int(number) or not low <= number <= high:
        raise UserError(f"the {name} must be a whole number from {low:,} to {high:,}")
    return int(number)
