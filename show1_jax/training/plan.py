"""What a stage's training is, known from the config and from manifests alone: nothing is loaded or computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from show1_jax.checkpoint_set import CheckpointSet, split_names
from show1_jax.config import Architecture, UNetConfig, VAEConfig
from show1_jax.data.spec import ClipSpec
from show1_jax.diffusion import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.manifest import Component
from show1_jax.models import architecture_of, build
from show1_jax.random_checkpoint import new_component
from show1_jax.request import SampleConfig
from show1_jax.training.objectives import Objective, make_objective
from show1_jax.training.optimizer import make_optimizer
from show1_jax.training_config import (
    COMPONENTS,
    AutoencoderTrainingConfig,
    StageTrainingConfig,
    SuperresLatentTrainingConfig,
    TrainedStage,
    text_component,
)
from show1_jax.weights import Weights, to_weights


@dataclass(frozen=True)
class Plan:
    """One stage's training.

    Attributes:
        stage: its name.
        config: all settings.
        record: what a checkpoint says of its network.
        starts_from: the checkpoint that its first weights come from; None: they are made.
        checkpoints: of the networks that are not trained; None if they are not there.
        dtype: of activations.
    """

    stage: TrainedStage
    config: SampleConfig
    record: Component
    starts_from: CheckpointSet | None
    checkpoints: CheckpointSet | None
    dtype: Any

    @property
    def training(self) -> StageTrainingConfig:
        """The stage's own settings."""
        return self.config.train.stage(self.stage)

    @property
    def component(self) -> str:
        """The component of a checkpoint that is trained."""
        return COMPONENTS[self.stage]

    @property
    def architecture(self) -> Architecture:
        """Its network's."""
        return architecture_of(self.record)

    def overruled(self) -> list[str]:
        """What the config states of its network and the one that it starts from, which is trained as it is, has not."""
        name = self.component
        if self.starts_from is None or name not in self.config.architecture:
            return []
        stated, fields = _made_here(self.config, self.stage), self.architecture.to_dict()
        measured = {"scaling_factor"}
        different = [field for field in fields.keys() - measured if fields[field] != stated.architecture[field]]
        roles = [role for role in stated.schedulers if stated.schedulers[role] != self.record.schedulers.get(role)]
        overruled = [f"architecture.{name}.{field}" for field in different]
        return sorted(overruled + [f"schedulers.{name}.{role}" for role in roles])

    @property
    def text(self) -> str | None:
        """The component that encodes its text, if any."""
        return text_component(self.stage)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The components that every step needs and does not train."""
        encoder = (self.text,) if self.text and self.config.train.text.source == "encoder" else ()
        return (*encoder, "vae") if self.stage == "superres_latent" else encoder

    def frozen_record(self, name: str) -> Component:
        """What is known of a network that is not trained: its checkpoint's record, or what the config would make."""
        if self.checkpoints is not None and name in self.checkpoints.manifest.components:
            return self.checkpoints.component(name)
        if name not in self.config.architecture:
            raise UserError(f"neither {self.config.checkpoint} nor the config's architecture has {name}; convert it")
        return new_component(name, self.config.architecture[name], {}, {})

    def frozen_folder(self, name: str) -> Path:
        """The checkpoint that holds a network that is not trained.

        Raises:
            UserError: there is no checkpoint, or it lacks the network.
        """
        return (self.checkpoints or CheckpointSet.open(self.config.checkpoint)).path(name)

    @property
    def spec(self) -> ClipSpec:
        """The clips that it is trained on."""
        return clip_spec(self.config, self.stage)

    def scheduler(self, role: str) -> SchedulerConfig | None:
        """A noise schedule of its network, by role."""
        released = self.record.schedulers.get(role)
        return SchedulerConfig.from_json(released) if released else None

    def objective(self) -> Objective:
        """The loss of its examples."""
        schedule, noising = self.scheduler("scheduler"), self.scheduler("image_noising_scheduler")
        return make_objective(self.stage, self.training, self.config, schedule, noising, self.architecture)

    @property
    def keeps_latents(self) -> bool:
        """Whether it is an autoencoder of which only the decoder is trained."""
        return isinstance(self.training, AutoencoderTrainingConfig) and self.training.decoder_only

    def optimizer(self) -> optax.GradientTransformation:
        """Its gradients to updates of its weights."""
        kept = ("encoder", "quant_conv") if self.keeps_latents else ()
        return make_optimizer(self.training.optimizer, self.training.num_steps, kept)

    def network(self) -> tuple["nnx.GraphDef[nnx.Module]", nnx.State]:
        """Structure and parameter shapes: float32 parameters, activations in `dtype`."""
        kind, remat = self.record.kind, self.training.remat
        return nnx.split(build(kind, self.architecture, dtype=self.dtype, remat=remat))

    def shapes(self) -> Weights:
        """Shapes of the weights."""
        return to_weights(self.network()[1])


def make_plan(config: SampleConfig, stage: TrainedStage, platform: str) -> Plan:
    """The plan of a stage.

    Args:
        config: all settings.
        stage: its name.
        platform: of the devices, e.g. "cpu"; decides what the precision `auto` is.

    Raises:
        UserError: no network to train; or settings, schedules and sizes that do not fit together.
    """
    training, precision = config.train.stage(stage), config.train.precision
    automatic = "float32" if platform == "cpu" else "bfloat16"
    dtype = jnp.dtype(automatic if precision == "auto" else precision)
    start = CheckpointSet.open(training.init) if training.init else None
    record = _made_here(config, stage) if start is None else start.component(COMPONENTS[stage])
    plan = Plan(stage, config, record, start, _open_if_there(config.checkpoint), dtype)
    if plan.keeps_latents and start is None:
        raise UserError(f"stage {stage}: decoder_only=True keeps a checkpoint's encoder; say whose with init=DIR")
    _check_sizes(plan)
    plan.objective()
    return plan


def clip_spec(config: SampleConfig, stage: TrainedStage) -> ClipSpec:
    """What a stage is trained on: as many frames of the size and rate that it makes when sampled."""
    training, key, between = config.train.stage(stage), config.keyframes, config.interpolation.num_between
    keyframes_fps = config.output.keyframes_fps
    fps, scale, latent = keyframes_fps * (between + 1), config.first_frame.scale, config.superres_latent
    match stage:
        case "keyframes":
            return ClipSpec(key.num_frames, keyframes_fps, key.height, key.width)
        case "interpolation":
            return ClipSpec(between + 2, fps, key.height, key.width)
        case "first_frame":
            return ClipSpec(1, fps, key.height * scale, key.width * scale)
        case "superres_pixel":
            return ClipSpec(config.superres_pixel.window, fps, key.height * scale, key.width * scale)
        case "superres_latent":
            assert isinstance(training, SuperresLatentTrainingConfig)
            return ClipSpec(training.num_frames, fps, latent.height, latent.width)
        case "autoencoder":
            assert isinstance(training, AutoencoderTrainingConfig)
            return ClipSpec(1, fps, training.height, training.width)


def _made_here(config: SampleConfig, stage: TrainedStage) -> Component:
    """The record of a network that is trained from scratch."""
    name = COMPONENTS[stage]
    if name not in config.architecture:
        raise UserError(
            f"the config has no architecture.{name} to train from scratch; state one, or start from a checkpoint with "
            f"--config.train.{stage}.init=DIR"
        )
    schedulers = config.schedulers.get(name, {})
    return new_component(name, config.architecture[name], schedulers, {"source": "train.py"})


def _check_sizes(plan: Plan) -> None:
    """Refuse clips whose sides the network, or the autoencoder in front of it, cannot halve."""
    multiple = getattr(plan.architecture, "size_multiple", 1)
    if plan.stage == "superres_latent":
        vae, network = VAEConfig.from_dict(plan.frozen_record("vae").architecture), plan.architecture
        assert isinstance(network, UNetConfig)
        multiple = vae.size_multiple
        if network.in_channels != vae.latent_channels:
            raise UserError(
                f"stage {plan.stage}: its network takes {network.in_channels} channels and the autoencoder has "
                f"{vae.latent_channels} of latents; they must be as many"
            )
    spec = plan.spec
    if spec.height % multiple or spec.width % multiple:
        raise UserError(
            f"stage {plan.stage} cannot train on {spec.width}x{spec.height} (width x height): both must be multiples "
            f"of {multiple}; change the sizes in the config"
        )


def _open_if_there(checkpoint: str) -> CheckpointSet | None:
    """The checkpoint of frozen networks; not every stage and no dry run needs it."""
    return CheckpointSet.open(checkpoint) if all(path.exists() for path in split_names(checkpoint)) else None
