"""How the networks are trained: the settings of every stage, with the paper's values as defaults.

The paper states steps and hardware (100 thousand steps of the keyframe network on 48 A100 of 40 GB in three days; 16
of them for a day each for interpolation and first super-resolution), not batches and learning rates. Where it is
silent, these are the published ones of the networks that stages start from: DeepFloyd IF's for pixels (model card of
IF-I-XL: AdamW, 10 thousand steps of warm-up, half a cosine from 5e-5 to 5e-9, a tenth of the captions dropped), and
those of ModelScope's authors for latents (the training config of their later VGen: 3e-5, a tenth dropped). Batches are
ours: two clips for each of the paper's devices.
"""

import dataclasses
from typing import Final, Literal, get_args

from show1_jax.config.sampling import MeshConfig, Precision
from show1_jax.config.settings import Remat, Settings
from show1_jax.errors import UserError

TrainedStage = Literal["keyframes", "interpolation", "first_frame", "superres_pixel", "superres_latent", "autoencoder"]
TRAINED_STAGES: Final[tuple[TrainedStage, ...]] = get_args(TrainedStage)
LearningRateSchedule = Literal["constant", "cosine", "linear"]
DataName = Literal["synthetic", "videos"]
TextSourceName = Literal["encoder", "cache"]
OptimizerKind = Literal["adamw", "muon"]
ReconstructionError = Literal["absolute", "squared"]


def check_stage(name: str | None) -> TrainedStage:
    """The stage of that name.

    Raises:
        UserError: there is none.
    """
    for stage in TRAINED_STAGES:
        if stage == name:
            return stage
    raise UserError(f"--stage={name or ''} must be one of {', '.join(TRAINED_STAGES)}")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW (arXiv 1711.05101) or Muon, its learning rate over the steps, and the average of weights to sample from.

    The learning rate rises from 0 over the warm-up, then stays, or falls by a half cosine or a line to its final share
    at the last step.
    """

    kind: OptimizerKind = "adamw"
    """`muon` (arXiv 2502.16982) goes along all directions of a hidden matrix's gradient alike. Biases, norms, and the
    first and the last convolution are Adam's, with Nesterov's momentum and without decay."""
    learning_rate: float = 5e-5
    schedule: LearningRateSchedule = "cosine"
    warmup_steps: int = 10_000
    final_share: float = 1e-4
    """The learning rate at the last step, as a share of the highest."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Of weights with more than one axis: biases and norms are not decayed."""
    clip_norm: float = 1.0
    """Gradients longer than this, over all parameters, are scaled down to it; 0: never."""
    ema_decay: float = 0.9999
    """The average forgets 1 - this a step; while it is young it forgets faster, (1 + step) / (10 + step) is kept."""


@dataclasses.dataclass(frozen=True)
class StageTrainingConfig(Settings):
    """What the training of all stages shares."""

    num_steps: int = 100_000
    batch_size: int = 32
    """Clips a step, over all devices and processes."""
    num_microbatches: int = 1
    """A batch is run in so many parts, one after the other, whose gradients are added: the same step in less memory."""
    optimizer: OptimizerConfig = OptimizerConfig()
    init: str = ""
    """Checkpoint to start from; empty: from scratch."""
    remat: Remat = "full"
    """What the backward pass computes again, block by block: nothing (`none`), all but matrix products (`dots`), or
    everything (`full`), from the most memory to the least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.batch_size % self.num_microbatches == 0,
            f"num_microbatches={self.num_microbatches} does not divide batch_size={self.batch_size}",
        )


@dataclasses.dataclass(frozen=True)
class DenoisingTrainingConfig(StageTrainingConfig):
    """What the stages of the cascade share; all but the autoencoder."""

    text_dropout: float = 0.1
    """Share of clips that are trained without their caption, for classifier-free guidance (arXiv 2207.12598)."""
    num_timesteps: int = 1000
    """The network is trained on timesteps 0 to this - 1."""
    num_bands: int = 10
    """The loss is reported for so many equal bands of these timesteps."""
    variational_weight: float = 0.001
    """Weight of the variational bound, for networks that predict a variance (arXiv 2102.09672, section 3.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.num_bands <= self.num_timesteps,
            f"num_bands={self.num_bands} must be at most num_timesteps={self.num_timesteps}",
        )


@dataclasses.dataclass(frozen=True)
class InterpolationTrainingConfig(DenoisingTrainingConfig):
    """Stage 2 (section 3.4)."""

    max_noise_level: int = 100
    """The two end frames of the condition are noised up to a random timestep below this, which the network is not
    told: conditioning augmentation (arXiv 2106.15282). The released network is sampled with clean ends. Ours: the
    paper gives no level."""


@dataclasses.dataclass(frozen=True)
class SuperresPixelTrainingConfig(DenoisingTrainingConfig):
    """Both networks of stage 3 (section 3.5)."""

    max_noise_level: int = 1000
    """The low-resolution condition is noised up to a random timestep below this, which the network is told: all of
    them, as the paper's, can be sampled at any level; fewer are learned sooner."""


@dataclasses.dataclass(frozen=True)
class SuperresLatentTrainingConfig(DenoisingTrainingConfig):
    """Stage 4: an expert of the less noisy timesteps (section 3.6)."""

    num_timesteps: int = 900
    num_frames: int = 16
    """The released network is sampled with 29."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(learning_rate=3e-5))


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainingConfig(StageTrainingConfig):
    """The autoencoder of stage 4, on single frames; the released one was trained elsewhere (arXiv 2112.10752)."""

    error: ReconstructionError = "absolute"
    """Of a pixel: `absolute`, as Latent Diffusion's, or `squared`, which does not let small things be overlooked."""
    kl_weight: float = 1e-6
    """Weight of the latents' divergence from the unit Gaussian."""
    decoder_only: bool = False
    """Keep the encoder, and so the latents that other networks know, and better what is made of them. Needs `init`."""
    height: int = 256
    width: int = 256


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """What the networks are trained on."""

    name: DataName = "videos"
    """`videos`: a dataset of `python -m show1_jax.data build`; `synthetic`: the world of `show1_jax.data.synthetic`."""
    path: str = "datasets/videos"
    """Of `videos`: the folder that was built."""
    num_synthetic: int = 1_000_000
    """Of `synthetic`: scenes before they repeat."""
    spread: float = 1.0
    """Of `synthetic`: how far from the middle of their room things are put, as a share of it. Where little is left to
    chance there is less to learn."""
    pairs: float = 0.35
    """Of `synthetic`: share of the clips that show two things."""
    num_validation: int = 64
    """Clips that are kept from training, for the validation loss."""
    num_workers: int = 0
    """Processes that read and decode, for each process of the job; 0: this one, in threads."""
    max_failed_share: float = 0.01
    """The run stops once more than this share of the clips read cannot be decoded."""
    seed: int = 0
    """Of the order and the choice of clips."""


@dataclasses.dataclass(frozen=True)
class TextConfig(Settings):
    """Where the networks' text states come from."""

    source: TextSourceName = "encoder"
    """`encoder`: run frozen in every step; `cache`: read from what `python -m show1_jax.data encode_text` made."""
    cache: str = ""
    """Folder of the cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.source == "encoder" or bool(self.cache), "source='cache' needs its folder as cache=DIR")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """All stages, and what they share."""

    keyframes: DenoisingTrainingConfig = dataclasses.field(
        default_factory=lambda: DenoisingTrainingConfig(batch_size=96)
    )
    interpolation: InterpolationTrainingConfig = InterpolationTrainingConfig()
    first_frame: SuperresPixelTrainingConfig = SuperresPixelTrainingConfig()
    superres_pixel: SuperresPixelTrainingConfig = SuperresPixelTrainingConfig()
    superres_latent: SuperresLatentTrainingConfig = SuperresLatentTrainingConfig()
    autoencoder: AutoencoderTrainingConfig = AutoencoderTrainingConfig()
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    mesh: MeshConfig = dataclasses.field(default_factory=lambda: MeshConfig(data=1, fsdp=-1))
    precision: Precision = "auto"
    """Of activations; parameters, gradients and the optimiser are float32. `auto`: bfloat16 on accelerators."""
    seed: int = 0
    """Of the initial weights and all noise."""
    log_every: int = 50
    evaluate_every: int = 1000
    """Steps between validation losses; 0: never."""
    save_every: int = 1000
    sample_every: int = 5000
    """Steps between sampled videos; 0: never."""
    keep: int = 3
    """Checkpoints that are kept: the newest so many."""
    keep_every: int = 0
    """Checkpoints of steps that this divides are kept as well; 0: none."""

    def stage(self, name: TrainedStage) -> StageTrainingConfig:
        """The settings of a stage by its name."""
        config = getattr(self, name)
        assert isinstance(config, StageTrainingConfig)
        return config
