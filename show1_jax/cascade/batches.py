"""Batches of videos that are sampled together: their checks, before anything is computed, and their padding."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from show1_jax.cascade.conditions import resize_for_latents
from show1_jax.cascade.noise import NoiseSource, SeededNoise
from show1_jax.cascade.prompts import Prompt, check_negative, check_prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import Size, runs_networks
from show1_jax.config.sampling import Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError
from show1_jax.media.frames import fit

Videos = Float32[np.ndarray, "b t h w c"]


@dataclasses.dataclass(frozen=True)
class VideoBatch:
    """Videos that are sampled together.

    Attributes:
        prompts: texts, or items of `Prompt`, which can have a negative prompt and a seed.
        seeds: seed of every video, 0 to 2^32 - 1; by default 0, 1, ... The seed of a `Prompt` replaces it.
        given: results of stages that do not run, (batch, time, height, width, 3) in [-1, 1], one video per prompt.
        video: videos that a stage starts from, see `VideoEdit`, in the shape of its result; None without an edit, and
            for the stage of latents, which starts from its input.
        image: pictures that the videos begin with, (batch, height, width, 3) in [-1, 1], of any size: they are scaled
            and cropped. They are the first of the keyframes, and replace the result of stage `first_frame`.
    """

    prompts: Sequence[str | Prompt]
    seeds: Sequence[int] | None = None
    given: Mapping[Stage, np.ndarray] = dataclasses.field(default_factory=dict)
    video: np.ndarray | None = None
    image: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class PreparedBatch:
    """A batch that is checked, and padded to a multiple of the mesh's `data` axis.

    Attributes:
        prompts: prompts, with padding.
        num_videos: number of videos without padding.
        spec: spec of the cascade with the sizes of the given videos.
        videos: results of stages on the host, for the stages that still need them; with padding.
        edit: stage that starts from `video`, and how; None: all start as usual.
        video: videos that a stage starts from, with padding.
        image: pictures that the videos begin with, as the result of stage `first_frame`, with padding.
        noise: source of all draws.
    """

    prompts: list[Prompt]
    num_videos: int
    spec: CascadeSpec
    videos: dict[Stage, Videos]
    edit: VideoEdit | None
    video: Float32[np.ndarray, "b _ _ _ _"] | None
    image: Float32[np.ndarray, "b 1 _ _ 3"] | None
    noise: NoiseSource

    @classmethod
    def of(
        cls,
        batch: VideoBatch,
        spec: CascadeSpec,
        stages: Sequence[Stage],
        noise: NoiseSource | None = None,
        edit: VideoEdit | None = None,
    ) -> "PreparedBatch":
        """Check a batch, and pad it with its last video, so that it can be sharded over the devices.

        Args:
            batch: the batch.
            spec: spec of the cascade.
            stages: stages to run.
            noise: source of all draws; None: they are drawn from the seeds.
            edit: stage that starts from the batch's `video`, and how.

        Raises:
            UserError: a prompt is empty or too long, the number of seeds or videos is another one than that of the
                prompts, or videos, pictures or settings do not fit a stage.
        """
        prompts = _checked_prompts(batch, spec)
        count, padding = len(prompts), -len(prompts) % spec.mesh.shape["data"]
        given = _checked_given(batch, count)
        spec.check(stages, given, has_image=batch.image is not None)
        spec = spec.with_sizes_of(given)
        start = None if batch.video is None else np.asarray(batch.video, np.float32)
        spec.check_edit(edit, stages, start, count)
        image = None if batch.image is None else np.asarray(batch.image, np.float32)
        if image is not None:
            spec.check_image(image, stages, count, edit)
            image = fitted(image[:, None], spec.size_of_image)
        seeds = [
            (number if batch.seeds is None else batch.seeds[number]) if prompt.seed is None else prompt.seed
            for number, prompt in enumerate(prompts)
        ]
        return cls(
            prompts + [prompts[-1]] * padding,
            count,
            spec,
            {stage: _pad(video, padding) for stage, video in given.items()},
            edit,
            None if start is None else _pad(start, padding),
            None if image is None else _pad(image, padding),
            noise or SeededNoise(seeds + [seeds[-1]] * padding, spec.mesh),
        )

    def needs_network(self, stage: Stage) -> bool:
        """Return whether the networks of a stage run; see `runs_networks`."""
        return runs_networks(stage, self.spec.config, self.edit, has_image=self.image is not None)

    def own_result(self, stage: Stage) -> Videos:
        """Return the result of a stage whose networks do not run: the picture, or the video that it starts from."""
        if self.edit is None:
            assert self.image is not None
            return self.image
        if self.video is not None:
            return self.video
        settings = self.spec.config.superres_latent
        return resize_for_latents(self.videos["superres_pixel"], settings.height, settings.width)


def _checked_prompts(batch: VideoBatch, spec: CascadeSpec) -> list[Prompt]:
    prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in batch.prompts]
    if not prompts:
        raise UserError("no prompts; give at least one")
    for prompt in prompts:
        check_prompt(prompt.text)
        check_negative(spec.config.negative_prompt if prompt.negative is None else prompt.negative)
    if batch.seeds is not None and len(batch.seeds) != len(prompts):
        raise UserError(f"{len(batch.seeds)} seeds for {len(prompts)} prompts; give one for each prompt")
    return prompts


def _checked_given(batch: VideoBatch, count: int) -> dict[Stage, Videos]:
    given = {stage: np.asarray(video, np.float32) for stage, video in batch.given.items()}
    for stage, video in given.items():
        if video.ndim != 5 or video.shape[0] != count or video.shape[-1] != 3 or not video.size:
            wanted = f"({count} prompts, time, height, width, 3)"
            raise UserError(f"the video given for {stage} has shape {video.shape}, not {wanted}")
    return given


def fitted(videos: Float32[np.ndarray, "b t _ _ c"], size: Size) -> Videos:
    """Return videos that are scaled and cropped to a size; see `fit`."""
    return np.stack([fit(video, *size) for video in videos])


def _pad(video: Videos, padding: int) -> Float32[np.ndarray, "b+{padding} t h w c"]:
    return np.concatenate([video, *[video[-1:]] * padding])
