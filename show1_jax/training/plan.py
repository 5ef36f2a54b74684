"""The plan of a stage's training, from the config and from manifests alone: nothing is loaded or computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optax
from flax import nnx

from show1_jax.cascade.latents import latent_shape
from show1_jax.cascade.stages import AUTOENCODER, PIXEL_CHANNELS, STAGE_TABLE, StageSpec
from show1_jax.checkpoints.checkpoint_set import CheckpointSet, split_names
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


@dataclass(frozen=True)
class Plan:
    """One stage's training.

    Attributes:
        stage: its name.
        config: all settings.
        record: its network, as a checkpoint records it.
        starts_from: the checkpoint with its initial weights; None: they are drawn at random.
        checkpoints: those of the networks that are not trained; None if they are not there.
        dtype: of activations.
    """

    stage: TrainedStage
    config: Config
    record: Component
    starts_from: CheckpointSet | None
    checkpoints: CheckpointSet | None
    dtype: Any

    @property
    def training(self) -> StageTrainingConfig:
        """The stage's own settings."""
        return self.config.train.stage(self.stage)

    @property
    def row(self) -> StageSpec | None:
        """The stage's row of the table; None for the autoencoder, which is no stage of the cascade."""
        return None if self.stage == "autoencoder" else STAGE_TABLE[self.stage]

    @property
    def component(self) -> str:
        """The component of a checkpoint that is trained."""
        return trained_component(self.stage)

    @property
    def architecture(self) -> Architecture:
        """Its network's."""
        return architecture_of(self.record)

    def overridden_settings(self) -> list[str]:
        """Return the settings of the config's network that the initial checkpoint overrides, by dotted name."""
        name = self.component
        if self.starts_from is None or name not in self.config.architecture:
            return []
        stated, fields = _described(self.config, self.stage), self.architecture.to_dict()
        measured = {"scaling_factor"}
        different = [field for field in fields.keys() - measured if fields[field] != stated.architecture[field]]
        roles = [role for role in stated.schedulers if stated.schedulers[role] != self.record.schedulers.get(role)]
        return sorted(
            [f"architecture.{name}.{field}" for field in different] + [f"schedulers.{name}.{role}" for role in roles]
        )

    @property
    def text(self) -> str | None:
        """The component that encodes its text; None without text."""
        return self.row.text_encoder if self.row else None

    @property
    def is_latent(self) -> bool:
        """Whether its network works on the latents of a frozen autoencoder."""
        return self.row is not None and self.row.is_latent

    @property
    def frozen(self) -> tuple[str, ...]:
        """The components that every step needs and does not train."""
        encoder = (self.text,) if self.text and self.config.train.text.source == "encoder" else ()
        return (*encoder, AUTOENCODER) if self.is_latent else encoder

    def clip_shape(self) -> tuple[int, int, int, int]:
        """Return the shape of a clean clip as its network gets it, (time, height, width, channels)."""
        spec = self.spec
        if self.is_latent:
            autoencoder = architecture_of(self.frozen_record(AUTOENCODER))
            assert isinstance(autoencoder, VAEConfig)
            return latent_shape(autoencoder, spec.num_frames, spec.height, spec.width)
        return spec.num_frames, spec.height, spec.width, PIXEL_CHANNELS

    def frozen_record(self, name: str) -> Component:
        """Return the record of a network that is not trained: its checkpoint's, or the config's."""
        if self.checkpoints is not None and name in self.checkpoints.manifest.components:
            return self.checkpoints.component(name)
        if name not in self.config.architecture:
            raise UserError(f"neither {self.config.checkpoint} nor the config's architecture has {name}; convert it")
        return new_component(name, self.config.architecture[name], {}, {})

    def frozen_folder(self, name: str) -> Path:
        """Return the checkpoint that holds a network that is not trained.

        Raises:
            UserError: there is no checkpoint, or it lacks the network.
        """
        return (self.checkpoints or CheckpointSet.open(self.config.checkpoint)).path(name)

    @property
    def spec(self) -> ClipSpec:
        """The clips that it is trained on."""
        return clip_spec(self.config, self.stage)

    def scheduler(self, role: str) -> SchedulerConfig | None:
        """Return a noise schedule of its network, by role; None if it has none."""
        released = self.record.schedulers.get(role)
        return SchedulerConfig.from_json(released) if released else None

    def objective(self) -> Objective:
        """Return the loss of its examples."""
        schedule, noising = self.scheduler("scheduler"), self.scheduler("image_noising_scheduler")
        return make_objective(self.stage, self.training, self.config, schedule, noising, self.architecture)

    @property
    def keeps_latents(self) -> bool:
        """Whether it is an autoencoder of which only the decoder is trained."""
        return isinstance(self.training, AutoencoderTrainingConfig) and self.training.decoder_only

    def optimizer(self) -> optax.GradientTransformation:
        """Return the optimiser: from gradients to updates of weights."""
        kept = ("encoder", "quant_conv") if self.keeps_latents else ()
        return make_optimizer(self.training.optimizer, self.training.num_steps, kept)

    def network(self) -> tuple["nnx.GraphDef[nnx.Module]", nnx.State]:
        """Return structure and parameter shapes: float32 parameters, activations in `dtype`."""
        kind, remat = self.record.kind, self.training.remat
        return nnx.split(make_network(kind, self.architecture, dtype=self.dtype, remat=remat))

    def shapes(self) -> WeightShapes:
        """Return the shapes of the weights."""
        return to_weights(self.network()[1])


def make_plan(config: Config, stage: TrainedStage, platform: str) -> Plan:
    """Return the plan of a stage.

    Args:
        config: all settings.
        stage: its name.
        platform: of the devices, e.g. "cpu"; decides the dtype of the precision `auto`.

    Raises:
        UserError: no network to train; or settings, schedules and sizes that do not fit together.
    """
    training, dtype = config.train.stage(stage), compute_dtype(config.train.precision, platform)
    start = CheckpointSet.open(training.init) if training.init else None
    record = _described(config, stage) if start is None else start.component(trained_component(stage))
    record = with_settings(record, trained_component(stage), config)
    plan = Plan(stage, config, record, start, _open_if_there(config.checkpoint), dtype)
    if plan.keeps_latents and start is None:
        raise UserError(f"stage {stage}: decoder_only=True keeps a checkpoint's encoder; say whose with init=DIR")
    _check_sizes(plan)
    plan.objective()
    return plan


def trained_component(stage: TrainedStage) -> str:
    """Return the component of a checkpoint that a stage trains."""
    return AUTOENCODER if stage == "autoencoder" else stage


def clip_spec(config: Config, stage: TrainedStage) -> ClipSpec:
    """Return the clips that a stage is trained on: frames, size and rate of its result when sampled."""
    training, fps = config.train.stage(stage), config.output.keyframes_fps
    if isinstance(training, AutoencoderTrainingConfig) or stage == "autoencoder":
        assert isinstance(training, AutoencoderTrainingConfig)
        return ClipSpec(1, fps * (config.interpolation.num_between + 1), training.height, training.width)
    row = STAGE_TABLE[stage]
    frames = training.num_frames if isinstance(training, SuperresLatentTrainingConfig) else row.clip_frames(config)
    rate = fps if row.has_keyframe_rate else fps * (config.interpolation.num_between + 1)
    return ClipSpec(frames, rate, *row.size(config, (config.keyframes.height, config.keyframes.width)))


def _described(config: Config, stage: TrainedStage) -> Component:
    """Return the record of a network that is trained from scratch."""
    name = trained_component(stage)
    if name not in config.architecture:
        raise UserError(
            f"the config has no architecture.{name} to train from scratch; state one, or start from a checkpoint with "
            f"--config.train.{stage}.init=DIR"
        )
    schedulers = config.schedulers.get(name, {})
    return new_component(name, config.architecture[name], schedulers, {"source": "train.py"})


def _check_sizes(plan: Plan) -> None:
    """Refuse clips whose sides the network, or the autoencoder in front of it, cannot halve."""
    multiple, spec = getattr(plan.architecture, "size_multiple", 1), plan.spec
    if plan.is_latent:
        vae, network = architecture_of(plan.frozen_record(AUTOENCODER)), plan.architecture
        assert isinstance(vae, VAEConfig)
        assert isinstance(network, UNetConfig)
        multiple = vae.size_multiple
        if network.in_channels != vae.latent_channels:
            raise UserError(
                f"stage {plan.stage}: its network takes {network.in_channels} channels and the autoencoder has "
                f"{vae.latent_channels} of latents; they must be as many"
            )
    if spec.height % multiple or spec.width % multiple:
        raise UserError(
            f"stage {plan.stage} cannot train on {spec.width}x{spec.height} (width x height): both must be multiples "
            f"of {multiple}; change the sizes in the config"
        )


def _open_if_there(checkpoint: str) -> CheckpointSet | None:
    """Open the checkpoint of frozen networks, if it is there: not every stage and no dry run needs it."""
    return CheckpointSet.open(checkpoint) if all(path.exists() for path in split_names(checkpoint)) else None
