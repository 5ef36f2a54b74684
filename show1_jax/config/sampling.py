"""How the cascade is sampled: the settings of its stages, with the original's released values as defaults."""

import dataclasses
from typing import Final, Literal, NamedTuple, get_args

from show1_jax.config.bounds import MAX_VIDEO_PIXELS
from show1_jax.config.settings import Settings
from show1_jax.errors import UserError

Stage = Literal["keyframes", "interpolation", "first_frame", "superres_pixel", "superres_latent"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
AUTOENCODER: Final = "vae"
"""The component of a checkpoint that maps pixels to latents and back; also its kind."""
SamplerName = Literal["checkpoint", "ddpm", "dpm_solver++", "ddim"]
Precision = Literal["auto", "float32", "bfloat16"]
Between = Literal["blend", "zeros"]
TextPadding = Literal["encoded", "zeros"]


class SamplerClass(NamedTuple):
    """A sampler's class in diffusers 0.19.3, with the defaults in which those classes differ."""

    name: str
    timestep_spacing: str
    clip_sample: bool
    variance_type: str | None


SAMPLER_CLASSES: Final[dict[str, SamplerClass]] = {
    "ddpm": SamplerClass("DDPMScheduler", "leading", clip_sample=True, variance_type="fixed_small"),
    # DPM-Solver knows no clipping.
    "dpm_solver++": SamplerClass("DPMSolverMultistepScheduler", "linspace", clip_sample=False, variance_type=None),
    "ddim": SamplerClass("DDIMScheduler", "leading", clip_sample=True, variance_type=None),
}
"""By `SamplerName`; `checkpoint` is none of them."""


@dataclasses.dataclass(frozen=True)
class StageConfig(Settings):
    """What all stages share."""

    num_steps: int
    """Denoising steps."""
    guidance_scale: float
    """Classifier-free guidance; 1 or less samples from the prompt alone, at half the cost."""
    sampler: SamplerName = "checkpoint"
    """`checkpoint` takes the sampler of the checkpoint's scheduler; another one keeps its noise schedule."""
    use_negative_prompt: bool = False
    """Guide away from the negative prompt; otherwise from the empty prompt."""


@dataclasses.dataclass(frozen=True)
class KeyframesConfig(StageConfig):
    """Stage 1: keyframes of the whole video, at 2 frames a second."""

    num_steps: int = 75
    guidance_scale: float = 9.0
    num_frames: int = 8
    height: int = 40
    width: int = 64


@dataclasses.dataclass(frozen=True)
class InterpolationConfig(StageConfig):
    """Stage 2: frames between each two keyframes."""

    num_steps: int = 75
    guidance_scale: float = 4.0
    num_between: int = 3
    """New frames between two keyframes; the released network was trained for 3."""
    between: Between = "blend"
    """What the network is told of these frames: the linear `blend` of the two keyframes, as the released network was
    trained and is run, or the paper's `zeros`. A network is to be sampled as it was trained."""


@dataclasses.dataclass(frozen=True)
class FirstFrameConfig(StageConfig):
    """Stage 3a: super-resolution of the first frame, as an image."""

    num_steps: int = 70
    guidance_scale: float = 4.0
    noise_level: int = 150
    """Timestep up to which the upsampled frame is noised, and which the network is told."""
    scale: int = 4
    """Factor of both super-resolution stages over pixels."""


@dataclasses.dataclass(frozen=True)
class SuperresPixelConfig(StageConfig):
    """Stage 3b: super-resolution of the video in windows; each starts from a finished frame."""

    num_steps: int = 125
    guidance_scale: float = 7.0
    noise_level: int = 250
    """Timestep up to which the upsampled clip is noised, and which the network is told."""
    window: int = 8
    stride: int = 7
    """Frames between the starts of two windows; smaller than the window, so that they overlap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.stride < self.window,
            f"stride={self.stride} must be smaller than window={self.window}: windows share a frame",
        )


@dataclasses.dataclass(frozen=True)
class SuperresLatentConfig(StageConfig):
    """Stage 4: the video, resized, noised in latent space and denoised again (SDEdit, arXiv 2108.01073)."""

    num_steps: int = 50
    guidance_scale: float = 15.0
    use_negative_prompt: bool = True
    strength: float = 0.8
    """Share of the steps that is run, from as noisy a start."""
    height: int = 320
    width: int = 576

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.strength > 0, f"strength={self.strength} must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class MeshConfig(Settings):
    """Sizes of the mesh's axes; one may be -1 and takes what the others leave."""

    data: int = -1
    """Videos of a batch are spread over it."""
    fsdp: int = 1
    """Weights are spread over it; so are the videos, where they divide."""
    tensor: int = 1
    """The channels of wide layers, and the heads of attention, are spread over it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = dataclasses.astuple(self)
        self._require(all(size >= 1 or size == -1 for size in sizes), f"sizes must be positive or -1, not {sizes}")
        self._require(sizes.count(-1) <= 1, "only one axis can be -1")


@dataclasses.dataclass(frozen=True)
class SamplingMeshConfig(MeshConfig):
    """A mesh for sampling, which can spread one video: first its halves of guidance, then its rows."""

    guidance: int = 1
    """The two halves of guidance are spread over it: 1 or 2. A stage without guidance spreads rows in their place."""
    height: int = 1
    """The rows of every frame are spread over it."""


@dataclasses.dataclass(frozen=True)
class CascadeConfig(Settings):
    """All stages, and what they share."""

    keyframes: KeyframesConfig = KeyframesConfig()
    interpolation: InterpolationConfig = InterpolationConfig()
    first_frame: FirstFrameConfig = FirstFrameConfig()
    superres_pixel: SuperresPixelConfig = SuperresPixelConfig()
    superres_latent: SuperresLatentConfig = SuperresLatentConfig()
    negative_prompt: str = "low resolution, blur"
    """For the stages with `use_negative_prompt`, unless a prompt brings its own."""
    text_padding: TextPadding = "encoded"
    """What networks see after a text's last token, which no network masks: what the encoder gives there (`encoded`,
    as the released networks were trained), or `zeros`. Training, caches of text states and sampling must agree."""
    mesh: SamplingMeshConfig = SamplingMeshConfig()
    precision: Precision = "auto"
    """Of weights and activations; `auto` is bfloat16 on accelerators and float32 on CPUs."""
    memory_limit_gb: float = 0.0
    """Of each device, in GiB: a stage that would need more runs the branches of guidance sequentially, the T5 encoder
    its blocks. 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        frames = self.num_frames
        pixels = self.keyframes.height * self.keyframes.width * self.first_frame.scale**2
        pixels = frames * max(pixels, self.superres_latent.height * self.superres_latent.width)
        self._require(
            pixels <= MAX_VIDEO_PIXELS,
            f"{frames} frames of these sizes have {pixels:,} pixels, over {MAX_VIDEO_PIXELS:,}",
        )

    @property
    def num_frames(self) -> int:
        """Frames of a video after interpolation: 8 keyframes with 3 frames between each two give 29."""
        return (self.keyframes.num_frames - 1) * (self.interpolation.num_between + 1) + 1

    def stage(self, name: Stage) -> StageConfig:
        """The settings of a stage by its name."""
        config = getattr(self, name)
        assert isinstance(config, StageConfig)
        return config

    def negative_text(self, stage: Stage, own: str | None = None) -> str | None:
        """Return the text of a stage's unconditional branch; None without guidance.

        Args:
            stage: its name.
            own: negative prompt that the prompt brings, in place of the config's.
        """
        config = self.stage(stage)
        if config.guidance_scale <= 1:
            return None
        if not config.use_negative_prompt:
            return ""
        return self.negative_prompt if own is None else own

    @classmethod
    def parse_stages(cls, names: str) -> tuple[Stage, ...]:
        """Stages from a comma-separated list, in the cascade's order.

        Raises:
            UserError: a name is none of a stage.
        """
        asked = {name.strip() for name in names.split(",") if name.strip()}
        if unknown := sorted(asked - set(STAGES)):
            raise UserError(f"no stage {', '.join(map(repr, unknown))}; the stages are {', '.join(STAGES)}")
        return tuple(stage for stage in STAGES if stage in asked)
