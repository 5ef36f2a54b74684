"""The cascade: a checkpoint and settings in, prompts to videos."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from show1_jax.checkpoint_set import CheckpointSet
from show1_jax.diffusion import SchedulerConfig
from show1_jax.errors import UserError
from show1_jax.fit import check_network
from show1_jax.manifest import Manifest
from show1_jax.memory import blocks_in_turn, halves_in_turn
from show1_jax.models import LoadedNetwork, architecture_of, exact_float32
from show1_jax.noise import NoiseSource, SeededNoise
from show1_jax.parallel import check_finite, gather, make_mesh, platform_of, put_batch
from show1_jax.prompts import Prompt, check_negative, check_prompt
from show1_jax.samplers import DDPM, Sampler, make_sampler
from show1_jax.sampling_config import STAGES, CascadeConfig, Stage, check_inputs
from show1_jax.stages import (
    StageContext,
    interpolate,
    sample_keyframes,
    superres_first_frame,
    superres_latent,
    superres_pixel,
)
from show1_jax.text.encoders import encoder_of_kind
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.streaming import encode_by_blocks
from show1_jax.text.tokenizers import TextTokenizer, Tokens
from show1_jax.training_config import text_component
from show1_jax.weights import WeightPath

Video = Float32[np.ndarray, "b t h w c"]
OnStep = Callable[[Stage, int, int], None]
"""Called after every denoising step with the stage, the steps done and their total."""
OnStage = Callable[[Stage, Video], None]
"""Called with every stage's result as soon as it is there."""


class Networks(Protocol):
    """Where a cascade's networks come from: a `CheckpointSet`, or what stands in for one."""

    manifest: Manifest

    def load(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """A network, or the module at a path of it, with its weights on the devices of `mesh`."""

    def tokenizer(self, component: str) -> TextTokenizer:
        """The tokenizer of a text encoder."""


class Cascade:
    """Samples videos of prompts from a checkpoint, stage by stage; one stage's weights are in memory at a time.

    Example:
        >>> cascade = Cascade.load("checkpoints/show1")
        >>> videos = cascade.sample(["a burning lamborghini driving on a rainbow"], seeds=[345])
        >>> videos["superres_latent"].shape
        (1, 29, 320, 576, 3)
    """

    def __init__(self, networks: Networks, config: CascadeConfig, devices: Sequence[jax.Device] | None = None):
        self.networks = networks
        self.config = config
        self.manifest = networks.manifest
        self.mesh = make_mesh(config.mesh, devices)
        on_cpu = platform_of(self.mesh) == "cpu"
        self.dtype = jnp.dtype(
            ("float32" if on_cpu else "bfloat16") if config.precision == "auto" else config.precision
        )

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: CascadeConfig | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> Self:
        """Open a checkpoint that `python -m convert` or `train.py` made, or several.

        Args:
            checkpoint: its directory; of several, separated by commas, the later ones' components are taken. A training
                run's working directory stands for its newest step. Weights are read when a stage's turn comes.
            config: settings; the original's released ones if not given.
            devices: to use; all if not given.

        Raises:
            UserError: no checkpoint there, or settings that do not fit the devices.
        """
        return cls(CheckpointSet.open(checkpoint), config or CascadeConfig(), devices)

    def sample(
        self,
        prompts: Sequence[str | Prompt],
        seeds: Sequence[int] | None = None,
        *,
        stages: Sequence[Stage] = STAGES,
        given: Mapping[Stage, Video] | None = None,
        noise: NoiseSource | None = None,
        on_step: OnStep = lambda stage, done, total: None,
        on_stage: OnStage = lambda stage, video: None,
    ) -> dict[Stage, Video]:
        """Sample one video of each prompt, all in one batch.

        Args:
            prompts: texts, or `Prompt`s with a negative prompt and a seed of their own.
            seeds: of every video, 0 to 2^32 - 1; where a prompt has none and this is not given, 0, 1, ...
            stages: which stages to run, in the cascade's order.
            given: results of stages that are not run, (batch, time, height, width, 3) in [-1, 1], one a prompt.
            noise: every Gaussian draw; from the seeds if not given.
            on_step: called after every denoising step.
            on_stage: called with every stage's result.

        Returns:
            Each stage's videos, float32 (batch, time, height, width, 3) in about [-1, 1], not clamped;
            `show1_jax.video.to_uint8` makes frames of them.

        Raises:
            UserError: an empty or too long prompt, stages that lack their input, sizes that a network cannot take, or
                values that are not finite: the line names what gave them, of a stage its step.
        """
        asked = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        if not asked:
            raise UserError("no prompts; give at least one")
        for prompt in asked:
            check_prompt(prompt.text)
            check_negative(self.config.negative_prompt if prompt.negative is None else prompt.negative)
        if seeds is not None and len(seeds) != len(asked):
            raise UserError(f"{len(seeds)} seeds for {len(asked)} prompts; give one a prompt")
        chosen = tuple(stage for stage in STAGES if stage in stages)
        results = {stage: np.asarray(video, np.float32) for stage, video in (given or {}).items()}
        for stage, video in results.items():
            if video.ndim != 5 or video.shape[0] != len(asked) or video.shape[-1] != 3 or not video.size:
                wanted = f"({len(asked)} prompts, time, height, width, 3)"
                raise UserError(f"the video given for {stage} has shape {video.shape}, not {wanted}")
        self.check(chosen, results)

        padding = -len(asked) % self.mesh.shape["data"]
        batch = asked + [asked[-1]] * padding
        numbers = [
            (number if seeds is None else seeds[number]) if prompt.seed is None else prompt.seed
            for number, prompt in enumerate(asked)
        ]
        noise = noise or SeededNoise(numbers + [numbers[-1]] * padding, self.mesh)
        videos = {stage: put_batch(_pad(video, padding), self.mesh) for stage, video in results.items()}
        with exact_float32(self.dtype):
            texts = self._encode_texts(chosen, batch)
        for stage in chosen:
            with exact_float32(self.dtype):
                videos[stage] = self._run(stage, texts[stage], videos, noise, functools.partial(on_step, stage))
            results[stage] = gather(videos[stage], self.mesh)[: len(asked)]
            on_stage(stage, results[stage])
        return {stage: results[stage] for stage in chosen}

    def scheduler(self, stage: Stage) -> SchedulerConfig:
        """The noise schedule and sampler of a stage: the checkpoint's, or the checkpoint's with another sampler."""
        released = SchedulerConfig.from_json(self.manifest.component(stage).schedulers["scheduler"])
        name = self.config.stage(stage).sampler
        return released if name == "checkpoint" else released.with_sampler(name)

    def sampler(self, stage: Stage) -> Sampler:
        """The timesteps and coefficients with which a stage is sampled."""
        config = self.config.stage(stage)
        return make_sampler(self.scheduler(stage), config.num_steps, getattr(config, "strength", 1.0))

    def architecture(self, component: str) -> Any:
        """What the checkpoint says of a component's network."""
        return architecture_of(self.manifest.component(component))

    def check(self, stages: Sequence[Stage], given: Mapping[Stage, Video] | None = None) -> None:
        """Refuse, before any weight is read, settings and given videos that a stage cannot take.

        Raises:
            UserError: names the stage, the setting, and what it must be.
        """
        given = given or {}
        check_inputs(tuple(stages), set(given))
        sizes = self._sizes(given)
        for stage, video in given.items():
            if stage != "superres_pixel" and video.shape[2:4] != sizes[stage]:
                raise UserError(f"the video given for {stage} is {_size(video.shape[2:4])}, not {_size(sizes[stage])}")
            if stage == "first_frame" and video.shape[1] != 1:
                raise UserError(f"the video given for first_frame has {video.shape[1]} frames; it must have one")
            if not np.isfinite(video).all():
                raise UserError(f"the video given for {stage} has NaN or infinite values; give finite ones")
        self._check_stages(stages, sizes)

    def check_settings(self, stages: Sequence[Stage]) -> None:
        """Refuse settings that a stage cannot take, as `check` does, whatever it will be given."""
        self._check_stages(stages, self._sizes({}))

    def _check_stages(self, stages: Sequence[Stage], sizes: Mapping[Stage, tuple[int, int]]) -> None:
        for stage in stages:
            self._check_network(stage)
            multiple = self.architecture("vae" if stage == "superres_latent" else stage).size_multiple
            if any(side % multiple for side in sizes[stage]):
                raise UserError(
                    f"stage {stage} cannot make {_size(sizes[stage])}: width and height must be multiples of "
                    f"{multiple}; change the sizes in the config"
                )
            self._check_schedule(stage)

    def _check_network(self, stage: Stage) -> None:
        encoder = text_component(stage)
        assert encoder is not None
        autoencoder = self.architecture("vae") if stage == "superres_latent" else None
        record = self.manifest.component(stage)
        check_network(stage, record, self.architecture(stage), self.architecture(encoder), autoencoder)

    def _sizes(self, given: Mapping[Stage, Video]) -> dict[Stage, tuple[int, int]]:
        """Height and width of every stage's result."""
        keyframes, scale, latent = self.config.keyframes, self.config.first_frame.scale, self.config.superres_latent
        low = given.get("interpolation", given.get("keyframes"))
        height, width = (keyframes.height, keyframes.width) if low is None else low.shape[2:4]
        small, large = (height, width), (height * scale, width * scale)
        return {
            "keyframes": small,
            "interpolation": small,
            "first_frame": large,
            "superres_pixel": large,
            "superres_latent": (latent.height, latent.width),
        }

    def _check_schedule(self, stage: Stage) -> None:
        config = self.config.stage(stage)
        scheduler = self.scheduler(stage)
        self.sampler(stage)
        network = self.architecture(stage)
        learned = scheduler.class_name == DDPM and scheduler.variance_type in ("learned", "learned_range")
        # A latent network appends nothing to its sample; pixel networks make colours.
        channels = network.in_channels if stage == "superres_latent" else 3
        if learned and network.out_channels < 2 * channels:
            raise UserError(
                f"stage {stage}: DDPM with variance_type={scheduler.variance_type!r} needs a network that predicts "
                "a variance, and this one does not; take another sampler"
            )
        if (noising := self._noising_scheduler(stage)) is not None:
            level, levels = getattr(config, "noise_level", 0), noising.num_train_timesteps
            if not 0 <= level < levels:
                raise UserError(f"stage {stage}: noise_level={level} must be at least 0 and below {levels}")

    def _noising_scheduler(self, stage: Stage) -> SchedulerConfig | None:
        released = self.manifest.component(stage).schedulers.get("image_noising_scheduler")
        return SchedulerConfig.from_json(released) if released else None

    @contextlib.contextmanager
    def _loaded(self, component: str, part: WeightPath = ()) -> Iterator[LoadedNetwork]:
        """A network, or a part of it, with its weights on the devices for as long as the block lasts."""
        network = self.networks.load(component, self.mesh, self.dtype, part)
        try:
            yield network
        finally:
            for array in jax.tree.leaves(network.weights):
                array.delete()

    def _encode_texts(self, stages: Sequence[Stage], prompts: Sequence[Prompt]) -> dict[Stage, Float[Array, "b g n d"]]:
        """For every stage the states of its negative prompts and its prompts, or of its prompts alone."""
        texts: dict[Stage, Float[Array, "b g n d"]] = {}
        for component, served in (("text_t5", STAGES[:-1]), ("text_clip", STAGES[-1:])):
            mine = [stage for stage in stages if stage in served]
            if not mine:
                continue
            halves = {stage: self._halves(stage, prompts) for stage in mine}
            states = self._encode(component, list(dict.fromkeys(lines for half in halves.values() for lines in half)))
            for stage in mine:
                texts[stage] = jnp.stack([states[lines] for lines in halves[stage]], axis=1)
        return texts

    def _halves(self, stage: Stage, prompts: Sequence[Prompt]) -> list[tuple[str, ...]]:
        """The texts of both halves of guidance, or of the one where there is no guidance."""
        positive = tuple(prompt.text for prompt in prompts)
        negative = [self.config.guided_away_from(stage, prompt.negative) for prompt in prompts]
        guided = tuple(text for text in negative if text is not None)
        return [guided, positive] if guided else [positive]

    def _encode(self, component: str, batches: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Any]:
        """The states of batches of texts."""
        tokenizer, padding = self.networks.tokenizer(component), self.config.text_padding
        tokens = [Tokens(*(put_batch(array, self.mesh) for array in tokenizer(lines))) for lines in batches]
        encoder = encoder_of_kind(self.manifest.component(component).kind)
        with jax.set_mesh(self.mesh):
            if encoder.streams and blocks_in_turn(self, component, len(batches[0])):
                load = functools.partial(self._loaded, component)
                states = encode_by_blocks(load, self.architecture(component).num_layers, tokens, padding, self.dtype)
            else:
                with self._loaded(component) as (graph, weights, _):
                    states = [encode_text_jit(encoder, graph, weights, batch, padding) for batch in tokens]
        for array in states:
            check_finite(array, self.mesh, f"the text encoder {component}")
        return dict(zip(batches, states, strict=True))

    def _run(
        self,
        stage: Stage,
        text: Float[Array, "b g n d"],
        videos: Mapping[Stage, Any],
        noise: NoiseSource,
        on_step: Callable[[int, int], None],
    ) -> Any:
        config = self.config
        with contextlib.ExitStack() as stack:
            context = StageContext(
                stage=stage,
                network=stack.enter_context(self._loaded(stage)),
                scheduler=self.scheduler(stage),
                noising_scheduler=self._noising_scheduler(stage),
                text=text,
                noise=noise,
                mesh=self.mesh,
                on_step=on_step,
                halves_in_turn=halves_in_turn(self, stage, len(text)),
            )
            match stage:
                case "keyframes":
                    return sample_keyframes(context, config.keyframes)
                case "interpolation":
                    return interpolate(context, config.interpolation, videos["keyframes"])
                case "first_frame":
                    return superres_first_frame(context, config.first_frame, videos["interpolation"])
                case "superres_pixel":
                    low, first = videos["interpolation"], videos["first_frame"]
                    return superres_pixel(context, config.superres_pixel, low, first, config.first_frame.scale)
                case "superres_latent":
                    autoencoder = stack.enter_context(self._loaded("vae"))
                    return superres_latent(context, config.superres_latent, videos["superres_pixel"], autoencoder)


def _pad(video: Video, padding: int) -> Video:
    """Repeat the last video, so that the batch divides over the devices."""
    return np.concatenate([video, *[video[-1:]] * padding])


def _size(sides: Sequence[int]) -> str:
    height, width = sides
    return f"{width}x{height} (width x height)"
