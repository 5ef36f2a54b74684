"""The table of the cascade's stages: the only place for facts about a stage that do not depend on weights.

Command lines are checked against this table before JAX is imported, so this module does not import JAX. The functions
that sample the stages are in `show1_jax.cascade.conditions`, one for each row.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from show1_jax.config.config_file import OutputConfig
from show1_jax.config.sampling import AUTOENCODER, STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""
ConditionKind = Literal["none", "keyframes", "low_resolution", "low_resolution_and_first_frame"]
"""Video that a network is conditioned on, as channels beside its noisy sample: none; the keyframes at both ends with
frames between them and a mask (eq. 6); the video at low resolution, upsampled and noised; the same, but with a clean
first frame at high resolution (section 3.5)."""

PIXEL_CHANNELS: Final = 3
_CONDITION_CHANNELS: Final[dict[ConditionKind, int]] = {
    "none": 0,
    "keyframes": PIXEL_CHANNELS + 1,
    "low_resolution": PIXEL_CHANNELS,
    "low_resolution_and_first_frame": PIXEL_CHANNELS,
}


@dataclass(frozen=True)
class StageSpec:
    """Facts about one stage.

    Attributes:
        name: name of the stage, of its component in a checkpoint, and of its settings in a config.
        inputs: stages whose results the stage needs.
        text_encoder: component whose text states the network is conditioned on.
        condition: video that the network is conditioned on.
        size: function of the config and the keyframes' size that returns height and width of the result.
        num_frames: function of the config that returns the number of frames of the result.
        clip_frames: function of the config that returns the number of frames in one call of the network; a shorter
            result is one clip.
        num_clips: function of the config that returns the number of clips of a video that are sampled in one batch.
        num_windows: function of the config that returns the number of windows that are sampled sequentially.
        is_latent: the network works on the latents of the autoencoder.
        is_image: every frame of the result is an image that the network samples alone; usually there is one.
        has_keyframe_rate: the frames are shown at the rate of keyframes.
    """

    name: Stage
    inputs: tuple[Stage, ...]
    text_encoder: str
    condition: ConditionKind
    size: Callable[[CascadeConfig, Size], Size]
    num_frames: Callable[[CascadeConfig], int]
    clip_frames: Callable[[CascadeConfig], int]
    num_clips: Callable[[CascadeConfig], int] = lambda config: 1
    num_windows: Callable[[CascadeConfig], int] = lambda config: 1
    is_latent: bool = False
    is_image: bool = False
    has_keyframe_rate: bool = False

    @property
    def condition_channels(self) -> int:
        """Number of channels that are appended to the noisy sample."""
        return _CONDITION_CHANNELS[self.condition]

    @property
    def is_noised(self) -> bool:
        """True if the condition is noised to a level that the network is conditioned on."""
        return self.condition.startswith("low_resolution")

    @property
    def scheduler_roles(self) -> tuple[str, ...]:
        """Roles of the stage's schedulers in a checkpoint: for sampling, and for noising its condition."""
        return ("scheduler", "image_noising_scheduler") if self.is_noised else ("scheduler",)

    @property
    def components(self) -> tuple[str, ...]:
        """Components of a checkpoint that the stage needs, its own network first."""
        return (self.name, self.text_encoder, *self.networks[1:])

    @property
    def networks(self) -> tuple[str, ...]:
        """Components whose networks run while the stage samples: its UNet, and the autoencoder of a latent stage."""
        return (self.name, AUTOENCODER) if self.is_latent else (self.name,)

    @property
    def video_input(self) -> Stage | None:
        """Stage whose result can be a video of the user; None unless it is the only input."""
        return self.inputs[0] if len(self.inputs) == 1 else None

    def fps(self, output: OutputConfig) -> float:
        """Return the frames per second at which the result is shown."""
        return output.keyframes_fps if self.has_keyframe_rate else output.fps


def superres_starts(num_frames: int, window: int, stride: int) -> list[int]:
    """Return the first frame of every super-resolution window.

    Windows start every `stride` frames; the last one is moved back to end on the last frame. 29 frames in windows of 8
    with stride 7 give 0, 7, 14, 21, as in the original, which drops frames after the last full window; 61 frames end
    with 49, 53. A video shorter than a window is one window.
    """
    last = max(num_frames - window, 0)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def _keyframe_size(config: CascadeConfig, keyframes: Size) -> Size:
    return keyframes


def _upscaled_size(config: CascadeConfig, keyframes: Size) -> Size:
    scale = config.first_frame.scale
    return keyframes[0] * scale, keyframes[1] * scale


def _all_frames(config: CascadeConfig) -> int:
    return config.num_frames


def _num_superres_windows(config: CascadeConfig) -> int:
    return len(superres_starts(config.num_frames, config.superres_pixel.window, config.superres_pixel.stride))


def _num_images(config: CascadeConfig) -> int:
    return _num_superres_windows(config) if config.first_frame.frames == "window_starts" else 1


STAGE_TABLE: Final[dict[Stage, StageSpec]] = {
    spec.name: spec
    for spec in (
        StageSpec(
            name="keyframes",
            inputs=(),
            text_encoder="text_t5",
            condition="none",
            size=_keyframe_size,
            num_frames=lambda config: config.keyframes.num_frames,
            clip_frames=lambda config: config.keyframes.num_frames,
            has_keyframe_rate=True,
        ),
        StageSpec(
            name="interpolation",
            inputs=("keyframes",),
            text_encoder="text_t5",
            condition="keyframes",
            size=_keyframe_size,
            num_frames=_all_frames,
            clip_frames=lambda config: config.interpolation.num_between + 2,
            num_clips=lambda config: config.keyframes.num_frames - 1,
        ),
        StageSpec(
            name="first_frame",
            inputs=("interpolation",),
            text_encoder="text_t5",
            condition="low_resolution",
            size=_upscaled_size,
            num_frames=_num_images,
            clip_frames=lambda config: 1,
            num_clips=_num_images,
            is_image=True,
        ),
        StageSpec(
            name="superres_pixel",
            inputs=("interpolation", "first_frame"),
            text_encoder="text_t5",
            condition="low_resolution_and_first_frame",
            size=_upscaled_size,
            num_frames=_all_frames,
            clip_frames=lambda config: config.superres_pixel.window,
            num_windows=_num_superres_windows,
        ),
        StageSpec(
            name="superres_latent",
            inputs=("superres_pixel",),
            text_encoder="text_clip",
            condition="none",
            size=lambda config, keyframes: (config.superres_latent.height, config.superres_latent.width),
            num_frames=_all_frames,
            clip_frames=_all_frames,
            is_latent=True,
        ),
    )
}


def find_stage(name: str) -> StageSpec | None:
    """Return the row of a stage; None if the cascade has no stage of this name, such as the trained `autoencoder`."""
    return next((spec for spec in STAGE_TABLE.values() if spec.name == name), None)


def stages_before(stage: Stage) -> tuple[Stage, ...]:
    """Return the stages that run before a stage."""
    return STAGES[: STAGES.index(stage)]


def stages_from(stage: Stage) -> tuple[Stage, ...]:
    """Return a stage and the stages that run after it."""
    return STAGES[STAGES.index(stage) :]


def components(stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the components of a checkpoint that some stages need, each once: the stages' networks first."""
    shared = [name for stage in stages for name in STAGE_TABLE[stage].components[1:]]
    return tuple(dict.fromkeys([*stages, *shared]))


def text_encoders(stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """Return the text encoders that some stages need, each with the stages that it serves."""
    served: dict[str, list[Stage]] = {}
    for stage in stages:
        served.setdefault(STAGE_TABLE[stage].text_encoder, []).append(stage)
    return served


def computed_stages(stages: Sequence[Stage], *, has_image: bool) -> tuple[Stage, ...]:
    """Return those of the stages whose results are not simply the picture that the video begins with."""
    return tuple(stage for stage in stages if not (has_image and STAGE_TABLE[stage].is_image))


def runs_networks(stage: Stage, config: CascadeConfig, edit: VideoEdit | None, *, has_image: bool) -> bool:
    """Return whether the networks of a stage run: its result may be the user's picture, or an unchanged video.

    Args:
        stage: name of the stage.
        config: settings of the cascade.
        edit: stage that starts from a video, and how; None: all start as usual.
        has_image: the video begins with a picture.
    """
    if edit is not None and edit.stage == stage:
        return not edit.returns_video(config)
    return bool(computed_stages([stage], has_image=has_image))


def image_stages() -> list[Stage]:
    """Return the stages that use a picture that the video begins with."""
    return [stage for stage, spec in STAGE_TABLE.items() if spec.is_image or not spec.inputs]


def uses_image(stages: Collection[Stage]) -> bool:
    """Return whether one of these stages uses a picture that the video begins with."""
    return not set(stages).isdisjoint(image_stages())


def check_image_stages(stages: Sequence[Stage], *, has_edit: bool) -> None:
    """Refuse a choice of stages in which no stage uses a picture that the video begins with.

    Args:
        stages: stages to run.
        has_edit: one of them starts from a video.

    Raises:
        UserError: no stage uses it, or the video starts from another one.
    """
    if not uses_image(stages):
        using = " and ".join(image_stages())
        raise UserError(f"an image to begin with is used by {using}; run one of them, or give no image")
    if has_edit:
        raise UserError("give an image to begin with, or a video that a stage starts from, not both")


def check_inputs(stages: Sequence[Stage], given: Collection[Stage], *, has_image: bool = False) -> None:
    """Refuse a choice of stages if one of them lacks an input.

    Args:
        stages: stages to run.
        given: stages whose results exist already.
        has_image: the video begins with a picture.

    Raises:
        UserError: the line names the stage and the result that it needs.
    """
    for stage in computed_stages(stages, has_image=has_image):
        for needed in STAGE_TABLE[stage].inputs:
            if needed not in stages and needed not in given:
                raise UserError(f"stage {stage} needs the result of {needed}; run it as well, or give its video")
