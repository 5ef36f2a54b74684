"""Training settings of every stage, with the paper's values as defaults.

The paper states steps and hardware (100 thousand steps of the keyframe network on 48 A100 of 40 GB in three days; 16
A100 for one day each for interpolation and for the first super-resolution), but neither batch sizes nor learning rates.
Values that it does not state are the published ones of the networks that the stages start from. For pixels these are
DeepFloyd IF's (model card of IF-I-XL: AdamW, 10 thousand warm-up steps, half a cosine from 5e-5 to 5e-9, a tenth of the
captions dropped). For latents they are ModelScope's (the training config of VGen, by the same authors: 3e-5, a tenth
dropped). Batch sizes are our choice: two clips for each of the paper's devices.
"""

import dataclasses
from typing import Final, Literal, get_args

from show1_jax.config.sampling import MeshConfig, Precision
from show1_jax.config.settings import Remat, Settings
from show1_jax.errors import UserError

TrainedStage = Literal["keyframes", "interpolation", "first_frame", "superres_pixel", "superres_latent", "autoencoder"]
TRAINED_STAGES: Final[tuple[TrainedStage, ...]] = get_args(TrainedStage)
LearningRateSchedule = Literal["constant", "cosine", "linear"]
DataName = Literal["synthetic", "videos", "files"]
TextSourceName = Literal["encoder", "cache"]
OptimizerKind = Literal["adamw", "muon"]
FrozenDtype = Literal["float32", "bfloat16"]
ReconstructionError = Literal["absolute", "squared"]
DenoisingLoss = Literal["squared", "motion"]
LOCAL_COPIES: Final = "~/.cache/show1_jax/data"


def check_stage(name: str | None) -> TrainedStage:
    """Return the stage of a name, as given by `--stage`.

    Raises:
        UserError: there is no such stage.
    """
    for stage in TRAINED_STAGES:
        if stage == name:
            return stage
    raise UserError(f"--stage={name or ''} must be one of {', '.join(TRAINED_STAGES)}")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW (arXiv 1711.05101) or Muon, the learning rate over the steps, and the average of weights for sampling.

    The learning rate rises from 0 during the warm-up. Then it is constant, or falls along half a cosine or a line to
    `final_share` of its highest value at the last step.
    """

    kind: OptimizerKind = "adamw"
    """`muon` (arXiv 2502.16982) updates a hidden matrix equally along all directions of its gradient. Biases, norms and
    the first and the last convolution use Adam, with Nesterov momentum and without weight decay."""
    learning_rate: float = 5e-5
    schedule: LearningRateSchedule = "cosine"
    warmup_steps: int = 10_000
    final_share: float = 1e-4
    """Learning rate at the last step, as a share of the highest learning rate."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Decay of weights with more than one axis; biases and norms are not decayed."""
    clip_norm: float = 1.0
    """Largest norm of the gradient over all parameters; a longer gradient is scaled down to it. 0: no clipping."""
    ema_decay: float = 0.9999
    """Decay of the average per step. In early steps it is at most (1 + step) / (10 + step)."""


@dataclasses.dataclass(frozen=True)
class StageTrainingConfig(Settings):
    """Training settings of every stage."""

    num_steps: int = 100_000
    batch_size: int = 32
    """Clips per step, over all devices and processes."""
    num_microbatches: int = 1
    """Number of parts of a batch that run sequentially; their gradients are added: the same step in less memory."""
    optimizer: OptimizerConfig = OptimizerConfig()
    init: str = ""
    """Checkpoint to start from; empty: random initial weights."""
    remat: Remat = "full"
    """Activations that the backward pass recomputes, block by block: `none`, all except matrix products (`dots`), or
    all (`full`); `none` needs the most memory and `full` the least."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.batch_size % self.num_microbatches == 0,
            f"num_microbatches={self.num_microbatches} does not divide batch_size={self.batch_size}",
        )


@dataclasses.dataclass(frozen=True)
class LoraConfig(Settings):
    """Low-rank adapters (arXiv 2106.09685) of some layers: a kernel W becomes W + alpha / rank * A B."""

    rank: int = 8
    """Columns of A and rows of B."""
    alpha: float = 8.0
    layers: str = "attention"
    """Layers whose kernels are adapted: `attention` (all projections of all attentions), `temporal_attention`,
    `spatial`, or a regular expression that matches a part of their dotted paths."""


@dataclasses.dataclass(frozen=True)
class DenoisingTrainingConfig(StageTrainingConfig):
    """Training settings of every stage except the autoencoder."""

    trainable: str = "all"
    """Weights to train: `all`; `attention` (all projections of all attentions); `temporal_attention` (queries, keys and
    values of the attentions over frames); `spatial`, all layers that do not see other frames; `lora`, low-rank
    adapters; or a regular expression that matches a part of their dotted paths. All others are frozen: this requires
    `init`, and the run saves an adapter."""
    lora: LoraConfig = LoraConfig()
    frozen_dtype: FrozenDtype = "float32"
    """Dtype of the network's frozen weights on the devices. `bfloat16` halves their memory, and rounds them; trained
    weights are float32 always."""
    loss: DenoisingLoss = "squared"
    """Loss of the prediction: its mean `squared` error, with the variational bound of a predicted variance; or the
    `motion` loss of Video Motion Customization (arXiv 2312.00845), which compares the changes from frame to frame of
    predicted and true noise, and leaves the variance alone."""
    text_dropout: float = 0.1
    """Share of clips whose caption is replaced by the empty text, for classifier-free guidance (arXiv 2207.12598)."""
    num_timesteps: int = 1000
    """Number of timesteps that the network is trained on: 0 to `num_timesteps` - 1."""
    num_bands: int = 10
    """Number of equal bands of these timesteps for which the loss is reported separately."""
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
    """Training settings of stage 2 (section 3.4)."""

    max_noise_level: int = 100
    """Exclusive upper limit of the random timestep to which the two end frames of the condition are noised; 0: they
    are clean. This is conditioning augmentation (arXiv 2106.15282). The network is not conditioned on the timestep. The
    released network is sampled with clean end frames. The default is our choice: the paper states no level."""


@dataclasses.dataclass(frozen=True)
class SuperresPixelTrainingConfig(DenoisingTrainingConfig):
    """Training settings of both networks of stage 3 (section 3.5)."""

    max_noise_level: int = 1000
    """Exclusive upper limit of the random timestep to which the low-resolution condition is noised. The network is
    conditioned on this timestep. With all timesteps, as in the paper, a network can be sampled at any level; fewer
    timesteps are learned in fewer steps."""
    max_contrast: float = 1.0
    """Largest factor of the low-resolution condition's contrast with its median colour, drawn for each clip; the least
    is 1. A style of thin lines or stripes is paler at low resolution than a plain thing. With about the inverse of its
    covered share, its adapter also draws things that the earlier stages made plain."""


@dataclasses.dataclass(frozen=True)
class SuperresLatentTrainingConfig(DenoisingTrainingConfig):
    """Training settings of stage 4, an expert for the less noisy timesteps (section 3.6)."""

    num_timesteps: int = 900
    num_frames: int = 16
    """Frames of a clip; the released network is sampled with 29."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: OptimizerConfig(learning_rate=3e-5))


@dataclasses.dataclass(frozen=True)
class AutoencoderTrainingConfig(StageTrainingConfig):
    """Training settings of stage 4's autoencoder, on single frames; the released one is from arXiv 2112.10752."""

    error: ReconstructionError = "absolute"
    """Error of a pixel: `absolute`, as in Latent Diffusion, or `squared`, with which small objects are not lost."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence of the latents from the unit Gaussian."""
    decoder_only: bool = False
    """Train the decoder only: the encoder does not change, nor do the latents of other networks. Requires `init`."""
    height: int = 256
    width: int = 256


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """Training data."""

    name: DataName = "videos"
    """`videos`: a dataset of `python -m show1_jax.data build`; `files`: a few videos and pictures of the user, without
    a dataset, for customisation; `synthetic`: the world of `show1_jax.data.synthetic`."""
    path: str = "datasets/videos"
    """For `videos`: folder of the dataset. For `files`: a video, a picture, or a folder of them. Both may be in
    a bucket."""
    local_copies: str = LOCAL_COPIES
    """For `videos`: folder in which each host keeps copies of datasets that are in buckets."""
    caption: str = ""
    """For `files`: caption of all of them; empty: the caption of `name.mp4` is in `name.txt`."""
    pan: float = 0.0
    """For `files`: largest distance that a picture moves across the frame during a clip, as a share of the frame's
    height, in a random direction; the pixels of its border are repeated. 0: it does not move."""
    zoom: float = 0.0
    """For `files`: largest share by which a picture grows or shrinks during a clip."""
    jitter: float = 0.0
    """For `files`: largest distance of a clip from its picture's own place, as a share of the frame's height, along
    each axis; and largest share by which the whole clip is larger or smaller."""
    num_synthetic: int = 1_000_000
    """For `synthetic`: number of scenes before they repeat."""
    spread: float = 1.0
    """For `synthetic`: largest distance of objects from the middle of their free space, as a share of it. Scenes with
    smaller values are less random, and so easier to learn."""
    pairs: float = 0.35
    """For `synthetic`: share of the clips that show two objects."""
    same_color: float = 0.0
    """For `synthetic`: share of the clips with two objects whose objects have one colour, and different shapes."""
    num_validation: int = 64
    """Clips that are used for the validation loss and the samples, and not for training; 0: there are neither."""
    num_workers: int = 0
    """Processes that read and decode, for each process of the run; 0: threads of the process itself."""
    max_failed_share: float = 0.01
    """The run stops if a larger share of the clips cannot be read."""
    seed: int = 0
    """Seed of the order and the choice of clips."""


@dataclasses.dataclass(frozen=True)
class TextConfig(Settings):
    """Source of the networks' text states."""

    source: TextSourceName = "encoder"
    """`encoder`: the frozen text encoder runs in every step; `cache`: from `python -m show1_jax.data encode_text`."""
    cache: str = ""
    """Folder of the cache, which may be in a bucket."""
    local_copies: str = LOCAL_COPIES
    """Folder in which each host keeps copies of caches that are in buckets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.source == "encoder" or bool(self.cache), "source='cache' needs its folder as cache=DIR")


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """Training settings of all stages, and settings that they share."""

    default_stage: str = ""
    """Stage to train if `--stage` is not given; empty: it must be given."""
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
    """Dtype of activations; parameters, gradients and optimiser are float32. `auto`: bfloat16 on accelerators."""
    seed: int = 0
    """Seed of the initial weights and all noise."""
    log_every: int = 50
    evaluate_every: int = 1000
    """Steps between validation losses; 0: never."""
    save_every: int = 1000
    sample_every: int = 5000
    """Steps between sampled videos; 0: never."""
    keep: int = 3
    """Number of newest saved steps that are kept."""
    keep_every: int = 0
    """Saved steps that are multiples of this number are also kept; 0: none."""

    def stage(self, name: TrainedStage) -> StageTrainingConfig:
        """Return the settings of a stage."""
        config = getattr(self, name)
        assert isinstance(config, StageTrainingConfig)
        return config
