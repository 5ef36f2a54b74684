"""The plan of a stage's training, from the config and from manifests only: no weight is loaded or computed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optax
from flax import nnx

from show1_jax.cascade.latents import latent_shape
from show1_jax.cascade.stages import AUTOENCODER, PIXEL_CHANNELS, StageSpec, find_stage
from show1_jax.checkpoints.adapters import AdapterConfig
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, is_hub_name, split_names
from show1_jax.checkpoints.manifest import Component
from show1_jax.checkpoints.networks import architecture_of, make_network
from show1_jax.checkpoints.random import new_component
from show1_jax.checkpoints.recorded_settings import with_settings
from show1_jax.config.config_file import Config
from show1_jax.config.training import (
    AutoencoderTrainingConfig,
    StageTrainingConfig,
    SuperresLatentTrainingConfig,
    TrainedStage,
)
from show1_jax.data.spec import ClipSpec
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.parallel.weights import WeightShapes, to_weights
from show1_jax.runtime import compute_dtype
from show1_jax.training.objectives import Objective, make_objective
from show1_jax.training.optimizer import make_optimizer
from show1_jax.training.trainable import lora_config, saves_adapter, trained_shapes


@dataclass(frozen=True)
class Plan:
    """Everything that is known of one stage's training before a weight is read.

    Attributes:
        stage: name of the trained stage.
        config: all settings.
        record: the trained network, as a checkpoint records it.
        starts_from: checkpoint with the initial weights; None: the network is initialised at random.
        checkpoints: checkpoints of the frozen networks; None if they do not exist.
        dtype: compute dtype of activations.
    """

    stage: TrainedStage
    config: Config
    record: Component
    starts_from: CheckpointSet | None
    checkpoints: CheckpointSet | None
    dtype: Any

    @property
    def training(self) -> StageTrainingConfig:
        """Training settings of the stage."""
        return self.config.train.stage(self.stage)

    @property
    def row(self) -> StageSpec | None:
        """Row of the stage table; None for the autoencoder, which is not a stage of the cascade."""
        return find_stage(self.stage)

    @property
    def component(self) -> str:
        """Name of the trained component in a checkpoint."""
        return trained_component(self.stage)

    @property
    def architecture(self) -> Architecture:
        """Architecture of the trained network."""
        return architecture_of(self.record)

    def overridden_settings(self) -> list[str]:
        """Return the settings of the config's network that the initial checkpoint overrides, by dotted name."""
        name = self.component
        if self.starts_from is None or name not in self.config.architecture:
            return []
        stated, fields = _record_from_config(self.config, self.stage), self.architecture.to_dict()
        measured = {"scaling_factor"}
        different = [field for field in fields.keys() - measured if fields[field] != stated.architecture[field]]
        roles = [role for role in stated.schedulers if stated.schedulers[role] != self.record.schedulers.get(role)]
        return sorted(
            [f"architecture.{name}.{field}" for field in different] + [f"schedulers.{name}.{role}" for role in roles]
        )

    @property
    def text(self) -> str | None:
        """Name of the text encoder's component; None for a stage without text."""
        return self.row.text_encoder if self.row else None

    @property
    def is_latent(self) -> bool:
        """True if the network works on the latents of a frozen autoencoder."""
        return self.row is not None and self.row.is_latent

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the components that every step runs and does not train."""
        encoder = (self.text,) if self.text and self.config.train.text.source == "encoder" else ()
        return (*encoder, AUTOENCODER) if self.is_latent else encoder

    def clip_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of one clean clip as the network takes it: (time, height, width, channels)."""
        spec = self.spec
        if self.is_latent:
            return latent_shape(self.autoencoder(), spec.num_frames, spec.height, spec.width)
        return spec.num_frames, spec.height, spec.width, PIXEL_CHANNELS

    def autoencoder(self) -> VAEConfig:
        """Return the architecture of the frozen autoencoder.

        Raises:
            UserError: there is no such component, or it is not an autoencoder.
        """
        architecture = architecture_of(self.frozen_record(AUTOENCODER))
        if not isinstance(architecture, VAEConfig):
            raise UserError(
                f"stage {self.stage}: the component {AUTOENCODER!r} is not an autoencoder; convert it again"
            )
        return architecture

    def frozen_record(self, name: str) -> Component:
        """Return the record of a frozen network, from its checkpoint or else from the config.

        Raises:
            UserError: neither the checkpoint nor the config has the network.
        """
        if self.checkpoints is not None and name in self.checkpoints.manifest.components:
            return self.checkpoints.component(name)
        if name not in self.config.architecture:
            raise UserError(f"neither {self.config.checkpoint} nor the config's architecture has {name}; convert it")
        return new_component(name, self.config.architecture[name], {}, {})

    def frozen_folder(self, name: str) -> Path:
        """Return the folder of the checkpoint that contains a frozen network.

        Raises:
            UserError: there is no checkpoint, or it lacks the network.
        """
        return (self.checkpoints or CheckpointSet.open(self.config.checkpoint)).path(name)

    @property
    def spec(self) -> ClipSpec:
        """Frames, size and rate of the training clips."""
        return clip_spec(self.config, self.stage)

    @property
    def video_seconds(self) -> float:
        """Seconds from the first frame to the last of the videos that the cascade makes."""
        return (self.config.keyframes.num_frames - 1) / self.config.output.keyframes_fps

    def scheduler(self, role: str) -> SchedulerConfig | None:
        """Return the network's noise schedule of a role (`scheduler`, `image_noising_scheduler`), or None."""
        released = self.record.schedulers.get(role)
        return SchedulerConfig.from_json(released) if released else None

    def objective(self) -> Objective:
        """Return the objective of the stage.

        Raises:
            UserError: the settings do not fit the stage, its schedules or its network.
        """
        schedule, noising = self.scheduler("scheduler"), self.scheduler("image_noising_scheduler")
        return make_objective(self.stage, self.training, self.config, schedule, noising, self.architecture)

    @property
    def keeps_latents(self) -> bool:
        """True if only the decoder of an autoencoder is trained, so that its latents do not change."""
        return isinstance(self.training, AutoencoderTrainingConfig) and self.training.decoder_only

    def optimizer(self) -> optax.GradientTransformation:
        """Return the optimiser, which maps gradients to updates of the trained weights."""
        return make_optimizer(self.training.optimizer, self.training.num_steps)

    def network(self) -> tuple["nnx.GraphDef[nnx.Module]", nnx.State]:
        """Return the network's structure and the shapes of its parameters: float32, with activations in `dtype`."""
        kind, remat = self.record.kind, self.training.remat
        return nnx.split(make_network(kind, self.architecture, dtype=self.dtype, remat=remat))

    def shapes(self) -> WeightShapes:
        """Return the shapes of all weights of the trained network, by path."""
        return to_weights(self.network()[1])

    def adapter(self) -> AdapterConfig | None:
        """Return the record of the adapter that the run trains; None if it saves a whole network."""
        if self.starts_from is None or not saves_adapter(self.training):
            return None
        base, lora = self.starts_from.manifest.digest(self.component), lora_config(self.training)
        return AdapterConfig(base) if lora is None else AdapterConfig(base, lora.rank, lora.alpha)

    @property
    def lora_scale(self) -> float:
        """Factor of the low-rank changes that are trained; 1 if there are none."""
        lora = lora_config(self.training)
        return 1.0 if lora is None else lora.alpha / lora.rank

    def trained_shapes(self) -> WeightShapes:
        """Return the shapes of the arrays that are trained, by path; all other weights of the network are frozen.

        Raises:
            UserError: the setting `trainable` or `lora.layers` names no weight.
        """
        return trained_shapes(self.training, self.shapes())


def make_plan(config: Config, stage: TrainedStage, platform: str) -> Plan:
    """Return the plan of a stage.

    Args:
        config: all settings.
        stage: name of the trained stage.
        platform: platform of the devices, e.g. "cpu"; selects the dtype of the precision `auto`.

    Raises:
        UserError: there is no network to train; or settings, schedules and sizes do not fit together.
    """
    training, dtype = config.train.stage(stage), compute_dtype(config.train.precision, platform)
    start = CheckpointSet.open(training.init) if training.init else None
    name = trained_component(stage)
    record = (
        _record_from_config(config, stage)
        if start is None
        else replace(start.component(name), provenance=start.provenance(name))
    )
    record = with_settings(record, name, config)
    plan = Plan(stage, config, record, start, _open_if_exists(config.checkpoint), dtype)
    _check_sizes(plan)
    plan.objective()
    return plan


def trained_component(stage: TrainedStage) -> str:
    """Return the name of the component that a stage trains."""
    row = find_stage(stage)
    return AUTOENCODER if row is None else row.name


def clip_spec(config: Config, stage: TrainedStage) -> ClipSpec:
    """Return frames, size and rate of a stage's training clips: those of its result when it is sampled."""
    training, fps = config.train.stage(stage), config.output.keyframes_fps
    if isinstance(training, AutoencoderTrainingConfig):
        return ClipSpec(1, fps * (config.interpolation.num_between + 1), training.height, training.width)
    row = find_stage(stage)
    assert row is not None
    frames = training.num_frames if isinstance(training, SuperresLatentTrainingConfig) else row.clip_frames(config)
    rate = fps if row.has_keyframe_rate else fps * (config.interpolation.num_between + 1)
    return ClipSpec(frames, rate, *row.size(config, config.keyframes.size))


def _record_from_config(config: Config, stage: TrainedStage) -> Component:
    """Return the record of a network that is trained from scratch."""
    name = trained_component(stage)
    if name not in config.architecture:
        raise UserError(
            f"the config has no architecture.{name} to train from scratch; add one, or start from a checkpoint with "
            f"--config.train.{stage}.init=DIR"
        )
    schedulers = config.schedulers.get(name, {})
    return new_component(name, config.architecture[name], schedulers, {"source": "train.py"})


def _check_sizes(plan: Plan) -> None:
    """Refuse clips whose height or width the network, or the autoencoder before it, cannot downsample."""
    multiple, spec = getattr(plan.architecture, "size_multiple", 1), plan.spec
    if plan.is_latent:
        vae, network = plan.autoencoder(), plan.architecture
        assert isinstance(network, UNetConfig)
        multiple = vae.size_multiple
        if network.in_channels != vae.latent_channels:
            raise UserError(
                f"stage {plan.stage}: its network takes {network.in_channels} channels and the autoencoder's latents "
                f"have {vae.latent_channels}; they must be equal"
            )
    if spec.height % multiple or spec.width % multiple:
        raise UserError(
            f"stage {plan.stage} cannot train on {spec.width}x{spec.height} (width x height): both must be multiples "
            f"of {multiple}; change the sizes in the config"
        )


def _open_if_exists(checkpoint: str) -> CheckpointSet | None:
    """Open the checkpoint of the frozen networks if it exists; some stages, and dry runs, do not require it."""
    exists = all(is_hub_name(path) or path.exists() for path in split_names(checkpoint))
    return CheckpointSet.open(checkpoint) if exists else None
