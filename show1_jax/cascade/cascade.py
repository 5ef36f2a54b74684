"""The cascade: samples videos for prompts with the networks of a checkpoint."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from show1_jax.cascade.conditions import SAMPLING, StageContext
from show1_jax.cascade.latents import AutoencoderCodec
from show1_jax.cascade.memory import is_guidance_sequential, is_text_streamed
from show1_jax.cascade.noise import NoiseSource, SeededNoise
from show1_jax.cascade.prompts import Prompt, check_negative, check_prompt
from show1_jax.cascade.spec import CascadeSpec
from show1_jax.cascade.stages import AUTOENCODER, STAGE_TABLE, text_encoders
from show1_jax.checkpoints.checkpoint_set import CheckpointSet
from show1_jax.checkpoints.networks import LoadedNetwork
from show1_jax.checkpoints.recorded_settings import recorded_config
from show1_jax.config.sampling import STAGES, CascadeConfig, Stage
from show1_jax.errors import UserError
from show1_jax.parallel import check_finite, gather, put_batch
from show1_jax.parallel.weights import WeightPath
from show1_jax.runtime import exact_float32
from show1_jax.text.encoding import encode_text_jit
from show1_jax.text.streaming import encode_by_blocks
from show1_jax.text.tokenizers import TextTokenizer, Tokens

HostVideo = Float32[np.ndarray, "b t h w c"]
OnStageStep = Callable[[Stage, int, int], None]
"""Function that is called after every denoising step with the stage, the number of finished steps and their total."""
OnStage = Callable[[Stage, HostVideo], None]
"""Function that is called with every stage's result, as soon as the stage is finished."""


@runtime_checkable
class LoadNetwork(Protocol):
    """A function that loads networks, such as `CheckpointSet.load`."""

    def __call__(self, component: str, mesh: Mesh, dtype: DTypeLike, part: WeightPath = ()) -> LoadedNetwork:
        """Return a network, or its module at the path `part`, with weights on the devices of `mesh`."""


class Cascade:
    """The networks and settings that sample videos; one stage's weights are on the devices at a time.

    Attributes:
        spec: settings, architectures, mesh and dtype.

    Example:
        >>> cascade = Cascade.load("checkpoints/show1")
        >>> videos = cascade.sample(["a burning lamborghini driving on a rainbow"], seeds=[345])
        >>> videos["superres_latent"].shape
        (1, 29, 320, 576, 3)
    """

    def __init__(self, spec: CascadeSpec, load: LoadNetwork, tokenizer: Callable[[str], TextTokenizer]):
        """Create a cascade; `Cascade.load` creates one from a checkpoint.

        Args:
            spec: settings, architectures, mesh and dtype.
            load: function that loads a component's network.
            tokenizer: function that returns the tokenizer of a text encoder's component.
        """
        self.spec = spec
        self._load = load
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        config: CascadeConfig | None = None,
        devices: Sequence[jax.Device] | None = None,
    ) -> "Cascade":
        """Open one or several checkpoints that `python -m convert` or `train.py` made; weights are read stage by stage.

        Args:
            checkpoint: directory of a checkpoint, or several separated by commas: components of later ones replace
                those of earlier ones. For the working directory of a training run, its newest intact step is used.
            config: settings; by default those that the checkpoint records for its networks.
            devices: devices to use; all by default.

        Raises:
            UserError: there is no checkpoint, or the settings do not fit the devices.
        """
        checkpoints = CheckpointSet.open(checkpoint)
        return cls.of(checkpoints, config or recorded_config(checkpoints.manifest, str(checkpoint)), devices)

    @classmethod
    def of(
        cls, checkpoints: CheckpointSet, config: CascadeConfig, devices: Sequence[jax.Device] | None = None
    ) -> "Cascade":
        """Return the cascade of opened checkpoints; see `Cascade.load`."""
        spec = CascadeSpec.of(config, checkpoints.manifest, devices)
        return cls(spec, checkpoints.load, checkpoints.tokenizer)

    def with_config(self, config: CascadeConfig) -> "Cascade":
        """Return a cascade with the same networks and devices, and other settings."""
        spec = CascadeSpec.of(config, self.spec.manifest, list(self.spec.mesh.devices.flat))
        return type(self)(spec, self._load, self._tokenizer)

    def sample(
        self,
        prompts: Sequence[str | Prompt],
        seeds: Sequence[int] | None = None,
        *,
        stages: Sequence[Stage] = STAGES,
        given: Mapping[Stage, np.ndarray] | None = None,
        noise: NoiseSource | None = None,
        on_step: OnStageStep = lambda stage, done, total: None,
        on_stage: OnStage = lambda stage, video: None,
    ) -> dict[Stage, Float32[np.ndarray, "b _ _ _ 3"]]:
        """Sample one video for each prompt, all in one batch.

        Args:
            prompts: texts, or `Prompt`s, which can have a negative prompt and a seed.
            seeds: seed of every video, 0 to 2^32 - 1; by default 0, 1, ... The seed of a `Prompt` replaces it.
            stages: stages to run, in any order; they run in the cascade's order.
            given: results of stages that do not run, (batch, time, height, width, 3) in [-1, 1], one video per prompt.
            noise: source of all Gaussian draws; by default they are drawn from the seeds.
            on_step: called after every denoising step.
            on_stage: called with every stage's result.

        Returns:
            The videos of each stage that ran, float32 (batch, time, height, width, 3) in about [-1, 1], not clamped;
            `show1_jax.to_uint8` converts them to 8-bit frames.

        Raises:
            UserError: a prompt is empty or too long, a stage lacks its input, a network does not support a size, or
                values are not finite; the line then names their origin, e.g. the stage and its step.
        """
        all_prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        if not all_prompts:
            raise UserError("no prompts; give at least one")
        for prompt in all_prompts:
            check_prompt(prompt.text)
            check_negative(self.spec.config.negative_prompt if prompt.negative is None else prompt.negative)
        if seeds is not None and len(seeds) != len(all_prompts):
            raise UserError(f"{len(seeds)} seeds for {len(all_prompts)} prompts; give one for each prompt")
        chosen = tuple(stage for stage in STAGES if stage in stages)
        results = {stage: np.asarray(video, np.float32) for stage, video in (given or {}).items()}
        for stage, video in results.items():
            if video.ndim != 5 or video.shape[0] != len(all_prompts) or video.shape[-1] != 3 or not video.size:
                wanted = f"({len(all_prompts)} prompts, time, height, width, 3)"
                raise UserError(f"the video given for {stage} has shape {video.shape}, not {wanted}")
        self.spec.check(chosen, results)

        mesh, dtype = self.spec.mesh, self.spec.dtype
        padding = -len(all_prompts) % mesh.shape["data"]
        batch = all_prompts + [all_prompts[-1]] * padding
        numbers = [
            (number if seeds is None else seeds[number]) if prompt.seed is None else prompt.seed
            for number, prompt in enumerate(all_prompts)
        ]
        noise = noise or SeededNoise(numbers + [numbers[-1]] * padding, mesh)
        videos = {stage: put_batch(_pad(video, padding), mesh) for stage, video in results.items()}
        texts = self.encode_prompts(chosen, batch)
        for stage in chosen:
            with exact_float32(dtype):
                videos[stage] = self._run(stage, texts[stage], videos, noise, functools.partial(on_step, stage))
            results[stage] = gather(videos[stage], mesh)[: len(all_prompts)]
            on_stage(stage, results[stage])
        return {stage: results[stage] for stage in chosen}

    @contextlib.contextmanager
    def network(self, component: str, part: WeightPath = ()) -> Iterator[LoadedNetwork]:
        """Load a network, or its module at the path `part`; its weights are deleted when the block ends.

        Yields:
            The network, with its weights on the devices.

        Raises:
            UserError: there is no such component, or its files are damaged.
        """
        network = self._load(component, self.spec.mesh, self.spec.dtype, part)
        try:
            yield network
        finally:
            for array in jax.tree.leaves(network.weights):
                array.delete()

    def encode_texts(self, component: str, batches: Sequence[Sequence[str]]) -> list[Float[Array, "b n d"]]:
        """Encode batches of texts with a text encoder, which is loaded once.

        Args:
            component: component of the text encoder, e.g. "text_t5".
            batches: batches of texts, all of the same size.

        Returns:
            The states of each batch, (texts, tokens, channels), padded as the setting `text_padding` says.

        Raises:
            UserError: there is no such component, its files are damaged, or the states are not finite.
        """
        spec, mesh, padding = self.spec, self.spec.mesh, self.spec.config.text_padding
        tokenizer, encoder = self._tokenizer(component), spec.text_encoder(component)
        size = len(batches[0]) if batches else 0
        if not size:
            return [
                jnp.zeros((0, encoder.length, spec.architecture(component).state_width), spec.dtype) for _ in batches
            ]
        filled = [
            [*texts, *[""] * (-size % mesh.shape["data"])] for texts in batches
        ]  # the data axis must divide a batch
        tokens = [Tokens(*(put_batch(array, mesh) for array in tokenizer(texts))) for texts in filled]
        with exact_float32(spec.dtype), jax.set_mesh(mesh):
            if is_text_streamed(spec, component, len(filled[0])):
                load, num_layers = functools.partial(self.network, component), spec.architecture(component).num_layers
                states = encode_by_blocks(load, num_layers, tokens, padding, spec.dtype)
            else:
                with self.network(component) as (graph, weights, _):
                    states = [encode_text_jit(encoder, graph, weights, batch, padding) for batch in tokens]
        for array in states:
            check_finite(array, mesh, f"the text encoder {component}")
        return states if len(filled[0]) == size else [array[:size] for array in states]

    def encode_prompts(
        self, stages: Sequence[Stage], prompts: Sequence[str | Prompt]
    ) -> dict[Stage, Float[Array, "b _ _ _"]]:
        """Encode prompts for some stages; each text encoder is loaded once.

        Returns:
            The states of the negative prompts and the prompts of every stage, (videos, 2, tokens, channels), in this
            order. For a stage without guidance, the states of the prompts alone, (videos, 1, tokens, channels).

        Raises:
            UserError: see `encode_texts`.
        """
        all_prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        states: dict[Stage, Float[Array, "b _ _ _"]] = {}
        for component, served in text_encoders(stages).items():
            branches = {stage: self._branch_texts(stage, all_prompts) for stage in served}
            batches = list(dict.fromkeys(texts for branch in branches.values() for texts in branch))
            encoded = dict(zip(batches, self.encode_texts(component, batches), strict=True))
            for stage in served:
                states[stage] = jnp.stack([encoded[texts] for texts in branches[stage]], axis=1)
        return states

    def _branch_texts(self, stage: Stage, prompts: Sequence[Prompt]) -> list[tuple[str, ...]]:
        """Return the texts of the unconditional and the conditional branch; without guidance only the latter."""
        positive = tuple(prompt.text for prompt in prompts)
        negative = [self.spec.config.negative_text(stage, prompt.negative) for prompt in prompts]
        guided = tuple(text for text in negative if text is not None)
        return [guided, positive] if guided else [positive]

    def _run(
        self,
        stage: Stage,
        text: Float[Array, "b g n d"],
        videos: Mapping[Stage, Any],
        noise: NoiseSource,
        on_step: Callable[[int, int], None],
    ) -> Any:
        spec, mesh = self.spec, self.spec.mesh
        with contextlib.ExitStack() as stack:
            network = stack.enter_context(self.network(stage))
            is_latent = STAGE_TABLE[stage].is_latent
            context = StageContext(
                stage=stage,
                network=network,
                scheduler=spec.scheduler(stage),
                noising_scheduler=spec.noising_scheduler(stage),
                text=text,
                noise=noise,
                mesh=mesh,
                on_step=on_step,
                sequential_guidance=is_guidance_sequential(spec, stage, len(text)),
                codec=AutoencoderCodec(stack.enter_context(self.network(AUTOENCODER)), mesh) if is_latent else None,
            )
            return SAMPLING[stage](context, spec.config, videos)


def _pad(video: HostVideo, padding: int) -> Float32[np.ndarray, "b+{padding} t h w c"]:
    """Repeat the last video, so that the batch can be sharded over the devices."""
    return np.concatenate([video, *[video[-1:]] * padding])
