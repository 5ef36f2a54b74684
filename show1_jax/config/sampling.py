"""Sampling settings of the cascade and its stages, with the original's released values as defaults."""

import dataclasses
from typing import Final, Literal, NamedTuple, get_args

from show1_jax.config.bounds import MAX_TIMESTEPS, MAX_VIDEO_PIXELS
from show1_jax.config.settings import Settings
from show1_jax.errors import UserError

Stage = Literal["keyframes", "interpolation", "first_frame", "superres_pixel", "superres_latent"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
AUTOENCODER: Final = "vae"
"""Name of the checkpoint component that maps pixels to latents and back; also its kind."""
SamplerName = Literal["checkpoint", "ddpm", "dpm_solver++", "ddim"]
Precision = Literal["auto", "float32", "bfloat16"]
Between = Literal["blend", "zeros"]
EnlargedFrames = Literal["first", "window_starts"]
TextPadding = Literal["encoded", "zeros"]
ResidentWeights = Literal["auto", "all", "one"]


class SamplerClass(NamedTuple):
    """A sampler's class in diffusers 0.19.3, with the defaults that differ between these classes.

    Attributes:
        name: name of the class.
        timestep_spacing: default of the setting of this name; the same for the other attributes.
        clip_sample: clip predicted samples.
        variance_type: kind of variance; None if the class has none.
    """

    name: str
    timestep_spacing: str
    clip_sample: bool
    variance_type: str | None


SAMPLER_CLASSES: Final[dict[str, SamplerClass]] = {
    "ddpm": SamplerClass("DDPMScheduler", "leading", clip_sample=True, variance_type="fixed_small"),
    # DPM-Solver has no clipping.
    "dpm_solver++": SamplerClass("DPMSolverMultistepScheduler", "linspace", clip_sample=False, variance_type=None),
    "ddim": SamplerClass("DDIMScheduler", "leading", clip_sample=True, variance_type=None),
}
"""Sampler classes by `SamplerName`, without `checkpoint`."""


@dataclasses.dataclass(frozen=True)
class StageConfig(Settings):
    """Settings of every stage."""

    num_steps: int
    """Number of denoising steps."""
    guidance_scale: float
    """Scale of classifier-free guidance; 1 or less samples from the prompt alone, at half the cost."""
    sampler: SamplerName = "checkpoint"
    """`checkpoint` uses the sampler of the checkpoint's scheduler; any other sampler uses the same noise schedule."""
    use_negative_prompt: bool = False
    """Condition the unconditional branch of guidance on the negative prompt; otherwise on the empty prompt."""
    guidance_min_timestep: int = 0
    """Lowest timestep with guidance. Outside the interval only the conditional branch runs, at half the cost
    (Kynkäänniemi et al. 2024, arXiv 2404.07724; their noise level of a timestep t is sigma_t / alpha_t)."""
    guidance_max_timestep: int = MAX_TIMESTEPS - 1
    """Highest timestep with guidance."""
    deep_every: int = 1
    """The network's deep levels are computed at one of this many steps; the steps between reuse their features
    (DeepCache, Ma et al. 2023, arXiv 2312.00858). 1: at every step."""
    fine_levels: int = 1
    """Levels of the network, finest first, that are computed at every step; used if `deep_every` is above 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance_min_timestep, self.guidance_max_timestep
        self._require(low <= high, f"guidance_min_timestep={low} must be at most guidance_max_timestep={high}")


@dataclasses.dataclass(frozen=True)
class KeyframesConfig(StageConfig):
    """Stage 1: keyframes of the whole video, at 2 frames per second.

    Example:
        >>> from show1_jax import KeyframesConfig
        >>> KeyframesConfig(num_steps=20).size
        (40, 64)
    """

    num_steps: int = 75
    guidance_scale: float = 9.0
    num_frames: int = 8
    height: int = 40
    width: int = 64
    image_passes: int = 1
    """Passes of every step of keyframes that begin with a picture: more take longer, and the other keyframes may
    agree better with it (RePaint, Lugmayr et al. 2022, arXiv 2201.09865). 1 only puts the picture in its place."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width


@dataclasses.dataclass(frozen=True)
class InterpolationConfig(StageConfig):
    """Stage 2: frames between every two neighbouring keyframes.

    Example:
        >>> from show1_jax import CascadeConfig, InterpolationConfig
        >>> CascadeConfig(interpolation=InterpolationConfig(num_between=1)).num_frames
        15
    """

    num_steps: int = 75
    guidance_scale: float = 4.0
    num_between: int = 3
    """Number of new frames between two keyframes; the released network was trained for 3."""
    between: Between = "blend"
    """Frames that the network is conditioned on between the keyframes: a linear `blend` of the keyframes, or `zeros`.
    The released network uses the blend, the paper zeros. Sampling must use the setting of training."""


@dataclasses.dataclass(frozen=True)
class FirstFrameConfig(StageConfig):
    """Stage 3a: super-resolution of the first frame, as an image; or of several frames, each an image of its own.

    Example:
        >>> from show1_jax import FirstFrameConfig
        >>> FirstFrameConfig(noise_level=50).guidance_scale
        4.0
    """

    num_steps: int = 70
    guidance_scale: float = 4.0
    noise_level: int = 150
    """Timestep to which the upsampled frame is noised; the network is conditioned on it."""
    scale: int = 4
    """Factor by which both pixel super-resolution stages enlarge height and width."""
    frames: EnlargedFrames = "first"
    """Frames that are enlarged: the `first` one, as in the original, so that every later window of pixel
    super-resolution starts from the last frame of the window before; or the first frame of every window
    (`window_starts`). Errors then do not grow from window to window, but details may change where a window starts."""


@dataclasses.dataclass(frozen=True)
class SuperresPixelConfig(StageConfig):
    """Stage 3b: super-resolution of the video in windows; each is conditioned on a finished first frame.

    Example:
        >>> from show1_jax import SuperresPixelConfig
        >>> SuperresPixelConfig(stride=8)
        Traceback (most recent call last):
            ...
        show1_jax.errors.UserError: SuperresPixelConfig: stride=8 must be smaller than window=8: windows share a frame
    """

    num_steps: int = 125
    guidance_scale: float = 7.0
    noise_level: int = 250
    """Timestep to which the upsampled clip is noised; the network is conditioned on it."""
    window: int = 8
    """Frames of a window."""
    stride: int = 7
    """Frames between the starts of two windows; less than `window`, so that windows overlap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.stride < self.window,
            f"stride={self.stride} must be smaller than window={self.window}: windows share a frame",
        )


@dataclasses.dataclass(frozen=True)
class SuperresLatentConfig(StageConfig):
    """Stage 4: latent super-resolution; the resized video is noised and denoised (SDEdit, arXiv 2108.01073).

    Example:
        >>> from show1_jax import SuperresLatentConfig
        >>> config = SuperresLatentConfig()
        >>> int(config.num_steps * config.strength)  # steps that run
        40
    """

    num_steps: int = 50
    guidance_scale: float = 15.0
    use_negative_prompt: bool = True
    strength: float = 0.8
    """Share of the denoising steps that run, above 0 and at most 1: the last ones; the video is noised accordingly."""
    height: int = 320
    width: int = 576

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.strength > 0, f"strength={self.strength} must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class MeshConfig(Settings):
    """Sizes of the axes of a device mesh; one of them may be -1, for all devices that the others leave."""

    data: int = -1
    """Axis over which the videos of a batch are sharded."""
    fsdp: int = 1
    """Axis over which weights are sharded, and also the videos, if their number is divisible."""
    tensor: int = 1
    """Axis over which the channels of wide layers and the heads of attention are sharded."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = dataclasses.astuple(self)
        self._require(all(size >= 1 or size == -1 for size in sizes), f"sizes must be positive or -1, not {sizes}")
        self._require(sizes.count(-1) <= 1, "only one axis can be -1")


@dataclasses.dataclass(frozen=True)
class SamplingMeshConfig(MeshConfig):
    """A device mesh for sampling that can shard a single video: its branches of guidance, and its rows."""

    guidance: int = 1
    """Axis of the two branches of guidance: 1 or 2. A stage without guidance shards rows over it."""
    height: int = 1
    """Axis over which the rows of every frame are sharded."""


@dataclasses.dataclass(frozen=True)
class CascadeConfig(Settings):
    """Settings of all stages, and settings that they share.

    Example:
        >>> from show1_jax import CascadeConfig, KeyframesConfig
        >>> CascadeConfig(keyframes=KeyframesConfig(num_frames=4)).num_frames
        13
    """

    keyframes: KeyframesConfig = KeyframesConfig()
    interpolation: InterpolationConfig = InterpolationConfig()
    first_frame: FirstFrameConfig = FirstFrameConfig()
    superres_pixel: SuperresPixelConfig = SuperresPixelConfig()
    superres_latent: SuperresLatentConfig = SuperresLatentConfig()
    negative_prompt: str = "low resolution, blur"
    """Negative prompt of the stages with `use_negative_prompt`, unless a prompt has its own."""
    text_padding: TextPadding = "encoded"
    """Text states after a text's last token, which no network masks: the encoder's output (`encoded`, as in the
    released networks' training), or `zeros`. Training, caches of text states and sampling must use the same."""
    mesh: SamplingMeshConfig = SamplingMeshConfig()
    precision: Precision = "auto"
    """Dtype of weights and activations; `auto` is bfloat16 on accelerators and float32 on CPUs."""
    memory_limit_gb: float = 0.0
    """Memory limit of each device, in GiB. A stage that needs more runs the branches of guidance sequentially; a T5
    encoder that needs more loads its blocks sequentially. 0: no limit."""
    resident_weights: ResidentWeights = "auto"
    """Networks whose weights are on the devices at the same time: `all`; those of `one` stage, so that several batches
    are sampled stage by stage; or `auto`: all, if they take at most half of the devices' memory, otherwise those of a
    stage and, if these fit, of the next one. With `memory_limit_gb`, `auto` is `one`."""

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
        """Number of frames after interpolation: 8 keyframes with 3 frames between every two give 29."""
        return (self.keyframes.num_frames - 1) * (self.interpolation.num_between + 1) + 1

    def stage(self, name: Stage) -> StageConfig:
        """Return the settings of a stage."""
        config = getattr(self, name)
        assert isinstance(config, StageConfig)
        return config

    def negative_text(self, stage: Stage, own: str | None = None) -> str | None:
        """Return the text of a stage's unconditional branch; None without guidance.

        Args:
            stage: name of the stage.
            own: negative prompt of the prompt itself, which replaces the config's.
        """
        config = self.stage(stage)
        if config.guidance_scale <= 1:
            return None
        if not config.use_negative_prompt:
            return ""
        return self.negative_prompt if own is None else own

    @classmethod
    def parse_stages(cls, names: str) -> tuple[Stage, ...]:
        """Return the stages of a comma-separated list, in the cascade's order.

        Raises:
            UserError: a name is not the name of a stage.
        """
        chosen = {name.strip() for name in names.split(",") if name.strip()}
        if unknown := sorted(chosen - set(STAGES)):
            raise UserError(f"no stage {', '.join(map(repr, unknown))}; the stages are {', '.join(STAGES)}")
        return tuple(stage for stage in STAGES if stage in chosen)
