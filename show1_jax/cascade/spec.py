"""Facts about a cascade before weights are read: settings, architectures, schedules, samplers, sizes, and checks.

The checks that a component is the network of a stage serve training, too.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from show1_jax.cascade.denoise import StepKind, step_kinds
from show1_jax.cascade.stages import (
    AUTOENCODER,
    PIXEL_CHANNELS,
    STAGE_TABLE,
    Size,
    StageSpec,
    check_image_stages,
    check_inputs,
    computed_stages,
)
from show1_jax.checkpoints.adapter_set import Adapter
from show1_jax.checkpoints.manifest import Component, Manifest
from show1_jax.checkpoints.networks import architecture_of
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.config.video_edit import VideoEdit
from show1_jax.diffusion.samplers import DDPM, Sampler, make_sampler
from show1_jax.diffusion.schedule import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.nn.config import Architecture, UNetConfig, VAEConfig
from show1_jax.nn.text_architecture import TextArchitecture
from show1_jax.parallel import make_mesh, platform_of
from show1_jax.runtime import compute_dtype
from show1_jax.text.encoders import TextEncoder, encoder_of_kind


@dataclass(frozen=True)
class CascadeSpec:
    """A cascade without its weights.

    Attributes:
        config: settings of the cascade.
        manifest: components of a checkpoint, or of a checkpoint that a config describes.
        mesh: mesh of the devices that the cascade runs on.
        dtype: dtype of weights and activations.
        adapters: adapters of the networks, which are added to their weights.
    """

    config: CascadeConfig
    manifest: Manifest
    mesh: Mesh
    dtype: jnp.dtype
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def of(
        cls,
        config: CascadeConfig,
        manifest: Manifest,
        devices: Sequence[jax.Device] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> "CascadeSpec":
        """Return the spec of a config, a manifest and adapters on some devices, by default on all devices.

        Raises:
            UserError: the config's mesh does not fit the devices.
        """
        mesh = make_mesh(config.mesh, devices)
        return cls(config, manifest, mesh, compute_dtype(config.precision, platform_of(mesh)), tuple(adapters))

    def architecture(self, component: str) -> Any:
        """Return the architecture of a component's network.

        Raises:
            UserError: there is no such component.
        """
        return architecture_of(self.manifest.component(component))

    def adapters_of(self, component: str) -> tuple[Adapter, ...]:
        """Return the adapters that change a component's weights."""
        return tuple(adapter for adapter in self.adapters if adapter.component == component and adapter.strength)

    def text_encoder(self, component: str) -> TextEncoder:
        """Return the row of a text encoder's component.

        Raises:
            UserError: there is no such component, or it is not a text encoder.
        """
        return encoder_of_kind(self.manifest.component(component).kind)

    def scheduler(self, stage: Stage) -> SchedulerConfig:
        """Return the noise schedule and sampler of a stage: the checkpoint's schedule, with the config's sampler."""
        released = SchedulerConfig.from_json(self.manifest.component(stage).schedulers["scheduler"])
        name = self.config.stage(stage).sampler
        return released if name == "checkpoint" else released.with_sampler(name)

    def noising_scheduler(self, stage: Stage) -> SchedulerConfig | None:
        """Return the schedule that noises the condition of a stage, or None if the checkpoint has none."""
        released = self.manifest.component(stage).schedulers.get("image_noising_scheduler")
        return SchedulerConfig.from_json(released) if released else None

    def sampler(self, stage: Stage) -> Sampler:
        """Return the timesteps and coefficients of a stage's sampling."""
        config = self.config.stage(stage)
        return make_sampler(self.scheduler(stage), config.num_steps, getattr(config, "strength", 1.0))

    def step_kinds(self, stage: Stage) -> tuple[StepKind, ...]:
        """Return the kinds of a stage's steps, each once; the first one reads all weights."""
        return tuple(dict.fromkeys(step_kinds(self.config.stage(stage), self.sampler(stage))))

    def sample_channels(self, stage: Stage) -> int:
        """Return the channels of a stage's noisy sample: of pixels, or of the autoencoder's latents."""
        return self.architecture(AUTOENCODER).latent_channels if STAGE_TABLE[stage].is_latent else PIXEL_CHANNELS

    def sizes(self, given: Mapping[Stage, np.ndarray]) -> dict[Stage, Size]:
        """Return height and width in pixels of every stage's result, if some results are given."""
        low = given.get("interpolation", given.get("keyframes"))
        keyframes = self.config.keyframes.size if low is None else low.shape[2:4]
        return {stage: spec.size(self.config, keyframes) for stage, spec in STAGE_TABLE.items()}

    def with_sizes_of(self, given: Mapping[Stage, np.ndarray]) -> "CascadeSpec":
        """Return the spec whose settings have the frames and sizes of given keyframes or of a given interpolation."""
        low = given.get("interpolation", given.get("keyframes"))
        if low is None:
            return self
        frames_apart = self.config.interpolation.num_between + 1 if "interpolation" in given else 1
        frames, height, width = low.shape[1:4]
        keyframes = dataclasses.replace(
            self.config.keyframes, num_frames=(frames - 1) // frames_apart + 1, height=height, width=width
        )
        return dataclasses.replace(self, config=dataclasses.replace(self.config, keyframes=keyframes))

    def check(
        self, stages: Sequence[Stage], given: Mapping[Stage, np.ndarray] | None = None, *, has_image: bool = False
    ) -> None:
        """Refuse settings and given videos that do not fit a stage.

        Args:
            stages: stages to run.
            given: results of stages that do not run, (batch, time, height, width, 3).
            has_image: the videos begin with a picture.

        Raises:
            UserError: the line names the stage, the setting, and its allowed values.
        """
        given = given or {}
        check_inputs(stages, given, has_image=has_image)
        sizes = self.sizes(given)
        for stage, video in given.items():
            spec = STAGE_TABLE[stage]
            # A whole video at high resolution may have any size: the latent stage resizes it.
            is_resized = any(
                STAGE_TABLE[after].is_latent and stage in STAGE_TABLE[after].inputs for after in STAGE_TABLE
            )
            if not is_resized and video.shape[2:4] != sizes[stage]:
                raise UserError(
                    f"the video given for {stage} is {_size_text(video.shape[2:4])}, not {_size_text(sizes[stage])}"
                )
            if spec.is_image and video.shape[1] not in (allowed := sorted({1, spec.num_frames(self.config)})):
                numbers = " or ".join(map(str, allowed))
                raise UserError(f"the video given for {stage} has {video.shape[1]} frames; it must have {numbers}")
            if not np.isfinite(video).all():
                raise UserError(f"the video given for {stage} has NaN or infinite values; give finite ones")
        self._check_stages(computed_stages(stages, has_image=has_image), sizes)

    def check_edit(
        self, edit: VideoEdit | None, stages: Sequence[Stage], video: np.ndarray | None, num_videos: int
    ) -> None:
        """Refuse an edit that does not fit the stages or the schedule, and a video that does not fit its stage.

        Args:
            edit: stage that starts from a video, and how.
            stages: stages to run.
            video: the videos, (batch, time, height, width, 3).
            num_videos: number of videos that are sampled.

        Raises:
            UserError: the line names the stage and what does not fit.
        """
        if edit is None:
            if video is not None:
                raise UserError("a video to start from needs an edit: the stage that starts from it, and its strength")
            return
        if edit.stage != next((stage for stage in STAGES if stage in stages), None):
            raise UserError(f"stage {edit.stage} starts from a video, so that it must be the first stage to run")
        most = self.scheduler(edit.stage).num_train_timesteps
        if edit.inversion_steps > most:
            raise UserError(
                f"inversion_steps={edit.inversion_steps} must be at most {most}, the timesteps of stage {edit.stage}"
            )
        spec = STAGE_TABLE[edit.stage]
        if spec.is_latent:
            if video is not None:
                raise UserError(f"stage {edit.stage} starts from the video given for {spec.inputs[0]}; give no other")
            return
        num_frames = spec.num_frames(edit.settings(self.config))
        shape = (num_videos, num_frames, *self.sizes({})[edit.stage], PIXEL_CHANNELS)
        if video is None or video.shape != shape:
            found = "no video" if video is None else f"a video of shape {video.shape}"
            raise UserError(f"stage {edit.stage} must start from a video of shape {shape}, not from {found}")
        if not np.isfinite(video).all():
            raise UserError(f"the video that stage {edit.stage} starts from has NaN or infinite values")

    @property
    def size_of_image(self) -> Size:
        """Height and width of a picture that stands for the result of the stage that makes an image."""
        return next(size for stage, size in self.sizes({}).items() if STAGE_TABLE[stage].is_image)

    def check_image(self, image: np.ndarray, stages: Sequence[Stage], num_videos: int, edit: VideoEdit | None) -> None:
        """Refuse pictures that videos cannot begin with.

        Args:
            image: the pictures, (batch, height, width, 3).
            stages: stages to run.
            num_videos: number of videos that are sampled.
            edit: stage that starts from a video.

        Raises:
            UserError: the line names what does not fit.
        """
        check_image_stages(stages, has_edit=edit is not None)
        if image.ndim != 4 or image.shape[0] != num_videos or image.shape[-1] != 3 or not image.size:
            wanted = f"({num_videos} prompts, height, width, 3)"
            raise UserError(f"the image to begin with has shape {image.shape}, not {wanted}")
        if not np.isfinite(image).all():
            raise UserError("the image to begin with has NaN or infinite values; give finite ones")

    def check_settings(self, stages: Sequence[Stage]) -> None:
        """Refuse settings that do not fit a stage, as `check` does, before its inputs are known."""
        self._check_stages(stages, self.sizes({}))

    def _check_stages(self, stages: Sequence[Stage], sizes: Mapping[Stage, Size]) -> None:
        for stage in stages:
            self._check_network(stage)
            multiple = self.architecture(AUTOENCODER if STAGE_TABLE[stage].is_latent else stage).size_multiple
            if any(side % multiple for side in sizes[stage]):
                raise UserError(
                    f"stage {stage} cannot make {_size_text(sizes[stage])}: width and height must be multiples of "
                    f"{multiple}; change the sizes in the config"
                )
            self._check_schedule(stage)
            self._check_levels(stage)

    def _check_network(self, stage: Stage) -> None:
        spec, record = STAGE_TABLE[stage], self.manifest.component(stage)
        autoencoder = self.architecture(AUTOENCODER) if spec.is_latent else None
        encoder = self.architecture(spec.text_encoder)
        for problem in network_problems(spec, record, self.architecture(stage), encoder, autoencoder):
            raise UserError(f"stage {stage}: {problem}; use the checkpoint of a network that was made for this stage")

    def _check_levels(self, stage: Stage) -> None:
        config, levels = self.config.stage(stage), len(self.architecture(stage).block_out_channels)
        if config.deep_every > 1 and config.fine_levels > levels:
            raise UserError(
                f"stage {stage}: fine_levels={config.fine_levels} must be at most {levels}, the levels of its network"
            )

    def _check_schedule(self, stage: Stage) -> None:
        scheduler, config = self.scheduler(stage), self.config.stage(stage)
        self.sampler(stage)
        learned = scheduler.class_name == DDPM and scheduler.variance_type in ("learned", "learned_range")
        if learned and self.architecture(stage).out_channels < 2 * self.sample_channels(stage):
            raise UserError(
                f"stage {stage}: DDPM with variance_type={scheduler.variance_type!r} needs a network that predicts "
                "a variance, and this one does not; use another sampler"
            )
        if (noising := self.noising_scheduler(stage)) is not None:
            level, levels = getattr(config, "noise_level", 0), noising.num_train_timesteps
            if not 0 <= level < levels:
                raise UserError(f"stage {stage}: noise_level={level} must be at least 0 and below {levels}")


def network_problems(
    spec: StageSpec, record: Component, network: Architecture, encoder: Architecture, autoencoder: Architecture | None
) -> Iterator[str]:
    """Yield the reasons why a component is not a network of a stage, although its weights fit its architecture.

    Args:
        spec: row of the stage.
        record: record of the component in the manifest.
        network: architecture of the component.
        encoder: architecture of the stage's text encoder.
        autoencoder: architecture of the autoencoder; None if the stage works on pixels.

    Yields:
        Parts of an error, without the stage's name; none if the component is a network of the stage.
    """
    for role in spec.scheduler_roles:
        if role not in record.schedulers:
            yield f"the checkpoint has no {role} for it"
    if not isinstance(network, UNetConfig):
        yield f"its component is a network of kind {record.kind!r}, not 'unet'"
        return
    channels = PIXEL_CHANNELS
    if spec.is_latent:
        if not isinstance(autoencoder, VAEConfig):
            yield f"the checkpoint's component {AUTOENCODER!r} is not an autoencoder"
            return
        channels = autoencoder.latent_channels
    yield from unet_problems(spec, network, channels)
    width = encoder.state_width if isinstance(encoder, TextArchitecture) else None
    if network.raw_text_dim != width:
        yield f"it takes text states of width {network.raw_text_dim}, not {width}"


def unet_problems(spec: StageSpec, network: UNetConfig, channels: int) -> Iterator[str]:
    """Yield the reasons why a UNet does not fit a stage whose noisy sample has a number of channels."""
    needed = channels + spec.condition_channels
    if network.in_channels != needed:
        yield f"in_channels={network.in_channels} of its network must be {needed}"
    if network.out_channels not in (channels, 2 * channels):
        given = f"out_channels={network.out_channels} of its network"
        yield f"{given} must be {channels}, or {2 * channels} with a variance"
    if network.noise_level_embedding != spec.is_noised:
        yield f"noise_level_embedding={network.noise_level_embedding} of its network must be {spec.is_noised}"


def _size_text(sides: Sequence[int]) -> str:
    height, width = sides
    return f"{width}x{height} (width x height)"
